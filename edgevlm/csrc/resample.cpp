#include "resample.hpp"

#include <algorithm>

namespace edgevlm {
namespace {

std::int16_t high_half(std::int32_t weight) { return static_cast<std::int16_t>(weight >> kLowBits); }
std::int16_t low_half(std::int32_t weight) { return static_cast<std::int16_t>(weight & ((1 << kLowBits) - 1)); }

std::int32_t pair(std::int16_t first, std::int16_t second) {
    return static_cast<std::int32_t>(static_cast<std::uint16_t>(first) |
                                     static_cast<std::uint32_t>(static_cast<std::uint16_t>(second)) << 16);
}

std::uint8_t clip(std::int32_t total) {
    return static_cast<std::uint8_t>(std::clamp(total >> kPrecisionBits, 0, 255));
}

void portable_columns(const std::uint8_t* row, PixelLayout layout, const Taps& taps, const PackedTaps&,
                      std::uint8_t* rgbx) {
    constexpr std::int32_t half = 1 << (kPrecisionBits - 1);
    for (int position = 0; position < taps.size_out(); ++position, rgbx += kRgbx) {
        const std::int32_t* const weight = taps.row(position);
        const std::uint8_t* pixel = row + static_cast<std::ptrdiff_t>(taps.first[position]) * layout.bytes;
        std::int32_t red = half, green = half, blue = half;
        for (int tap = 0; tap < taps.count[position]; ++tap, pixel += layout.bytes) {
            red += pixel[layout.red] * weight[tap];
            green += pixel[layout.green] * weight[tap];
            blue += pixel[layout.blue] * weight[tap];
        }
        rgbx[0] = clip(red);
        rgbx[1] = clip(green);
        rgbx[2] = clip(blue);
        rgbx[3] = 0;
    }
}

void portable_rows(const std::uint8_t* rgbx, std::ptrdiff_t pitch, const Taps& taps, const PackedTaps&, int position,
                   std::uint8_t* out) {
    const std::int32_t* const weight = taps.row(position);
    const std::uint8_t* const top = rgbx + taps.first[position] * pitch;
    for (std::ptrdiff_t block = 0; block < pitch; block += kBlock) {
        std::int32_t total[kBlock];
        std::fill(total, total + kBlock, 1 << (kPrecisionBits - 1));
        for (int tap = 0; tap < taps.count[position]; ++tap) {
            const std::uint8_t* const in = top + tap * pitch + block;
            for (int i = 0; i < kBlock; ++i) {
                total[i] += in[i] * weight[tap];
            }
        }
        for (int i = 0; i < kBlock; ++i) {
            out[block + i] = clip(total[i]);
        }
    }
}

}  // namespace

PackedTaps pack(const Taps& taps) {
    PackedTaps packed;
    packed.columns.reserve(static_cast<std::size_t>(taps.size_out()) * taps.stride / kGroup);
    packed.rows.reserve(static_cast<std::size_t>(taps.size_out()) * taps.stride);
    for (int position = 0; position < taps.size_out(); ++position) {
        const std::int32_t* const weight = taps.row(position);
        for (int group = 0; group < taps.stride; group += kGroup) {
            ColumnGroup lanes;
            for (int entry = 0; entry < 16; ++entry) {
                const std::int32_t whole = weight[group + entry / 8 * 2 + entry % 2];
                lanes.high[entry] = high_half(whole);
                lanes.low[entry] = low_half(whole);
            }
            packed.columns.push_back(lanes);
        }
        for (int tap = 0; tap < taps.stride; tap += 2) {
            packed.rows.push_back(pair(high_half(weight[tap]), high_half(weight[tap + 1])));
            packed.rows.push_back(pair(low_half(weight[tap]), low_half(weight[tap + 1])));
        }
    }
    return packed;
}

Kernels portable_kernels() { return {"portable", portable_columns, portable_rows}; }

Kernels best_kernels() {
#ifdef EDGEVLM_HAS_AVX2
    if (__builtin_cpu_supports("avx2")) {
        return avx2_kernels();
    }
#endif
    return portable_kernels();
}

}  // namespace edgevlm
