// The kinds of operation that a block_device takes, for the wrappers that count, fail, delay or
// record them.
//
// Threads   Plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace uthin::io {

// write_fua counts as write. resize is grow() or a file's truncation.
enum class operation_kind : std::uint8_t { read, write, flush, discard, write_zeroes, resize };
inline constexpr std::size_t operation_kind_count = 6;

[[nodiscard]] constexpr std::string_view to_string(operation_kind kind) noexcept {
    constexpr std::string_view names[operation_kind_count] = {"read",    "write",        "flush",
                                                              "discard", "write_zeroes", "resize"};
    return names[static_cast<std::size_t>(kind)];
}

// A set of kinds.
class operation_kinds {
public:
    constexpr operation_kinds() noexcept = default;
    constexpr operation_kinds(std::initializer_list<operation_kind> kinds) noexcept {
        for (const operation_kind kind : kinds) {
            bits_ |= bit(kind);
        }
    }
    [[nodiscard]] static constexpr operation_kinds all() noexcept {
        operation_kinds kinds;
        kinds.bits_ = (1U << operation_kind_count) - 1;
        return kinds;
    }
    [[nodiscard]] constexpr bool contains(operation_kind kind) const noexcept {
        return (bits_ & bit(kind)) != 0;
    }

private:
    static constexpr std::uint32_t bit(operation_kind kind) noexcept {
        return 1U << static_cast<unsigned>(kind);
    }
    std::uint32_t bits_ = 0;
};

}  // namespace uthin::io
