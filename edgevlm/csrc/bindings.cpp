// edgevlm._native: checks what Python hands over, lets go of the GIL, calls the core.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <tuple>
#include <utility>

#include "image_plan.hpp"

namespace nb = nanobind;
using namespace edgevlm;

namespace {

using Frame = nb::ndarray<const std::uint8_t, nb::device::cpu>;
using Table = nb::ndarray<const float, nb::shape<3, 256>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::shape<1, 3, -1, -1>, nb::c_contig, nb::device::cpu>;
using HeightWidth = std::pair<int, int>;

Size size(HeightWidth pair) { return {pair.first, pair.second}; }

void make(ImagePlan* self, HeightWidth source, std::tuple<int, int, int, int> layout, HeightWidth resized, bool bicubic,
          HeightWidth crop_corner, HeightWidth crop, HeightWidth output, std::uint8_t fill, Table table) {
    ImagePlanSpec spec;
    spec.source = size(source);
    const auto [bytes, red, green, blue] = layout;
    spec.layout = {bytes, red, green, blue};
    spec.resized = size(resized);
    spec.filter = bicubic ? Filter::bicubic : Filter::bilinear;
    spec.crop_top = crop_corner.first;
    spec.crop_left = crop_corner.second;
    spec.crop = size(crop);
    spec.output = size(output);
    spec.fill = fill;
    spec.table.assign(table.data(), table.data() + 3 * 256);
    new (self) ImagePlan(std::move(spec));
}

void run(ImagePlan& plan, const Frame& image, const Output& out) {
    const ImagePlanSpec& spec = plan.spec();
    const int bytes = spec.layout.bytes;
    const bool flat = image.ndim() == 2 && bytes == 1;
    const bool deep = image.ndim() == 3 && static_cast<int>(image.shape(2)) == bytes && image.stride(2) == 1;
    if (!(flat || deep) || static_cast<int>(image.shape(0)) != spec.source.height ||
        static_cast<int>(image.shape(1)) != spec.source.width || image.stride(1) != bytes ||
        image.stride(0) < 0) {
        throw nb::value_error("frame: expected uint8 (height, width, channels) of the plan, pixels side by side");
    }
    if (static_cast<int>(out.shape(2)) != spec.output.height || static_cast<int>(out.shape(3)) != spec.output.width) {
        throw nb::value_error("out: expected contiguous float32 (1, 3, height, width) of the plan");
    }
    const std::uint8_t* const pixels = image.data();
    const std::ptrdiff_t row_stride = image.stride(0);
    float* const planes = out.data();
    const nb::gil_scoped_release release;
    plan.run(pixels, row_stride, planes);
}

}  // namespace

NB_MODULE(_native, module) {
    nb::class_<ImagePlan>(module, "ImagePlan")
        .def("__init__", &make, nb::kw_only(), nb::arg("source"), nb::arg("layout"), nb::arg("resized"),
             nb::arg("bicubic"), nb::arg("crop_corner"), nb::arg("crop"), nb::arg("output"), nb::arg("fill"),
             nb::arg("table").noconvert())
        .def("run", &run, nb::arg("image").noconvert(), nb::arg("out").noconvert())
        .def_prop_ro("kernels", [](const ImagePlan& plan) { return plan.kernels(); });
}
