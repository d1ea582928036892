// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace uthin {

// The raw register after `bytes`, started at `seed`: no inversion at either end. The usual CRC-32C
// is ~crc32c_raw(~0u, bytes).
[[nodiscard]] std::uint32_t crc32c_raw(std::uint32_t seed,
                                       std::span<const std::byte> bytes) noexcept;

// The table-driven form, for machines without the instruction and for the test that compares both.
[[nodiscard]] std::uint32_t crc32c_raw_table(std::uint32_t seed,
                                             std::span<const std::byte> bytes) noexcept;

}  // namespace uthin
