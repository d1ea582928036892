// Numbers with their unit in the type, so that a data block cannot be passed for a metadata block.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace uthin {

// An index in one space. Arithmetic stays in the space; a difference is a plain count.
template <class Space>
class index_in {
public:
    constexpr index_in() noexcept = default;
    constexpr explicit index_in(std::uint64_t value) noexcept : value_(value) {}

    [[nodiscard]] constexpr std::uint64_t value() const noexcept { return value_; }
    constexpr auto operator<=>(const index_in&) const noexcept = default;

    constexpr index_in& operator++() noexcept {
        ++value_;
        return *this;
    }
    constexpr index_in& operator+=(std::uint64_t count) noexcept {
        value_ += count;
        return *this;
    }
    [[nodiscard]] friend constexpr index_in operator+(index_in a, std::uint64_t count) noexcept {
        return index_in(a.value_ + count);
    }
    [[nodiscard]] friend constexpr index_in operator-(index_in a, std::uint64_t count) noexcept {
        return index_in(a.value_ - count);
    }
    [[nodiscard]] friend constexpr std::uint64_t operator-(index_in a, index_in b) noexcept {
        return a.value_ - b.value_;
    }

private:
    std::uint64_t value_ = 0;
};

using metadata_block = index_in<struct metadata_space>;  // 4 KiB block of the metadata device
using data_block = index_in<struct data_space>;          // allocation unit of the data device
using virtual_block = index_in<struct virtual_space>;    // the same unit inside a thin
using device_id = index_in<struct device_space>;         // a thin; 24 bits where people type it

// A half-open range [begin, end).
template <class Index>
struct range {
    Index begin;
    Index end;
    [[nodiscard]] constexpr bool empty() const noexcept { return !(begin < end); }
    [[nodiscard]] constexpr std::uint64_t count() const noexcept {
        return empty() ? 0 : end - begin;
    }
    constexpr bool operator==(const range&) const noexcept = default;
};

inline constexpr std::uint32_t sector_size_bytes = 512;
inline constexpr std::uint32_t metadata_block_size_bytes = 4096;
// 64 KiB .. 1 GiB in steps of 64 KiB (docs/format.md 3).
inline constexpr std::uint32_t data_block_size_sectors_min = 128;
inline constexpr std::uint32_t data_block_size_sectors_max = 2097152;
inline constexpr std::uint64_t device_id_max = (1U << 24) - 1;
// 255 bitmaps of 16320 entries (docs/format.md 15).
inline constexpr std::uint64_t metadata_blocks_max = 255ULL * 16320;

}  // namespace uthin

template <class Space>
struct std::hash<uthin::index_in<Space>> {
    std::size_t operator()(uthin::index_in<Space> index) const noexcept {
        return std::hash<std::uint64_t>{}(index.value());
    }
};
