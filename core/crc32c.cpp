// CRC-32C: table-driven by bytes, and three interleaved streams with SSE4.2.
//
// Checksums are linear over GF(2). So the checksum of A followed by B is the checksum of A, moved
// over |B| zero bytes, xor the checksum of B; moving is a multiplication by x^(8|B|) modulo the
// polynomial, done with one table a block length.
#include "core/crc32c.h"

#include <array>
#include <cstring>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

namespace pyramoe {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78u;  // Castagnoli, lowest power in the highest bit

using ByteTable = std::array<uint32_t, 256>;

constexpr ByteTable make_byte_table() {
  ByteTable table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) ? kPolynomial : 0u);
    table[byte] = crc;
  }
  return table;
}

constexpr ByteTable kByteTable = make_byte_table();

#if defined(__SSE4_2__)

// a * b modulo the polynomial; bit 31 is x^0.
constexpr uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b >> 1) ^ ((b & 1u) ? kPolynomial : 0u);
  }
  return product;
}

// Moves a checksum over `bytes` zero bytes: four look-ups.
struct ZeroShift {
  explicit ZeroShift(size_t bytes) {
    uint32_t power = 1u << 31;          // x^0
    uint32_t square = (1u << 31) >> 8;  // x^8, one zero byte
    for (size_t n = bytes; n != 0; n >>= 1) {
      if (n & 1u) power = multiply(power, square);
      square = multiply(square, square);
    }
    for (size_t k = 0; k < 4; ++k)
      for (uint32_t byte = 0; byte < 256; ++byte) table[k][byte] = multiply(byte << (8 * k), power);
  }
  uint32_t operator()(uint32_t crc) const {
    return table[0][crc & 255u] ^ table[1][(crc >> 8) & 255u] ^ table[2][(crc >> 16) & 255u] ^
           table[3][crc >> 24];
  }
  std::array<ByteTable, 4> table{};
};

uint64_t load8(const unsigned char* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

// Sums as many runs of 3 * kBlock bytes as there are; moves `p` and `n` past them.
template <size_t kBlock>
uint64_t sum_blocks(const unsigned char*& p, size_t& n, uint64_t crc) {
  static const ZeroShift shift(kBlock);
  while (n >= 3 * kBlock) {
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < kBlock; i += 8) {
      crc = _mm_crc32_u64(crc, load8(p + i));
      second = _mm_crc32_u64(second, load8(p + kBlock + i));
      third = _mm_crc32_u64(third, load8(p + 2 * kBlock + i));
    }
    crc = shift(static_cast<uint32_t>(crc)) ^ second;
    crc = shift(static_cast<uint32_t>(crc)) ^ third;
    p += 3 * kBlock;
    n -= 3 * kBlock;
  }
  return crc;
}

#endif

}  // namespace

uint32_t crc32c_portable(const void* data, size_t bytes, uint32_t before) {
  const auto* p = static_cast<const unsigned char*>(data);
  uint32_t crc = ~before;
  for (size_t i = 0; i < bytes; ++i) crc = (crc >> 8) ^ kByteTable[(crc ^ p[i]) & 255u];
  return ~crc;
}

#if defined(__SSE4_2__)

uint32_t crc32c(const void* data, size_t bytes, uint32_t before) {
  const auto* p = static_cast<const unsigned char*>(data);
  size_t n = bytes;
  uint64_t crc = static_cast<uint32_t>(~before);
  crc = sum_blocks<4096>(p, n, crc);
  crc = sum_blocks<256>(p, n, crc);
  for (; n >= 8; n -= 8, p += 8) crc = _mm_crc32_u64(crc, load8(p));
  auto tail = static_cast<uint32_t>(crc);
  for (; n > 0; --n, ++p) tail = _mm_crc32_u8(tail, *p);
  return ~tail;
}

#else

uint32_t crc32c(const void* data, size_t bytes, uint32_t before) {
  return crc32c_portable(data, bytes, before);
}

#endif

}  // namespace pyramoe
