// Little-endian integers as they lie on disk, at any alignment.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace uthin {

static_assert(std::endian::native == std::endian::little, "big-endian hosts are not supported");

template <class Int>
[[nodiscard]] inline Int load_le(const std::byte* at) noexcept {
    Int value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

template <class Int>
inline void store_le(std::byte* at, Int value) noexcept {
    std::memcpy(at, &value, sizeof value);
}

// A field of an on-disk structure.
template <class Int>
class little_endian {
public:
    little_endian() noexcept = default;
    little_endian(Int value) noexcept { store_le(bytes_, value); }
    operator Int() const noexcept { return load_le<Int>(bytes_); }

private:
    std::byte bytes_[sizeof(Int)] = {};
};

using le16 = little_endian<std::uint16_t>;
using le32 = little_endian<std::uint32_t>;
using le64 = little_endian<std::uint64_t>;

static_assert(sizeof(le64) == 8 && alignof(le64) == 1);

}  // namespace uthin
