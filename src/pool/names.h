// What people type and read: volume names, sizes, DIR/NAME.
//
// Invariants
//   NM1  A valid name is UTF-8, 1..255 bytes, one path component, printable, and "thin-N" only for
//        the device N: a device without a catalogue entry can always be called that.
// Threads   Any.
// Failures  invalid_argument with the cause and the remedy; out_of_range for sizes above 2^64 - 1.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "uthin/error.h"
#include "uthin/units.h"

namespace uthin {

inline constexpr std::size_t volume_name_bytes_max = 255;
// Offsets of clients and of the system's file calls are signed.
inline constexpr std::uint64_t volume_size_bytes_max = (1ULL << 63) - sector_size_bytes;

// `id`: the device that is to have the name, when it is known.
[[nodiscard]] result<void> check_volume_name(std::string_view name, std::optional<device_id> id);
[[nodiscard]] std::string default_volume_name(device_id id);
// The N of "thin-N" as default_volume_name writes it.
[[nodiscard]] std::optional<device_id> id_of_default_name(std::string_view name);
// `text` with what a terminal or a one-line message cannot take replaced by '?'.
[[nodiscard]] std::string printable(std::string_view text);
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;
// The beginning of `text`, no longer than `bytes_max`, that ends between two characters of UTF-8.
[[nodiscard]] std::string_view cut_text(std::string_view text, std::size_t bytes_max) noexcept;

// "100", "64K", "10G", "2TiB": binary suffixes K M G T with or without B or iB, any case.
[[nodiscard]] result<std::uint64_t> parse_size_bytes(std::string_view text);
// The kernel's numbers: decimal, an optional leading '+', nothing else; absent above 2^64 - 1.
[[nodiscard]] std::optional<std::uint64_t> parse_decimal(std::string_view text) noexcept;
// A size that a volume can have: whole sectors, not zero.
[[nodiscard]] result<void> check_volume_size(std::uint64_t size_bytes);
// "10.0 GiB", for people.
[[nodiscard]] std::string readable_size(std::uint64_t size_bytes);

struct volume_path {
    std::string directory;
    std::string name;
};
// Splits "DIR/NAME" at the last slash; "NAME" alone is in ".". The name is not checked.
[[nodiscard]] result<volume_path> split_volume_path(std::string_view path);

}  // namespace uthin
