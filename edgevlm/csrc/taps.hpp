// Resampling coefficients in fixed point, the same integers as Pillow's and as edgevlm/preprocess/filters.py's.
#pragma once

#include <cstdint>
#include <vector>

namespace edgevlm {

enum class Filter { bilinear, bicubic, lanczos };

constexpr int kPrecisionBits = 22;  // 32 bits, less 8 of the pixel, less 2 for overshoot
constexpr int kLowBits = 11;        // a weight is high * 2^11 + low, so that 16-bit multiplications stay exact
constexpr int kGroup = 4;           // taps are padded to whole groups with weight 0

// What each output pixel along one axis is made of: `count[i]` input pixels from `first[i]` on, weighted by
// `weight[i * stride ...]` in units of 2^-22.
struct Taps {
    int size_in = 0;
    int stride = 0;  // a multiple of kGroup
    std::vector<int> first;
    std::vector<int> count;
    std::vector<std::int32_t> weight;

    int size_out() const { return static_cast<int>(first.size()); }
    const std::int32_t* row(int position) const { return weight.data() + static_cast<std::size_t>(position) * stride; }
    Taps slice(int begin, int size) const;
};

// The antialiased filter. Sizes must be positive.
Taps make_taps(int size_in, int size_out, Filter filter);

}  // namespace edgevlm
