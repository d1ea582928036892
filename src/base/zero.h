// Whether bytes are all zero, as fast as memory can be read.
//
// Threads   Any.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

namespace uthin {

// True for no bytes at all.
[[nodiscard]] inline bool is_zero(std::span<const std::byte> bytes) {
    return bytes.empty() || (bytes[0] == std::byte{0} &&
                             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace uthin
