#include "taps.hpp"

#include <algorithm>
#include <cmath>

namespace edgevlm {
namespace {

constexpr double kA = -0.5;  // Pillow's bicubic
constexpr double kPi = 3.14159265358979323846;

double sinc(double x) {
    if (x == 0.0) {
        return 1.0;
    }
    x *= kPi;
    return std::sin(x) / x;
}

double reach(Filter filter) {
    switch (filter) {
        case Filter::bilinear:
            return 1.0;
        case Filter::bicubic:
            return 2.0;
        default:
            return 3.0;
    }
}

double kernel(double x, Filter filter) {
    if (filter == Filter::lanczos) {
        return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
    }
    x = std::fabs(x);
    if (filter == Filter::bilinear) {
        return x < 1.0 ? 1.0 - x : 0.0;
    }
    if (x < 1.0) {
        return ((kA + 2.0) * x - (kA + 3.0)) * x * x + 1;
    }
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * kA : 0.0;
}

std::int32_t to_fixed(double weight) {
    const double scaled = weight * (1 << kPrecisionBits);
    return static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

}  // namespace

Taps Taps::slice(int begin, int size) const {
    Taps part;
    part.size_in = size_in;
    part.stride = stride;
    part.first.assign(first.begin() + begin, first.begin() + begin + size);
    part.count.assign(count.begin() + begin, count.begin() + begin + size);
    part.weight.assign(row(begin), row(begin) + static_cast<std::size_t>(size) * stride);
    return part;
}

Taps make_taps(int size_in, int size_out, Filter filter) {
    const double scale = static_cast<double>(size_in) / size_out;
    const double stretch = std::max(scale, 1.0);
    const double support = reach(filter) * stretch;
    const double shrink = 1.0 / stretch;
    const int width = static_cast<int>(std::ceil(support)) * 2 + 1;
    Taps taps;
    taps.size_in = size_in;
    taps.stride = (width + kGroup - 1) / kGroup * kGroup;
    taps.first.resize(size_out);
    taps.count.resize(size_out);
    taps.weight.assign(static_cast<std::size_t>(size_out) * taps.stride, 0);
    std::vector<double> row(width);
    for (int position = 0; position < size_out; ++position) {
        const double center = (position + 0.5) * scale;
        const int first = std::max(static_cast<int>(center - support + 0.5), 0);
        const int last = std::min(static_cast<int>(center + support + 0.5), size_in);
        double total = 0.0;
        for (int place = first; place < last; ++place) {
            row[place - first] = kernel((place - center + 0.5) * shrink, filter);
            total += row[place - first];
        }
        taps.first[position] = first;
        taps.count[position] = last - first;
        std::int32_t* const out = taps.weight.data() + static_cast<std::size_t>(position) * taps.stride;
        for (int i = 0; i < last - first; ++i) {
            out[i] = to_fixed(row[i] / total);
        }
    }
    return taps;
}

}  // namespace edgevlm
