#include "image_plan.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace edgevlm {
namespace {

void require(bool holds, const char* expectation) {
    if (!holds) {
        throw std::invalid_argument(expectation);
    }
}

bool positive(Size size) { return size.height > 0 && size.width > 0; }

void check(const ImagePlanSpec& spec) {
    const int bytes = spec.layout.bytes;
    require(positive(spec.source) && positive(spec.resized) && positive(spec.crop) && positive(spec.output),
            "image plan: expected every size to be at least 1x1");
    require(bytes == 1 || bytes == 3 || bytes == 4, "image plan: expected 1, 3 or 4 bytes a pixel");
    for (const int channel : {spec.layout.red, spec.layout.green, spec.layout.blue}) {
        require(channel >= 0 && channel < bytes, "image plan: expected channels inside a pixel");
    }
    require(spec.crop_top >= 0 && spec.crop_top + spec.crop.height <= spec.resized.height && spec.crop_left >= 0 &&
                spec.crop_left + spec.crop.width <= spec.resized.width,
            "image plan: expected the crop inside the resized picture");
    require(spec.output.height >= spec.crop.height && spec.output.width >= spec.crop.width,
            "image plan: expected the output to hold the crop");
    require(spec.table.size() == 3 * 256, "image plan: expected a table of 3 x 256 numbers");
}

}  // namespace

ImagePlan::ImagePlan(ImagePlanSpec spec, Kernels kernels) : spec_(std::move(spec)), kernels_(kernels) {
    check(spec_);
    first_row_ = spec_.crop_top;
    last_row_ = spec_.crop_top + spec_.crop.height;
    if (spec_.resized.width != spec_.source.width) {
        columns_ = make_taps(spec_.source.width, spec_.resized.width, spec_.filter)
                       .slice(spec_.crop_left, spec_.crop.width);
        packed_columns_ = pack(*columns_);
    }
    if (spec_.resized.height != spec_.source.height) {
        rows_ = make_taps(spec_.source.height, spec_.resized.height, spec_.filter)
                    .slice(spec_.crop_top, spec_.crop.height);
        packed_rows_ = pack(*rows_);
        first_row_ = rows_->first.front();
        last_row_ = rows_->first.back() + rows_->count.back();
        for (int& first : rows_->first) {
            first -= first_row_;
        }
    }
    pitch_ = (static_cast<std::ptrdiff_t>(spec_.crop.width) * kRgbx + kBlock - 1) / kBlock * kBlock;
    wide_.resize(static_cast<std::size_t>(pitch_) * (last_row_ - first_row_));
    line_.resize(static_cast<std::size_t>(pitch_));
    overread_ = columns_ ? overread(spec_.layout, *columns_) : 0;
    tail_.resize(static_cast<std::size_t>(spec_.source.width) * spec_.layout.bytes + overread_);
}

// `write(rgbx, row)` gets every row of the crop, in order.
template <typename Write>
void ImagePlan::each_row(const std::uint8_t* image, std::ptrdiff_t row_stride, Write write) {
    const std::lock_guard<std::mutex> turn(mutex_);
    fill_rows(image, row_stride);
    for (int row = 0; row < spec_.crop.height; ++row) {
        if (rows_) {
            kernels_.rows(wide_.data(), pitch_, *rows_, packed_rows_, row, line_.data());
        }
        write(rows_ ? line_.data() : wide_.data() + row * pitch_, row);
    }
}

void ImagePlan::run(const std::uint8_t* image, std::ptrdiff_t row_stride, float* out) {
    each_row(image, row_stride, [&](const std::uint8_t* rgbx, int row) { write_row(rgbx, row, out); });
    write_fill(out);
}

void ImagePlan::run_bytes(const std::uint8_t* image, std::ptrdiff_t row_stride, std::uint8_t* out) {
    each_row(image, row_stride, [&](const std::uint8_t* rgbx, int) {
        for (int x = 0; x < spec_.crop.width; ++x, rgbx += kRgbx, out += 3) {
            out[0] = rgbx[0];
            out[1] = rgbx[1];
            out[2] = rgbx[2];
        }
    });
}

void ImagePlan::fill_rows(const std::uint8_t* image, std::ptrdiff_t row_stride) {
    std::uint8_t* rgbx = wide_.data();
    for (int row = first_row_; row < last_row_; ++row, rgbx += pitch_) {
        if (columns_) {
            kernels_.columns(readable_row(image, row_stride, row), spec_.layout, *columns_, packed_columns_, rgbx);
        } else {
            unpack(image + row * row_stride, rgbx);
        }
    }
}

// The row itself, or a copy where what the column pass reads after it would leave the frame.
const std::uint8_t* ImagePlan::readable_row(const std::uint8_t* image, std::ptrdiff_t row_stride, int row) {
    const std::uint8_t* const begin = image + row * row_stride;
    const std::ptrdiff_t left = (spec_.source.height - 1 - row) * row_stride;
    if (left >= overread_) {
        return begin;
    }
    std::memcpy(tail_.data(), begin, static_cast<std::size_t>(spec_.source.width) * spec_.layout.bytes);
    return tail_.data();
}

void ImagePlan::unpack(const std::uint8_t* row, std::uint8_t* rgbx) const {
    const PixelLayout layout = spec_.layout;
    const std::uint8_t* pixel = row + static_cast<std::ptrdiff_t>(spec_.crop_left) * layout.bytes;
    for (int x = 0; x < spec_.crop.width; ++x, pixel += layout.bytes, rgbx += kRgbx) {
        rgbx[0] = pixel[layout.red];
        rgbx[1] = pixel[layout.green];
        rgbx[2] = pixel[layout.blue];
        rgbx[3] = 0;
    }
}

void ImagePlan::write_row(const std::uint8_t* rgbx, int row, float* out) const {
    const std::size_t plane = static_cast<std::size_t>(spec_.output.height) * spec_.output.width;
    for (int channel = 0; channel < 3; ++channel) {
        const float* const table = spec_.table.data() + 256 * channel;
        float* const line = out + channel * plane + static_cast<std::size_t>(row) * spec_.output.width;
        for (int x = 0; x < spec_.crop.width; ++x) {
            line[x] = table[rgbx[x * kRgbx + channel]];
        }
    }
}

void ImagePlan::write_fill(float* out) const {
    const Size crop = spec_.crop, output = spec_.output;
    for (int channel = 0; channel < 3; ++channel) {
        const float value = spec_.table[256 * channel + spec_.fill];
        for (int row = 0; row < output.height; ++row, out += output.width) {
            std::fill(out + (row < crop.height ? crop.width : 0), out + output.width, value);
        }
    }
}

}  // namespace edgevlm
