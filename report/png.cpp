// See png.h.   Source: the PNG specification (ISO/IEC 15948): chunks of length, name, data, CRC.
#include "report/png.h"

#include <zlib.h>

#include "core/error.h"

namespace pyramoe::report {
namespace {

std::string big_endian(uint32_t n) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(n >> shift & 0xFF);
  return out;
}

std::string chunk(const std::string& name, const std::string& data) {
  const std::string body = name + data;
  const auto* bytes = reinterpret_cast<const Bytef*>(body.data());
  const uLong crc = crc32(0, bytes, static_cast<uInt>(body.size()));
  return big_endian(static_cast<uint32_t>(data.size())) + body +
         big_endian(static_cast<uint32_t>(crc));
}

std::string deflated(const std::string& text) {
  uLongf size = compressBound(static_cast<uLong>(text.size()));
  std::string out(size, '\0');
  const int code = compress2(reinterpret_cast<Bytef*>(out.data()), &size,
                             reinterpret_cast<const Bytef*>(text.data()),
                             static_cast<uLong>(text.size()), Z_BEST_COMPRESSION);
  PM_CHECK(code == Z_OK, "png: zlib says ", code);
  out.resize(size);
  return out;
}

}  // namespace

std::string png(int64_t width, int64_t height, const std::vector<uint8_t>& pixels,
                const Palette& palette) {
  PM_CHECK(width > 0 && height > 0 && static_cast<int64_t>(pixels.size()) == width * height,
           "png: ", pixels.size(), " pixels for ", width, " x ", height);
  std::string colours, opacities, rows;
  for (const Pixel& p : palette) {
    for (const uint8_t c : {p.red, p.green, p.blue}) colours += static_cast<char>(c);
    opacities += static_cast<char>(p.opacity);
  }
  for (int64_t y = 0; y < height; ++y) {
    rows += '\0';  // this row is not filtered
    rows.append(reinterpret_cast<const char*>(pixels.data() + y * width),
                static_cast<size_t>(width));
  }
  const std::string size =
      big_endian(static_cast<uint32_t>(width)) + big_endian(static_cast<uint32_t>(height));
  const std::string kind = {8, 3, 0, 0, 0};  // 8 bits, palette, deflate, no interlacing
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", size + kind) + chunk("PLTE", colours) +
         chunk("tRNS", opacities) + chunk("IDAT", deflated(rows)) + chunk("IEND", "");
}

std::string base64(std::string_view bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = 0;
    for (size_t j = 0; j < 3; ++j) {
      three = three << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0u);
    }
    for (size_t j = 0; j < 4; ++j) {
      out += i + j > bytes.size() ? '=' : kDigits[three >> (18 - 6 * j) & 63];
    }
  }
  return out;
}

std::string png_address(int64_t width, int64_t height, const std::vector<uint8_t>& pixels,
                        const Palette& palette) {
  return "data:image/png;base64," + base64(png(width, height, pixels, palette));
}

}  // namespace pyramoe::report
