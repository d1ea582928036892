// Writes metadata blocks of a fresh image, or fresh space maps into the free blocks of one: trees
// are packed, each block is written once, reference counts are kept in memory until they are
// written down.
//
// Invariants
//   IW1  Nothing in use (as `is_free` says) is written over; the superblock is the caller's.
//   IW2  Memory: one byte for each block with a count, in pages, two open leaves, and up to four
//        pieces of 1 MiB on their way.
// Threads   One.
// Failures  no_metadata_space when the device is full; those of the device.
// Source    docs/format.md 4, 7 and 8.
#pragma once

#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/paged_array.h"
#include "io/write_behind.h"
#include "persistent_data/btree_node.h"
#include "persistent_data/space_map.h"
#include "uthin/block_device.h"

namespace uthin::thin_metadata {

// Counts of all blocks of one device; most are 0 or 1.
class count_array {
public:
    explicit count_array(std::uint64_t block_count)
        : block_count_(block_count), small_(block_count) {}

    [[nodiscard]] std::uint64_t block_count() const noexcept { return block_count_; }
    [[nodiscard]] std::uint32_t get(std::uint64_t block) const;
    void add(std::uint64_t block);
    // A hint: this block is added soon. Of scattered blocks each waits for memory else.
    void prefetch(std::uint64_t block) const noexcept { __builtin_prefetch(small_.find(block), 1); }
    // Returns what is left; the count is above 0.
    std::uint32_t subtract(std::uint64_t block);
    // In ascending order.
    [[nodiscard]] std::vector<std::pair<std::uint64_t, std::uint32_t>> counts_from(
        std::uint32_t least) const;

private:
    static constexpr std::uint8_t in_large = 255;
    std::uint64_t block_count_;
    paged_array<std::uint8_t, 1 << 16> small_;
    std::unordered_map<std::uint64_t, std::uint32_t> large_;
};

struct packed_node {
    std::uint64_t first_key = 0;
    metadata_block where;
    std::uint32_t entries = 0;
};

class image_writer {
public:
    // `is_free` tells which blocks may be taken, in ascending order; block 0 never.
    using free_test = std::function<bool(std::uint64_t block)>;
    image_writer(block_device& device, std::uint64_t block_count, free_test is_free);

    [[nodiscard]] count_array& counts() noexcept { return counts_; }
    [[nodiscard]] std::uint64_t block_count() const noexcept { return counts_.block_count(); }

    // A block with a count of 1.
    [[nodiscard]] result<metadata_block> allocate();
    // Sets own number and checksum and puts the block on its way: it is written while the caller
    // goes on, and the error of an earlier block may come back.
    [[nodiscard]] result<void> write(metadata_block where, persistent_data::block_kind kind,
                                     persistent_data::block_bytes bytes);
    // What was written; not checked again.
    [[nodiscard]] result<void> read_back(metadata_block where, persistent_data::block_bytes bytes);
    // Everything written so far is durable.
    [[nodiscard]] result<void> flush();

    // Both space maps, from the counts. Nothing may be allocated afterwards.
    [[nodiscard]] result<persistent_data::disk_space_map_root> write_data_space_map(
        const count_array& data);
    [[nodiscard]] result<persistent_data::disk_space_map_root> write_metadata_space_map();

private:
    [[nodiscard]] result<metadata_block> write_overflow(const count_array& counts);
    [[nodiscard]] result<persistent_data::disk_index_entry> write_bitmap(const count_array& counts,
                                                                         std::uint64_t first,
                                                                         metadata_block where);

    block_device& device_;
    count_array counts_;
    free_test is_free_;
    std::uint64_t next_ = 1;
    io::write_behind writes_;
};

// Packs ascending entries into leaves, the last two balanced.
class leaf_packer {
public:
    leaf_packer(image_writer& writer, std::uint32_t value_size_bytes);

    // Called with each node after it was allocated.
    using node_function = std::function<result<void>(const packed_node& leaf)>;

    [[nodiscard]] result<void> push(std::uint64_t key, const std::byte* value,
                                    const node_function& written);
    // Entries in front of those that wait.
    void push_front(const persistent_data::node_view& node);
    [[nodiscard]] std::size_t waiting() const noexcept { return keys_.size(); }
    [[nodiscard]] std::uint32_t entries_min() const noexcept { return entries_max_ / 3; }
    // Writes all that wait; nothing when there are none.
    [[nodiscard]] result<void> flush(const node_function& written);

private:
    [[nodiscard]] result<void> write_leaf(std::size_t count, const node_function& written);

    image_writer& writer_;
    std::uint32_t value_size_;
    std::uint32_t entries_max_;
    std::vector<std::uint64_t> keys_;
    std::vector<std::byte> values_;
};

// The root over these leaves; an empty leaf when there are none.
[[nodiscard]] result<metadata_block> write_tree_above(image_writer& writer,
                                                      std::uint32_t value_size_bytes,
                                                      std::vector<packed_node> nodes);

}  // namespace uthin::thin_metadata
