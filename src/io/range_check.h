// The bounds test that every device makes.
//
// Threads   Any.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string_view>

#include "uthin/error.h"

namespace uthin::io {

[[nodiscard]] inline bool is_inside(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                    std::uint64_t size_bytes) noexcept {
    return offset_bytes <= size_bytes && length_bytes <= size_bytes - offset_bytes;
}

[[nodiscard]] inline result<void> check_range(std::string_view name, std::uint64_t offset_bytes,
                                              std::uint64_t length_bytes,
                                              std::uint64_t size_bytes) {
    if (!is_inside(offset_bytes, length_bytes, size_bytes)) {
        return fail(error_code::out_of_range,
                    fmt::format("{}: {} bytes at offset {} do not fit in its {} bytes", name,
                                length_bytes, offset_bytes, size_bytes));
    }
    return {};
}

}  // namespace uthin::io
