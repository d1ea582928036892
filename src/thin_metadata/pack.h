// Metadata packed for the mail: the blocks in use only, compressed.
//
// Invariants
//   PK1  The same blocks make the same bytes, on any machine.
//   PK2  What is unpacked is, in every block that carries a valid checksum, what was packed, and
//        zeros in block 0 if it carried none. All other blocks keep what the target held: zeros in
//        a new file, anything on a device.
//   PK3  Memory: one chunk of 1024 blocks.
//   PK4  Until all blocks are durable, block 0 is no superblock: after a failure there is no pool.
//        A pack file that ends between two chunks cannot be told from a whole one.
// Threads   One.
// Failures  invalid_argument (no pack file, another version), corrupt (truncated, wrong
//           instructions), those of input and output.
// Source    Format of thin_metadata_pack 1.x, version 3.
#pragma once

#include <functional>
#include <span>
#include <string_view>

#include "uthin/block_device.h"

namespace uthin::thin_metadata {

using byte_output = std::function<result<void>(std::span<const std::byte> bytes)>;
// Fills the whole buffer; fewer bytes come back at the end only.
using byte_input = std::function<result<std::size_t>(std::span<std::byte> buffer)>;

// Whether the block is the superblock of a pool (thin, cache or era).
[[nodiscard]] bool is_any_superblock(std::span<const std::byte> block);

[[nodiscard]] result<void> pack_metadata(block_device& device, const byte_output& output);

struct unpack_target {
    // Called once, before anything is written.
    std::function<result<void>(std::uint64_t blocks)> resize;
    std::function<result<void>(std::uint64_t block, std::span<const std::byte> bytes)> write;
    // Everything written so far is durable.
    std::function<result<void>()> flush;
};
[[nodiscard]] result<void> unpack_metadata(const byte_input& input, const unpack_target& target);

}  // namespace uthin::thin_metadata
