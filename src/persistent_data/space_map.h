// Reference counts of the blocks of one device, and the allocator over them.
//
// Invariants
//   SM1  A block is allocated only if its count is 0 now, was 0 at the last commit, and no read
//   view keeps it. SM2  nr_allocated is the number of blocks with a count above 0. SM3  What the
//   last commit wrote is not changed in place (bitmaps are shadowed).
// Threads   The writer's.
// Failures  no_*_space leaves the map unchanged. Everything else poisons the transaction: abort.
// Source    docs/format.md 7 and 8.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/endian.h"
#include "base/result.h"
#include "uthin/units.h"

namespace uthin::persistent_data {

inline constexpr std::uint32_t entries_per_bitmap = 16320;
inline constexpr std::uint32_t bitmap_header_bytes = 16;
// One metadata index block holds exactly this many entries.
inline constexpr std::uint32_t metadata_index_entries_max = 255;

struct disk_space_map_root {
    le64 nr_blocks;
    le64 nr_allocated;
    le64 bitmap_root;
    le64 ref_count_root;
};
static_assert(sizeof(disk_space_map_root) == 32);

struct disk_index_entry {
    le64 blocknr;
    le32 nr_free;           // entries_per_bitmap - used, even in a partial last bitmap
    le32 none_free_before;  // no entry below this index is free
};
static_assert(sizeof(disk_index_entry) == 16);

// Two-bit field of a bitmap: the even bit is the high one.
[[nodiscard]] constexpr std::uint32_t decode_count(std::uint32_t raw) noexcept {
    return (raw & 1) << 1 | raw >> 1;
}
[[nodiscard]] inline std::uint32_t bitmap_count(const std::byte* bitmap,
                                                std::uint32_t index) noexcept {
    const auto byte = static_cast<std::uint32_t>(bitmap[bitmap_header_bytes + index / 4]);
    return decode_count(byte >> 2 * (index % 4) & 3);
}

class space_map {
public:
    space_map() = default;
    space_map(const space_map&) = delete;
    space_map& operator=(const space_map&) = delete;
    virtual ~space_map() = default;

    [[nodiscard]] virtual std::uint64_t nr_blocks() const = 0;
    // Blocks that can be allocated before the next commit: free at the last commit, less those
    // allocated since.
    [[nodiscard]] virtual std::uint64_t nr_free() const = 0;
    [[nodiscard]] virtual result<std::uint32_t> count(std::uint64_t block) = 0;
    [[nodiscard]] virtual result<void> inc(std::uint64_t begin, std::uint64_t end) = 0;
    // dec of a free block is `corrupt`.
    [[nodiscard]] virtual result<void> dec(std::uint64_t begin, std::uint64_t end) = 0;
    // Count becomes 1.
    [[nodiscard]] virtual result<std::uint64_t> new_block() = 0;
    // Makes the map longer; shorter is invalid_argument.
    [[nodiscard]] virtual result<void> extend(std::uint64_t nr_blocks) = 0;
    // Puts the index in order on (not yet flushed) blocks; root() is valid afterwards.
    [[nodiscard]] virtual result<void> commit() = 0;
    // The transaction became durable: what is free now may be allocated from here on.
    virtual void committed() = 0;
    [[nodiscard]] virtual disk_space_map_root root() const = 0;
};

}  // namespace uthin::persistent_data
