// The two passes of a separable resize. Between them a picture is RGBX: four bytes a pixel, the fourth is unused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "taps.hpp"

namespace edgevlm {

constexpr int kRgbx = 4;
constexpr int kBlock = 32;     // rows of RGBX are padded to whole blocks

// How a pixel of the camera lies in memory.
struct PixelLayout {
    int bytes = 3;
    int red = 0;
    int green = 1;
    int blue = 2;
};

// Four taps of a column pass: taps 0 1 0 1 0 1 0 1 in the lower lane, 2 3 2 3 2 3 2 3 in the upper. One cache line.
struct alignas(64) ColumnGroup {
    std::int16_t high[16];
    std::int16_t low[16];
};

// Taps as the vector kernels want them: 16-bit halves of each weight, in the order of use.
struct PackedTaps {
    std::vector<ColumnGroup> columns;  // taps.stride / kGroup for each output pixel
    std::vector<std::int32_t> rows;    // per pair of taps: both high halves in one word, both low halves in the next
};

PackedTaps pack(const Taps& taps);

// How far beyond a row's last pixel a column pass may read: it takes taps.stride pixels each time, 16 bytes at once.
inline std::ptrdiff_t overread(PixelLayout layout, const Taps& taps) {
    return static_cast<std::ptrdiff_t>(taps.stride) * layout.bytes + 16;
}

// One row of camera pixels -> taps.size_out() pixels of RGBX, which may be filled up to a whole block.
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
