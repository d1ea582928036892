// Which leaves of the mapping trees of several devices are shared, in maximal runs that always
// occur together.
//
// Invariants
//   LR1  Two neighbouring leaves are in one run if, and only if, in every device the second follows
//        the first wherever one of them occurs.
//   LR2  Each leaf of one device is in exactly one run; all leaves of a run occur equally often.
// Threads   One at a time.
// Failures  corrupt when a tree is not what the format allows.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/paged_array.h"
#include "persistent_data/block_source.h"
#include "persistent_data/btree_node.h"
#include "thin_metadata/superblock.h"
#include "uthin/metadata.h"

namespace uthin::thin_metadata {

// Calls `each(leaf, first key, last key)` for the leaves under `root` in order, with the bounds of
// their keys (inclusive). Leaves are not read (except on the leftmost path), but prefetched where
// the caller says that it is going to read them.
using leaf_function =
    std::function<result<void>(metadata_block leaf, std::uint64_t first, std::uint64_t last)>;
using leaf_choice = std::function<bool(metadata_block leaf)>;
[[nodiscard]] result<void> list_leaves(persistent_data::block_source& source, metadata_block root,
                                       const leaf_choice& prefetch, const leaf_function& each);

// Reads the nodes above the leaves of some trees, and each tree's first leaf, level by level in few
// batches, for list_leaves() of one after the other. A hint; damage is passed over.
void prefetch_inner_nodes(persistent_data::block_source& source,
                          std::span<const metadata_block> roots);

// Reads a leaf of a mapping tree and tests that its keys ascend within the bounds.
[[nodiscard]] result<persistent_data::block_ref> read_mapping_leaf(
    persistent_data::block_source& source, metadata_block leaf, std::uint64_t first,
    std::uint64_t last);

// Without a branch for each, since it is true of nearly every node.
[[nodiscard]] inline bool keys_ascend(const persistent_data::node_view& node) noexcept {
    const std::uint32_t count = node.nr_entries();
    std::uint32_t wrong = 0;
    for (std::uint32_t index = 1; index < count; ++index) {
        wrong |= node.key(index) <= node.key(index - 1) ? 1U : 0U;
    }
    return wrong == 0;
}

// The run of a mapping leaf that begins with this entry.
[[nodiscard]] inline mapping_run run_at(const persistent_data::node_view& leaf,
                                        std::uint32_t index) noexcept {
    const std::uint64_t step = pack_mapping(data_block(1), 0);
    const std::uint32_t count = leaf.nr_entries();
    const std::uint64_t key = leaf.key(index);
    const std::uint64_t packed = leaf.value_u64(index);
    std::uint32_t length = 1;
    const auto difference_at = [&](std::uint32_t at) {
        return (leaf.key(index + at) ^ (key + at)) |
               (leaf.value_u64(index + at) ^ (packed + at * step));
    };
    while (index + length < count && difference_at(length) == 0) {
        ++length;
        // A run that is long already is compared in pieces, which take vector instructions.
        constexpr std::uint32_t piece = 16;
        while (length >= piece && index + length + piece <= count) {
            std::uint64_t differences = 0;
            for (std::uint32_t at = length; at < length + piece; ++at) {
                differences |= difference_at(at);
            }
            if (differences != 0) {
                break;
            }
            length += piece;
        }
    }
    return {.begin = virtual_block(key),
            .data_begin = mapping_block(packed),
            .count = length,
            .time = mapping_time(packed)};
}

class leaf_runs {
public:
    explicit leaf_runs(std::uint64_t block_count)
        : block_count_(block_count), leaves_(block_count) {}

    // The leaves of one device, in order, between begin and end.
    void begin_device() noexcept { previous_ = nobody; }
    void add(metadata_block leaf);
    void end_device();

    // After all devices were added.
    [[nodiscard]] bool is_shared(metadata_block leaf) const noexcept;
    // No run reaches over from the leaf before.
    [[nodiscard]] bool begins_run(metadata_block leaf) const noexcept;
    // The first leaf of the first shared run at or after this block; absent behind the last.
    [[nodiscard]] std::optional<metadata_block> find_shared_run(metadata_block from) const noexcept;
    // The next leaf of the same run.
    [[nodiscard]] std::optional<metadata_block> next_in_run(metadata_block leaf) const noexcept;

    // What the caller remembers of a leaf: its keys, last < first when it is empty.
    void set_keys(metadata_block leaf, std::uint64_t first_key, std::uint64_t last_key);
    [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> keys(metadata_block leaf) const noexcept;

private:
    static constexpr std::uint64_t nobody = UINT64_MAX;

    struct leaf_info {
        std::uint64_t before = nobody;
        std::uint64_t after = nobody;
        std::uint64_t first_key = 0;
        std::uint64_t last_key = 0;
        std::uint32_t devices = 0;
        bool begins_run = false;
        bool ends_run = false;  // the one behind it, whichever it is, begins another
    };

    std::uint64_t block_count_;
    paged_array<leaf_info> leaves_;
    std::uint64_t previous_ = nobody;
};

}  // namespace uthin::thin_metadata
