#include "persistent_data/space_map_metadata.h"

#include <algorithm>
#include <cstring>
#include <span>

#include <fmt/format.h>

namespace uthin::persistent_data {
namespace {

constexpr std::size_t index_entries_offset = 16;
// A bitmap with fewer free blocks than this is left for the next one.
constexpr std::uint32_t worth_staying_free = entries_per_bitmap / 16;

error too_large(std::uint64_t nr_blocks) {
    return error(error_code::invalid_argument,
                 fmt::format("{} metadata blocks: one index block describes at most {}", nr_blocks,
                             metadata_blocks_max));
}

error full() {
    return error(error_code::no_metadata_space, "no free metadata block; grow the metadata device");
}

}  // namespace

result<bitmap_slot*> space_map_metadata::index_block::slot(std::uint64_t bitmap) {
    if (bitmap >= slots.size()) {
        return fail(error_code::corrupt, fmt::format("metadata bitmap {} does not exist", bitmap));
    }
    return &slots[bitmap];
}

space_map_metadata::space_map_metadata(transaction_manager& tm) : tm_(tm), counts_(tm, index_) {
}

result<void> space_map_metadata::format(std::uint64_t nr_blocks) {
    if (nr_blocks > metadata_blocks_max) {
        return std::unexpected(too_large(nr_blocks));
    }
    bootstrap_ = true;
    cursor_ = 1;
    counts_.set_nr_blocks(nr_blocks);
    index_root_ = UTHIN_TRY(tm_.new_block(block_kind::index)).where;
    UTHIN_TRY(counts_.create_overflow());
    counts_.set_nr_blocks(0);
    const std::uint64_t bitmaps = bitmaps_for(nr_blocks);
    if (cursor_ + bitmaps > nr_blocks) {
        return std::unexpected(full());
    }
    UTHIN_TRY(counts_.extend(nr_blocks));
    bootstrap_ = false;
    return inc(0, cursor_);
}

result<void> space_map_metadata::open(const disk_space_map_root& root) {
    if (root.nr_blocks > metadata_blocks_max) {
        return fail(error_code::corrupt,
                    fmt::format("metadata space map of {} blocks, at most {} are possible",
                                std::uint64_t{root.nr_blocks}, metadata_blocks_max));
    }
    counts_.open(root);
    index_root_ = metadata_block(root.bitmap_root);
    const block_ref index = UTHIN_TRY(tm_.read(index_root_, block_kind::index));
    // Entries past the last bitmap may be garbage (docs/format.md 17.4).
    for (std::size_t i = 0; i < bitmaps_for(root.nr_blocks); ++i) {
        bitmap_slot& slot = index_.slots[i];
        std::memcpy(&slot.now,
                    index.bytes().data() + index_entries_offset + i * sizeof(disk_index_entry),
                    sizeof(disk_index_entry));
        slot.committed_blocknr = slot.now.blocknr;
    }
    return {};
}

std::uint64_t space_map_metadata::nr_free() const {
    const std::uint64_t used = counts_.committed_nr_allocated() + allocated_since_commit_;
    const std::uint64_t total = counts_.committed_nr_blocks();
    return used < total ? total - used : 0;
}

result<std::uint32_t> space_map_metadata::count(std::uint64_t block) {
    std::int64_t total = UTHIN_TRY(counts_.count(block));
    for (const pending& op : queue_) {
        if (block >= op.begin && block < op.end) {
            total += op.up ? 1 : -1;
        }
    }
    if (total < 0) {
        return fail(error_code::corrupt, fmt::format("block {}: count below zero", block));
    }
    return static_cast<std::uint32_t>(total);
}

result<void> space_map_metadata::inc(std::uint64_t begin, std::uint64_t end) {
    queue_.push_back({begin, end, true});
    return drain();
}

result<void> space_map_metadata::dec(std::uint64_t begin, std::uint64_t end) {
    queue_.push_back({begin, end, false});
    return drain();
}

result<void> space_map_metadata::drain() {
    if (draining_ || bootstrap_) {
        return {};
    }
    draining_ = true;
    while (!queue_.empty()) {
        const bool up = queue_.front().up;
        const std::uint64_t block = queue_.front().begin;
        UTHIN_TRY(up ? counts_.inc(block) : counts_.dec(block));
        // Only now: while it was applied, it still counted as queued (MM1).
        if (++queue_.front().begin == queue_.front().end) {
            queue_.pop_front();
        }
    }
    draining_ = false;
    return {};
}

bool space_map_metadata::promised(std::uint64_t block) const noexcept {
    return std::any_of(queue_.begin(), queue_.end(), [block](const pending& op) {
        return op.up && block >= op.begin && block < op.end;
    });
}

// A damaged map counts the blocks that it is kept in as free. The last commit needs them.
bool space_map_metadata::is_own(std::uint64_t block) const noexcept {
    const auto bitmaps = std::span(index_.slots).first(bitmaps_for(counts_.nr_blocks()));
    return block == 0 || block == index_root_.value() || block == counts_.overflow_root().value() ||
           std::ranges::any_of(bitmaps, [block](const bitmap_slot& slot) {
               return slot.now.blocknr == block || slot.committed_blocknr == block;
           });
}

result<std::uint64_t> space_map_metadata::find_free() {
    if (exhausted_) {
        return std::unexpected(full());
    }
    const auto taken = [this](std::uint64_t block) { return promised(block); };
    const std::uint64_t total = counts_.nr_blocks();
    std::optional<std::uint64_t> found = UTHIN_TRY(counts_.find_free(cursor_, total, true, taken));
    if (!found) {
        found = UTHIN_TRY(counts_.find_free(0, std::min(cursor_, total), true, taken));
    }
    if (!found) {
        // The hints may be wrong (docs/format.md 17.2): look at every bit before giving up.
        found = UTHIN_TRY(counts_.find_free(0, total, false, taken));
    }
    if (!found) {
        exhausted_ = true;
        return std::unexpected(full());
    }
    return *found;
}

result<std::uint64_t> space_map_metadata::bootstrap_block() {
    if (cursor_ >= counts_.nr_blocks()) {
        return std::unexpected(full());
    }
    ++allocated_since_commit_;
    return cursor_++;
}

result<std::uint64_t> space_map_metadata::new_block() {
    if (bootstrap_) {
        return bootstrap_block();
    }
    const std::uint64_t block = UTHIN_TRY(find_free());
    if (is_own(block)) {
        return fail(error_code::corrupt,
                    fmt::format("metadata block {}: in use, and counted as free", block));
    }
    cursor_ = block + 1;
    ++allocated_since_commit_;
    UTHIN_TRY(inc(block, block + 1));
    if (hook_) {
        hook_(nr_free());
    }
    return block;
}

// Growing must work when the old area is full, so everything it needs comes from the new area.
result<void> space_map_metadata::extend(std::uint64_t nr_blocks) {
    const std::uint64_t old_blocks = counts_.nr_blocks();
    if (nr_blocks < old_blocks) {
        return fail(
            error_code::invalid_argument,
            fmt::format("metadata cannot shrink from {} to {} blocks", old_blocks, nr_blocks));
    }
    if (nr_blocks > metadata_blocks_max) {
        return std::unexpected(too_large(nr_blocks));
    }
    if (nr_blocks == old_blocks) {
        return {};
    }
    bootstrap_ = true;
    exhausted_ = false;
    cursor_ = old_blocks;
    UTHIN_TRY(counts_.extend(nr_blocks));
    UTHIN_TRY(settle_bootstrap(old_blocks));
    bootstrap_ = false;
    return {};
}

result<void> space_map_metadata::settle_bootstrap(std::uint64_t counted_to) {
    while (counted_to < cursor_ || !queue_.empty()) {
        if (counted_to < cursor_) {
            queue_.push_back({counted_to, cursor_, true});
            counted_to = cursor_;
        }
        while (!queue_.empty()) {
            const pending op = queue_.front();
            UTHIN_TRY(op.up ? counts_.inc(op.begin) : counts_.dec(op.begin));
            if (++queue_.front().begin == queue_.front().end) {
                queue_.pop_front();
            }
        }
    }
    return {};
}

result<void> space_map_metadata::commit() {
    if (!index_.any_changed) {
        return {};
    }
    // Copying the index block changes counts itself, so the entries are copied after it.
    const shadow index = UTHIN_TRY(tm_.shadow_block(index_root_, block_kind::index));
    index_root_ = index.where;
    std::byte* at = index.bytes.data() + index_entries_offset;
    std::memset(at, 0, metadata_index_entries_max * sizeof(disk_index_entry));
    for (std::size_t i = 0; i < bitmaps_for(counts_.nr_blocks()); ++i) {
        std::memcpy(at + i * sizeof(disk_index_entry), &index_.slots[i].now,
                    sizeof(disk_index_entry));
    }
    return {};
}

void space_map_metadata::committed_at(std::uint64_t transaction, bool views_live) {
    for (std::size_t i = 0; i < bitmaps_for(counts_.nr_blocks()); ++i) {
        index_.slots[i].committed_blocknr = index_.slots[i].now.blocknr;
        index_.slots[i].dirty = false;
    }
    index_.any_changed = false;
    if (!views_live) {
        quarantine().for_each_freed(
            [this](std::uint64_t begin, std::uint64_t end) { tm_.blocks().forget(begin, end); });
    }
    counts_.committed(transaction, views_live);
    allocated_since_commit_ = 0;
    exhausted_ = false;
    rewind_cursor();
    if (hook_) {
        hook_(nr_free());
    }
}

// A small transaction frees what an earlier one allocated. When both lie in one bitmap, it writes
// one bitmap, however large the metadata is.
void space_map_metadata::rewind_cursor() noexcept {
    const std::uint64_t bitmap = (cursor_ == 0 ? 0 : cursor_ - 1) / entries_per_bitmap;
    if (bitmap < bitmaps_for(counts_.nr_blocks()) &&
        index_.slots[bitmap].now.nr_free >= worth_staying_free) {
        cursor_ = bitmap * entries_per_bitmap;
    }
}

disk_space_map_root space_map_metadata::root() const {
    disk_space_map_root root;
    root.nr_blocks = counts_.nr_blocks();
    root.nr_allocated = counts_.nr_allocated();
    root.bitmap_root = index_root_.value();
    root.ref_count_root = counts_.overflow_root().value();
    return root;
}

}  // namespace uthin::persistent_data
