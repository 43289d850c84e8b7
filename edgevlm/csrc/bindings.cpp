// edgevlm._native: checks what Python hands over, lets go of the GIL, calls the core.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <string>
#include <tuple>
#include <utility>

#include "image_plan.hpp"

namespace nb = nanobind;
using namespace edgevlm;

namespace {

using Frame = nb::ndarray<const std::uint8_t, nb::device::cpu>;
using Table = nb::ndarray<const float, nb::shape<3, 256>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::shape<1, 3, -1, -1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using HeightWidth = std::pair<int, int>;

Size size(HeightWidth pair) { return {pair.first, pair.second}; }

Filter named(const std::string& filter) {
    if (filter == "bilinear") {
        return Filter::bilinear;
    }
    if (filter == "bicubic") {
        return Filter::bicubic;
    }
    if (filter == "lanczos") {
        return Filter::lanczos;
    }
    throw nb::value_error("filter: expected bilinear, bicubic or lanczos");
}

void make(ImagePlan* self, HeightWidth source, std::tuple<int, int, int, int> layout, HeightWidth resized,
          const std::string& filter, HeightWidth crop_corner, HeightWidth crop, HeightWidth output, std::uint8_t fill,
          Table table) {
    ImagePlanSpec spec;
    spec.source = size(source);
    const auto [bytes, red, green, blue] = layout;
    spec.layout = {bytes, red, green, blue};
    spec.resized = size(resized);
    spec.filter = named(filter);
    spec.crop_top = crop_corner.first;
    spec.crop_left = crop_corner.second;
    spec.crop = size(crop);
    spec.output = size(output);
    spec.fill = fill;
    spec.table.assign(table.data(), table.data() + 3 * 256);
    new (self) ImagePlan(std::move(spec));
}

void check_frame(const ImagePlan& plan, const Frame& image) {
    const ImagePlanSpec& spec = plan.spec();
    const int bytes = spec.layout.bytes;
    const bool flat = image.ndim() == 2 && bytes == 1;
    const bool deep = image.ndim() == 3 && static_cast<int>(image.shape(2)) == bytes && image.stride(2) == 1;
    if (!(flat || deep) || static_cast<int>(image.shape(0)) != spec.source.height ||
        static_cast<int>(image.shape(1)) != spec.source.width || image.stride(1) != bytes ||
        image.stride(0) < 0) {
        throw nb::value_error("frame: expected uint8 (height, width, channels) of the plan, pixels side by side");
    }
}

void run(ImagePlan& plan, const Frame& image, const Output& out) {
    check_frame(plan, image);
    const ImagePlanSpec& spec = plan.spec();
    if (static_cast<int>(out.shape(2)) != spec.output.height || static_cast<int>(out.shape(3)) != spec.output.width) {
        throw nb::value_error("out: expected contiguous float32 (1, 3, height, width) of the plan");
    }
    const std::uint8_t* const pixels = image.data();
    const std::ptrdiff_t row_stride = image.stride(0);
    float* const planes = out.data();
    const nb::gil_scoped_release release;
    plan.run(pixels, row_stride, planes);
}

void run_bytes(ImagePlan& plan, const Frame& image, const Bytes& out) {
    check_frame(plan, image);
    const Size crop = plan.spec().crop;
    if (static_cast<int>(out.shape(0)) != crop.height || static_cast<int>(out.shape(1)) != crop.width) {
        throw nb::value_error("out: expected contiguous uint8 (height, width, 3) of the plan's crop");
    }
    const std::uint8_t* const pixels = image.data();
    const std::ptrdiff_t row_stride = image.stride(0);
    std::uint8_t* const bytes = out.data();
    const nb::gil_scoped_release release;
    plan.run_bytes(pixels, row_stride, bytes);
}

}  // namespace

NB_MODULE(_native, module) {
    nb::class_<ImagePlan>(module, "ImagePlan")
        .def("__init__", &make, nb::kw_only(), nb::arg("source"), nb::arg("layout"), nb::arg("resized"),
             nb::arg("filter"), nb::arg("crop_corner"), nb::arg("crop"), nb::arg("output"), nb::arg("fill"),
             nb::arg("table").noconvert())
        .def("run", &run, nb::arg("image").noconvert(), nb::arg("out").noconvert())
        .def("run_bytes", &run_bytes, nb::arg("image").noconvert(), nb::arg("out").noconvert())
        .def_prop_ro("kernels", [](const ImagePlan& plan) { return plan.kernels(); });
}
