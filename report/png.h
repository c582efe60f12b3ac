// Small pictures inside a page: one byte a pixel, a palette with opacity, as a data: address.
// A map of thousands of cells is a few kilobytes this way, and shows the page's own background
// where the palette is clear.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pyramoe::report {

struct Pixel {
  uint8_t red = 0, green = 0, blue = 0, opacity = 0;
};
using Palette = std::array<Pixel, 256>;

// The bytes of a PNG file.   pixels  width * height entries of the palette, row by row from the top
std::string png(int64_t width, int64_t height, const std::vector<uint8_t>& pixels,
                const Palette& palette);
std::string base64(std::string_view bytes);
// "data:image/png;base64,…"
std::string png_address(int64_t width, int64_t height, const std::vector<uint8_t>& pixels,
                        const Palette& palette);

}  // namespace pyramoe::report
