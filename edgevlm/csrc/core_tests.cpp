// The core on its own: no Python, no framework. Every check names what it claims; any failure makes the exit status 1.
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "image_plan.hpp"

using namespace edgevlm;

namespace {

int failures = 0;

void claim(bool holds, const std::string& what) {
    if (!holds) {
        ++failures;
        std::fprintf(stderr, "FAILED: %s\n", what.c_str());
    }
}

std::mt19937 random_source(20);

constexpr Filter kFilters[] = {Filter::bilinear, Filter::bicubic, Filter::lanczos};

int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_source); }

std::vector<float> bytes_as_numbers() {
    std::vector<float> table;
    for (int channel = 0; channel < 3; ++channel) {
        for (int byte = 0; byte < 256; ++byte) {
            table.push_back(static_cast<float>(byte));
        }
    }
    return table;
}

ImagePlanSpec resize_spec(Size source, Size output, Filter filter) {
    ImagePlanSpec spec;
    spec.source = source;
    spec.resized = spec.crop = spec.output = output;
    spec.filter = filter;
    spec.table = bytes_as_numbers();
    return spec;
}

// Exactly the bytes of the frame and no more, so that the sanitizer sees every read past its end.
std::vector<std::uint8_t> frame(Size size, int bytes, int padding, int value = -1) {
    const std::size_t pitch = static_cast<std::size_t>(size.width) * bytes + padding;
    std::vector<std::uint8_t> pixels(pitch * (size.height - 1) + static_cast<std::size_t>(size.width) * bytes);
    for (std::uint8_t& byte : pixels) {
        byte = static_cast<std::uint8_t>(value >= 0 ? value : draw(0, 255));
    }
    return pixels;
}

std::vector<float> run(ImagePlan& plan, const std::vector<std::uint8_t>& pixels, int padding) {
    const ImagePlanSpec& spec = plan.spec();
    std::vector<float> out(static_cast<std::size_t>(3) * spec.output.height * spec.output.width, -1.0F);
    plan.run(pixels.data(), static_cast<std::ptrdiff_t>(spec.source.width) * spec.layout.bytes + padding, out.data());
    return out;
}

void weights_sum_to_one() {
    for (int i = 0; i < 200; ++i) {
        const Taps taps = make_taps(draw(1, 700), draw(1, 300), kFilters[i % 3]);
        for (int position = 0; position < taps.size_out(); ++position) {
            long total = 0;
            for (int tap = 0; tap < taps.stride; ++tap) {
                total += taps.row(position)[tap];
            }
            claim(std::labs(total - (1L << kPrecisionBits)) <= taps.stride, "the weights of a pixel sum to one");
            claim(taps.first[position] >= 0 && taps.first[position] + taps.count[position] <= taps.size_in,
                  "taps stay inside the input");
        }
    }
}

void bytes_are_the_numbers_before_the_table(ImagePlan& plan, const std::vector<std::uint8_t>& pixels, int padding) {
    const ImagePlanSpec& spec = plan.spec();
    const int area = spec.crop.height * spec.crop.width;
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(3) * area);
    plan.run_bytes(pixels.data(), static_cast<std::ptrdiff_t>(spec.source.width) * spec.layout.bytes + padding,
                   bytes.data());
    const auto numbers = run(plan, pixels, padding);
    bool same = true;
    for (int place = 0; place < area; ++place) {
        for (int channel = 0; channel < 3; ++channel) {
            same = same && numbers[channel * area + place] == bytes[place * 3 + channel];
        }
    }
    claim(same, "the bytes are the numbers before the table, pixel by pixel");
}

void all_kernels_give_the_same_bytes() {
    const PixelLayout layouts[] = {{3, 0, 1, 2}, {3, 2, 1, 0}, {4, 0, 1, 2}, {4, 2, 1, 0}, {1, 0, 0, 0}};
    for (int i = 0; i < 300; ++i) {
        const Size source{draw(1, 70), draw(1, 70)};
        const Filter filter = kFilters[i % 3];
        ImagePlanSpec spec = resize_spec(source, {draw(1, 70), draw(1, 70)}, filter);
        spec.layout = layouts[i % 5];
        const int padding = draw(0, 9);
        const auto pixels = frame(source, spec.layout.bytes, padding);
        ImagePlan portable(spec, portable_kernels()), best(spec);
        claim(run(portable, pixels, padding) == run(best, pixels, padding), "portable and best kernels agree");
        bytes_are_the_numbers_before_the_table(best, pixels, padding);
    }
}

void a_flat_picture_stays_flat() {
    for (int value = 0; value < 256; value += 15) {
        ImagePlan plan(resize_spec({31, 57}, {13, 80}, Filter::bicubic));
        for (const float number : run(plan, frame({31, 57}, 3, 5, value), 5)) {
            claim(number == static_cast<float>(value), "a flat picture stays flat");
        }
    }
}

void the_same_size_is_a_copy() {
    ImagePlan plan(resize_spec({4, 5}, {4, 5}, Filter::bilinear));
    const auto pixels = frame({4, 5}, 3, 0);
    const auto out = run(plan, pixels, 0);
    for (int place = 0; place < 20; ++place) {
        for (int channel = 0; channel < 3; ++channel) {
            claim(out[channel * 20 + place] == pixels[place * 3 + channel], "the same size is a copy, plane by plane");
        }
    }
}

void a_crop_and_a_pad_are_where_they_belong() {
    ImagePlanSpec spec = resize_spec({2, 3}, {2, 3}, Filter::bilinear);
    spec.crop_left = 1;
    spec.crop = {1, 2};
    spec.output = {2, 3};
    spec.fill = 9;
    ImagePlan plan(spec);
    const std::vector<std::uint8_t> pixels = {1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6};
    const std::vector<float> plane = {2, 3, 9, 9, 9, 9};
    const auto out = run(plan, pixels, 0);
    for (int i = 0; i < 18; ++i) {
        claim(out[i] == plane[i % 6], "the crop lies in the top left corner, the fill around it");
    }
}

void sizes_that_do_not_fit_are_refused() {
    ImagePlanSpec outside = resize_spec({4, 4}, {4, 4}, Filter::bilinear);
    outside.crop_top = 1;
    ImagePlanSpec empty = resize_spec({4, 4}, {4, 0}, Filter::bilinear);
    ImagePlanSpec no_table = resize_spec({4, 4}, {4, 4}, Filter::bilinear);
    no_table.table.clear();
    for (const ImagePlanSpec& spec : {outside, empty, no_table}) {
        bool refused = false;
        try {
            ImagePlan plan(spec);
        } catch (const std::invalid_argument&) {
            refused = true;
        }
        claim(refused, "sizes that do not fit are refused");
    }
}

}  // namespace

int main() {
    weights_sum_to_one();
    all_kernels_give_the_same_bytes();
    a_flat_picture_stays_flat();
    the_same_size_is_a_copy();
    a_crop_and_a_pad_are_where_they_belong();
    sizes_that_do_not_fit_are_refused();
    std::printf("kernels: %s; failures: %d\n", best_kernels().name, failures);
    return failures == 0 ? 0 : 1;
}
