#include "base/crc32c.h"

#include <array>

#include "base/endian.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace uthin {
namespace {

constexpr std::uint32_t polynomial = 0x82F63B78;

constexpr std::array<std::uint32_t, 256> make_table() {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t crc = i;
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? polynomial : 0);
        }
        table[i] = crc;
    }
    return table;
}

constexpr std::array<std::uint32_t, 256> table = make_table();

#if defined(__x86_64__)

// Three independent streams hide the instruction's latency of three cycles. Joining them needs the
// CRC of a block of zeros, which is a linear map of the register: one table of 4 x 256 words per
// stream length.
constexpr std::size_t lane_bytes = 1360;  // 3 lanes cover 4080 of a metadata block's 4092 bytes

using shift_table = std::array<std::array<std::uint32_t, 256>, 4>;

shift_table make_shift_table(std::size_t zero_bytes) {
    std::array<std::uint32_t, 32> images{};
    for (unsigned bit = 0; bit < 32; ++bit) {
        std::uint32_t crc = 1U << bit;
        for (std::size_t i = 0; i < zero_bytes; ++i) {
            crc = (crc >> 8) ^ table[crc & 0xFF];
        }
        images[bit] = crc;
    }
    shift_table shifts{};
    for (unsigned byte = 0; byte < 4; ++byte) {
        for (std::uint32_t value = 0; value < 256; ++value) {
            std::uint32_t image = 0;
            for (unsigned bit = 0; bit < 8; ++bit) {
                if ((value >> bit & 1) != 0) {
                    image ^= images[byte * 8 + bit];
                }
            }
            shifts[byte][value] = image;
        }
    }
    return shifts;
}

std::uint32_t shift(const shift_table& shifts, std::uint32_t crc) {
    return shifts[0][crc & 0xFF] ^ shifts[1][crc >> 8 & 0xFF] ^ shifts[2][crc >> 16 & 0xFF] ^
           shifts[3][crc >> 24];
}

__attribute__((target("sse4.2"))) std::uint32_t crc32c_hardware(std::uint32_t seed,
                                                                const std::byte* at,
                                                                std::size_t length_bytes) {
    static const shift_table one_lane = make_shift_table(lane_bytes);
    std::uint64_t crc = seed;
    while (length_bytes >= 3 * lane_bytes) {
        std::uint64_t second = 0;
        std::uint64_t third = 0;
        for (std::size_t i = 0; i < lane_bytes; i += 8) {
            crc = _mm_crc32_u64(crc, load_le<std::uint64_t>(at + i));
            second = _mm_crc32_u64(second, load_le<std::uint64_t>(at + lane_bytes + i));
            third = _mm_crc32_u64(third, load_le<std::uint64_t>(at + 2 * lane_bytes + i));
        }
        crc = shift(one_lane, static_cast<std::uint32_t>(crc)) ^ second;
        crc = shift(one_lane, static_cast<std::uint32_t>(crc)) ^ third;
        at += 3 * lane_bytes;
        length_bytes -= 3 * lane_bytes;
    }
    for (; length_bytes >= 8; at += 8, length_bytes -= 8) {
        crc = _mm_crc32_u64(crc, load_le<std::uint64_t>(at));
    }
    auto rest = static_cast<std::uint32_t>(crc);
    for (; length_bytes > 0; ++at, --length_bytes) {
        rest = _mm_crc32_u8(rest, static_cast<std::uint8_t>(*at));
    }
    return rest;
}

#endif

}  // namespace

std::uint32_t crc32c_raw_table(std::uint32_t seed, std::span<const std::byte> bytes) noexcept {
    std::uint32_t crc = seed;
    for (const std::byte byte : bytes) {
        crc = (crc >> 8) ^ table[(crc ^ static_cast<std::uint32_t>(byte)) & 0xFF];
    }
    return crc;
}

std::uint32_t crc32c_raw(std::uint32_t seed, std::span<const std::byte> bytes) noexcept {
#if defined(__x86_64__)
    static const bool have_instruction = __builtin_cpu_supports("sse4.2") != 0;
    if (have_instruction) {
        return crc32c_hardware(seed, bytes.data(), bytes.size());
    }
#endif
    return crc32c_raw_table(seed, bytes);
}

}  // namespace uthin
