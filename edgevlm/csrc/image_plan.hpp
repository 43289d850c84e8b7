// uint8 camera frame -> resize -> crop -> pad -> normalize -> float32 planes, prepared once for one camera.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "resample.hpp"

namespace edgevlm {

struct Size {
    int height = 0;
    int width = 0;
};

struct ImagePlanSpec {
    Size source;
    PixelLayout layout;
    Size resized;  // equal to source: no resize
    Filter filter = Filter::bilinear;
    int crop_top = 0;  // the crop lies in the resized picture
    int crop_left = 0;
    Size crop;
    Size output;  // at least the crop, which lies in its top left corner
    std::uint8_t fill = 0;
    std::vector<float> table;  // 3 x 256: the model's number for each byte of red, green and blue
};

class ImagePlan {
  public:
    // Throws std::invalid_argument where the sizes do not fit each other.
    explicit ImagePlan(ImagePlanSpec spec, Kernels kernels = best_kernels());

    // `row_stride` bytes from row to row, pixels side by side; `out` is (3, output.height, output.width).
    // Allocates nothing. Calls from several threads take turns: the plan owns scratch memory.
    void run(const std::uint8_t* image, std::ptrdiff_t row_stride, float* out);

    // As `run`, before the table and the padding: `out` is RGB (crop.height, crop.width, 3).
    void run_bytes(const std::uint8_t* image, std::ptrdiff_t row_stride, std::uint8_t* out);

    const ImagePlanSpec& spec() const { return spec_; }
    const char* kernels() const { return kernels_.name; }

  private:
    template <typename Write>
    void each_row(const std::uint8_t* image, std::ptrdiff_t row_stride, Write write);
    void fill_rows(const std::uint8_t* image, std::ptrdiff_t row_stride);
    const std::uint8_t* readable_row(const std::uint8_t* image, std::ptrdiff_t row_stride, int row);
    void unpack(const std::uint8_t* row, std::uint8_t* rgbx) const;
    void write_row(const std::uint8_t* rgbx, int row, float* out) const;
    void write_fill(float* out) const;

    ImagePlanSpec spec_;
    Kernels kernels_;
    std::optional<Taps> columns_, rows_;
    PackedTaps packed_columns_, packed_rows_;
    int first_row_ = 0;  // source rows [first_row_, last_row_) are needed
    int last_row_ = 0;
    std::ptrdiff_t pitch_ = 0;
    std::ptrdiff_t overread_ = 0;
    std::vector<std::uint8_t> wide_, line_, tail_;
    std::mutex mutex_;
};

}  // namespace edgevlm
