// The two passes of a separable resize. Between them a picture is RGBX: four bytes a pixel, the fourth is unused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "taps.hpp"

namespace edgevlm {

constexpr int kRgbx = 4;
constexpr int kOverread = 16;  // a vectorised column pass may read this far beyond a row's last pixel
constexpr int kBlock = 32;     // rows of RGBX are padded to whole blocks

// How a pixel of the camera lies in memory.
struct PixelLayout {
    int bytes = 3;
    int red = 0;
    int green = 1;
    int blue = 2;
};

// Taps as the vector kernels want them: 16-bit halves of each weight, in the order of use.
struct PackedTaps {
    std::vector<std::int16_t> columns;  // per group of 4 taps: 16 high halves, 16 low halves (two lanes of pairs)
    std::vector<std::int32_t> rows;     // per pair of taps: both high halves in one word, both low halves in the next
};

PackedTaps pack(const Taps& taps);

// One row of camera pixels -> taps.size_out() pixels of RGBX. The row must have kOverread readable bytes after it.
using ColumnPass = void (*)(const std::uint8_t* row, PixelLayout layout, const Taps& taps, const PackedTaps& packed,
                            std::uint8_t* rgbx);

// Rows of RGBX, `pitch` bytes apart (a multiple of kBlock) -> output row `position`, `pitch` bytes.
using RowPass = void (*)(const std::uint8_t* rgbx, std::ptrdiff_t pitch, const Taps& taps, const PackedTaps& packed,
                         int position, std::uint8_t* out);

struct Kernels {
    const char* name;
    ColumnPass columns;
    RowPass rows;
};

Kernels portable_kernels();
Kernels best_kernels();  // the fastest this processor runs; every choice gives the same bytes

#ifdef EDGEVLM_HAS_AVX2
Kernels avx2_kernels();
#endif

}  // namespace edgevlm
