// One block in the instructions of a pack file, put so that the compressor has little left to do.
//
// Invariants
//   PE1  The instructions make exactly the block's bytes, whatever they are.
//   PE2  The same block makes the same instructions.
// Threads   Stateless.
// Failures  None.
// Source    Format of thin_metadata_pack 1.x, version 3; docs/format.md 4 for nodes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace uthin::thin_metadata {

// Tags of instructions; the lower half of the byte is a number.
enum class pack_opcode : std::uint8_t {
    set,
    forward,
    forward_wide,
    backward,
    backward_wide,
    repeat,
    repeat_long,
    count,
    count_long,
    literal,
    literal_wide,
    shifted_run,
};

// Where a `shifted_run` divides its numbers: between the data block and the time of a mapping.
inline constexpr unsigned pack_shift_bits = 24;

// Appends the number of the block and its instructions. A btree node is taken apart.
void append_packed_block(std::vector<std::byte>& into, std::uint64_t number,
                         std::span<const std::byte> block, bool is_node);

}  // namespace uthin::thin_metadata
