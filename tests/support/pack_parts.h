// Pack files taken apart and put together, so that what is inside can be changed.
//
// Threads   One at a time.
// Failures  Of unpack_into(): those of the library, and `failed` for a write outside of what was
//           asked for. Of opened(): absent.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/random.h"
#include "uthin/block_device.h"

namespace uthin::test {

[[nodiscard]] result<std::vector<std::byte>> packed(block_device& image);
// Blocks beyond the end of `image` are thrown away.
[[nodiscard]] result<void> unpack_into(std::span<const std::byte> pack, block_device& image);

inline constexpr std::size_t pack_header_bytes = 32;

// The header, and the plain text of the first chunk.
struct open_pack {
    std::vector<std::byte> header;
    std::vector<std::byte> plain;
};
[[nodiscard]] std::optional<open_pack> opened(std::span<const std::byte> pack);
[[nodiscard]] std::vector<std::byte> closed(const open_pack& open);

// Instructions of every kind behind one another, as 1.x writes them.
void put_instructions(std::vector<std::byte>& plain, random_generator& random);

}  // namespace uthin::test
