// Compiled with -mavx2 and called only where the processor has it. A product of a pixel and a 23-bit weight is built
// from two exact 16-bit multiplications (vpmaddwd), so the bytes equal the portable kernels'.
#include <immintrin.h>

#include <algorithm>

#include "resample.hpp"

namespace edgevlm {
namespace {

// Where the bytes of four neighbouring pixels go: r0 r1 g0 g1 b0 b1 as 16-bit words in lane 0, pixels 2, 3 in lane 1.
__m256i gather_mask(PixelLayout layout) {
    alignas(32) std::uint8_t mask[32];
    const int channel[3] = {layout.red, layout.green, layout.blue};
    for (int word = 0; word < 16; ++word) {
        const int slot = word % 8 / 2;
        const int pixel = word / 8 * 2 + word % 2;
        mask[2 * word] = static_cast<std::uint8_t>(slot < 3 ? pixel * layout.bytes + channel[slot] : 0x80);
        mask[2 * word + 1] = 0x80;
    }
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(mask));
}

__m256i load(const std::int16_t* aligned) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(aligned)); }

__m256i whole(__m256i high, __m256i low) { return _mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low); }

// One output pixel before rounding: red, green and blue in 32-bit words, halved between the two lanes. The number of
// groups is a constant (0: only known at run time), so that the loop is unrolled.
template <int kGroups>
__m256i weighted(const std::uint8_t* pixel, __m256i mask, int bytes, const ColumnGroup* weight, int groups) {
    __m256i high = _mm256_setzero_si256(), low = _mm256_setzero_si256();
    for (int group = 0; group < (kGroups > 0 ? kGroups : groups); ++group, pixel += kGroup * bytes) {
        const __m128i four = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel));
        const __m256i words = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(four), mask);
        high = _mm256_add_epi32(high, _mm256_madd_epi16(words, load(weight[group].high)));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(words, load(weight[group].low)));
    }
    return whole(high, low);
}

// The lanes of two pixels added up: one pixel in each lane, rounded to bytes in 32-bit words.
__m256i finish(__m256i first, __m256i second) {
    const __m256i lower = _mm256_permute2x128_si256(first, second, 0x20);
    const __m256i upper = _mm256_permute2x128_si256(first, second, 0x31);
    const __m256i total = _mm256_add_epi32(lower, upper);
    return _mm256_srai_epi32(_mm256_add_epi32(total, _mm256_set1_epi32(1 << (kPrecisionBits - 1))), kPrecisionBits);
}

template <int kGroups>
void columns(const std::uint8_t* row, PixelLayout layout, const Taps& taps, const PackedTaps& packed,
             std::uint8_t* rgbx) {
    const __m256i mask = gather_mask(layout);
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
    const int* const first = taps.first.data();
    const ColumnGroup* const weight = packed.columns.data();
    const int last = taps.size_out() - 1, groups = taps.stride / kGroup, bytes = layout.bytes;
    for (int position = 0; position <= last; position += 4, rgbx += 4 * kRgbx) {
        const auto pixel = [&](int i) {  // past the end the last pixel again: the row has room for it
            const int at = std::min(position + i, last);
            return weighted<kGroups>(row + static_cast<std::ptrdiff_t>(first[at]) * bytes, mask, bytes,
                                     weight + static_cast<std::ptrdiff_t>(at) * groups, groups);
        };
        const __m256i words = _mm256_packs_epi32(finish(pixel(0), pixel(1)), finish(pixel(2), pixel(3)));
        const __m256i ordered = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words, words), in_order);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(rgbx), _mm256_castsi256_si128(ordered));
    }
}

void any_columns(const std::uint8_t* row, PixelLayout layout, const Taps& taps, const PackedTaps& packed,
                 std::uint8_t* rgbx) {
    constexpr ColumnPass by_groups[] = {columns<0>, columns<1>, columns<2>, columns<3>, columns<4>,
                                        columns<5>, columns<6>, columns<7>, columns<8>};
    const int groups = taps.stride / kGroup;
    by_groups[groups <= 8 ? groups : 0](row, layout, taps, packed, rgbx);
}

void rows(const std::uint8_t* rgbx, std::ptrdiff_t pitch, const Taps& taps, const PackedTaps& packed, int position,
          std::uint8_t* out) {
    const std::uint8_t* const top = rgbx + taps.first[position] * pitch;
    const std::int32_t* const weights = packed.rows.data() + static_cast<std::size_t>(position) * taps.stride;
    const int count = taps.count[position];
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (kPrecisionBits - 1));
    for (std::ptrdiff_t block = 0; block < pitch; block += kBlock) {
        __m256i high[4] = {zero, zero, zero, zero}, low[4] = {half, half, half, half};
        for (int tap = 0; tap < count; tap += 2) {
            const std::uint8_t* const upper = top + tap * pitch + block;
            const std::uint8_t* const lower = tap + 1 < count ? upper + pitch : upper;  // past the end the weight is 0
            const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(upper));
            const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lower));
            const __m256i near = _mm256_unpacklo_epi8(a, b), far = _mm256_unpackhi_epi8(a, b);
            const __m256i words[4] = {_mm256_unpacklo_epi8(near, zero), _mm256_unpackhi_epi8(near, zero),
                                      _mm256_unpacklo_epi8(far, zero), _mm256_unpackhi_epi8(far, zero)};
            const __m256i weight_high = _mm256_set1_epi32(weights[tap]);
            const __m256i weight_low = _mm256_set1_epi32(weights[tap + 1]);
            for (int i = 0; i < 4; ++i) {
                high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(words[i], weight_high));
                low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(words[i], weight_low));
            }
        }
        __m256i total[4];
        for (int i = 0; i < 4; ++i) {
            total[i] = _mm256_srai_epi32(whole(high[i], low[i]), kPrecisionBits);
        }
        const __m256i bytes =
            _mm256_packus_epi16(_mm256_packs_epi32(total[0], total[1]), _mm256_packs_epi32(total[2], total[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + block), bytes);
    }
}

}  // namespace

Kernels avx2_kernels() { return {"avx2", any_columns, rows}; }

}  // namespace edgevlm
