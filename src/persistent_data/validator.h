// What makes a metadata block believable: its checksum, its own number, and for btree nodes a sane
// header.
//
// Threads   Stateless.
// Failures  wrong_block (another block's number, ENOTBLK), corrupt (checksum, node header, EILSEQ).
// Source    docs/format.md 2 and 4.3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "uthin/units.h"

namespace uthin::persistent_data {

// There is no type tag on disk: a block is what the pointer to it says, and the salt must fit.
enum class block_kind : std::uint8_t { superblock, btree_node, bitmap, index };

using block_bytes = std::span<std::byte, metadata_block_size_bytes>;
using const_block_bytes = std::span<const std::byte, metadata_block_size_bytes>;

[[nodiscard]] std::string_view to_string(block_kind kind) noexcept;
[[nodiscard]] std::uint32_t checksum_salt(block_kind kind) noexcept;
// The checksum that `bytes` should carry as a block of this kind.
[[nodiscard]] std::uint32_t block_checksum(block_kind kind, const_block_bytes bytes) noexcept;

// Order of the tests is the kernel's: own number, checksum, then structure.
[[nodiscard]] result<void> check_block(block_kind kind, metadata_block where,
                                       const_block_bytes bytes);
// Sets the own number, then the checksum.
void prepare_block(block_kind kind, metadata_block where, block_bytes bytes) noexcept;

}  // namespace uthin::persistent_data
