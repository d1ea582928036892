#include "persistent_data/space_map_disk.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

namespace uthin::persistent_data {
namespace {

error full() {
    return error(error_code::no_data_space, "no free data block; grow the data device or delete");
}

}  // namespace

space_map_disk::index_tree::index_tree(transaction_manager& manager)
    : tm(manager), tree(manager, sizeof(disk_index_entry), no_rule) {
}

result<bitmap_slot*> space_map_disk::index_tree::slot(std::uint64_t bitmap) {
    if (const auto found = slots.find(bitmap); found != slots.end()) {
        return &found->second;
    }
    bitmap_slot fresh;
    if (bitmap < committed_bitmaps) {
        std::array<std::byte, sizeof(disk_index_entry)> value{};
        if (!UTHIN_TRY(btree_lookup(tm.source(), root, bitmap, value))) {
            return fail(error_code::corrupt,
                        fmt::format("data space map: bitmap {} is not in its index", bitmap));
        }
        std::memcpy(&fresh.now, value.data(), value.size());
        fresh.committed_blocknr = fresh.now.blocknr;
    }
    return &slots.emplace(bitmap, fresh).first->second;
}

space_map_disk::space_map_disk(transaction_manager& tm) : index_(tm), counts_(tm, index_) {
}

result<void> space_map_disk::format() {
    index_.root = UTHIN_TRY(index_.tree.create());
    return counts_.create_overflow();
}

void space_map_disk::open(const disk_space_map_root& root) {
    counts_.open(root);
    index_.root = metadata_block(root.bitmap_root);
    index_.committed_bitmaps = bitmaps_for(root.nr_blocks);
}

std::uint64_t space_map_disk::nr_free() const {
    const std::uint64_t used = counts_.committed_nr_allocated() + allocated_since_commit_;
    const std::uint64_t total = counts_.committed_nr_blocks();
    return used < total ? total - used : 0;
}

result<void> space_map_disk::check_range(std::uint64_t begin, std::uint64_t end) const {
    if (begin > end || end > counts_.nr_blocks()) {
        return fail(error_code::corrupt,
                    fmt::format("data blocks {}..{} are beyond the device of {}", begin, end,
                                counts_.nr_blocks()));
    }
    return {};
}

result<std::uint32_t> space_map_disk::count(std::uint64_t block) {
    return counts_.count(block);
}

result<void> space_map_disk::inc(std::uint64_t begin, std::uint64_t end) {
    UTHIN_TRY(check_range(begin, end));
    if (begin == end) {
        return {};
    }
    // What was free is given out as by new_range(): nobody else gets it before the next commit.
    const std::uint64_t before = counts_.nr_allocated();
    UTHIN_TRY(counts_.inc_range(begin, end));
    allocated_since_commit_ += counts_.nr_allocated() - before;
    return {};
}

result<void> space_map_disk::dec(std::uint64_t begin, std::uint64_t end) {
    UTHIN_TRY(check_range(begin, end));
    return begin == end ? result<void>{} : counts_.dec_range(begin, end);
}

result<std::uint64_t> space_map_disk::find_free() {
    if (exhausted_) {
        return std::unexpected(full());
    }
    const auto taken = [this](std::uint64_t block) { return is_held(block); };
    const std::uint64_t total = counts_.nr_blocks();
    std::optional<std::uint64_t> found = UTHIN_TRY(counts_.find_free(cursor_, total, true, taken));
    if (!found) {
        found = UTHIN_TRY(counts_.find_free(0, std::min(cursor_, total), true, taken));
    }
    if (!found && counts_.nr_allocated() < total) {
        // The hints may be wrong (docs/format.md 17.2): look at every bit before giving up.
        found = UTHIN_TRY(counts_.find_free(0, total, false, taken));
    }
    if (!found) {
        exhausted_ = true;
        return std::unexpected(full());
    }
    return *found;
}

result<std::uint64_t> space_map_disk::new_block() {
    return UTHIN_TRY(new_range(1)).begin.value();
}

result<range<data_block>> space_map_disk::new_range(std::uint64_t count_max) {
    const std::uint64_t begin = UTHIN_TRY(find_free());
    const std::uint64_t limit = begin + std::min(count_max, counts_.nr_blocks() - begin);
    const std::uint64_t end = UTHIN_TRY(free_run_end(begin, limit));
    cursor_ = end;
    UTHIN_TRY(counts_.inc_range(begin, end));
    allocated_since_commit_ += end - begin;
    if (hook_) {
        hook_(nr_free());
    }
    return range<data_block>{data_block(begin), data_block(end)};
}

// `begin` is free.
result<std::uint64_t> space_map_disk::free_run_end(std::uint64_t begin, std::uint64_t limit) {
    return counts_.free_run_end(begin, limit,
                                [this](std::uint64_t block) { return is_held(block); });
}

bool space_map_disk::is_held(std::uint64_t block) const noexcept {
    return std::ranges::any_of(held_, [block](const range<data_block>& one) {
        return one.begin.value() <= block && block < one.end.value();
    });
}

result<std::optional<range<data_block>>> space_map_disk::hold_free(range<data_block> within,
                                                                   std::uint64_t count_max) {
    const std::uint64_t stop = std::min(within.end.value(), counts_.nr_blocks());
    const auto taken = [this](std::uint64_t block) { return is_held(block); };
    const auto begin =
        UTHIN_TRY(counts_.find_free(std::min(within.begin.value(), stop), stop, true, taken));
    if (!begin) {
        return std::nullopt;
    }
    const std::uint64_t end =
        UTHIN_TRY(free_run_end(*begin, *begin + std::min(count_max, stop - *begin)));
    held_.push_back({data_block(*begin), data_block(end)});
    return held_.back();
}

void space_map_disk::release_held() noexcept {
    held_.clear();
    exhausted_ = false;
}

result<void> space_map_disk::extend(std::uint64_t nr_blocks) {
    if (nr_blocks < counts_.nr_blocks()) {
        return fail(error_code::invalid_argument,
                    fmt::format("the data device cannot shrink from {} to {} blocks",
                                counts_.nr_blocks(), nr_blocks));
    }
    exhausted_ = false;
    return counts_.extend(nr_blocks);
}

result<void> space_map_disk::commit() {
    for (const std::uint64_t bitmap : index_.dirty) {
        std::array<std::byte, sizeof(disk_index_entry)> value{};
        std::memcpy(value.data(), &index_.slots.find(bitmap)->second.now, value.size());
        index_.root = UTHIN_TRY(index_.tree.insert(index_.root, bitmap, value.data())).root;
    }
    return {};
}

void space_map_disk::committed_at(std::uint64_t transaction, bool views_live) {
    for (const std::uint64_t bitmap : index_.dirty) {
        bitmap_slot& slot = index_.slots.find(bitmap)->second;
        slot.committed_blocknr = slot.now.blocknr;
        slot.dirty = false;
    }
    index_.dirty.clear();
    index_.committed_bitmaps = bitmaps_for(counts_.nr_blocks());
    counts_.committed(transaction, views_live);
    allocated_since_commit_ = 0;
    exhausted_ = false;
}

disk_space_map_root space_map_disk::root() const {
    disk_space_map_root root;
    root.nr_blocks = counts_.nr_blocks();
    root.nr_allocated = counts_.nr_allocated();
    root.bitmap_root = index_.root.value();
    root.ref_count_root = counts_.overflow_root().value();
    return root;
}

}  // namespace uthin::persistent_data
