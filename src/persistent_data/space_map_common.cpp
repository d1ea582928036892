#include "persistent_data/space_map_common.h"

#include <algorithm>
#include <bit>
#include <utility>

#include <fmt/format.h>

namespace uthin::persistent_data {
namespace {

constexpr std::uint32_t entries_per_word = 32;
constexpr std::uint64_t low_bits = 0x5555555555555555;

constexpr std::uint32_t encode_count(std::uint32_t count) {
    const std::uint32_t field = count < 3 ? count : 3;
    return (field & 1) << 1 | field >> 1;
}

error loses_what_it_has_not(std::uint64_t block) {
    return error(error_code::corrupt,
                 fmt::format("block {}: free, yet it loses a reference", block));
}

}  // namespace

void set_bitmap_count(std::byte* bitmap, std::uint32_t index, std::uint32_t count) noexcept {
    std::byte& byte = bitmap[bitmap_header_bytes + index / 4];
    const std::uint32_t shift = 2 * (index % 4);
    byte = (byte & ~(std::byte{3} << shift)) | std::byte(encode_count(count)) << shift;
}

bitmap_counts::bitmap_counts(transaction_manager& tm, bitmap_index& index)
    : tm_(tm), index_(index), overflow_(tm, sizeof(std::uint32_t), no_rule_) {
}

void bitmap_counts::open(const disk_space_map_root& root) {
    nr_blocks_ = committed_blocks_ = root.nr_blocks;
    nr_allocated_ = committed_allocated_ = root.nr_allocated;
    overflow_root_ = metadata_block(root.ref_count_root);
}

result<void> bitmap_counts::create_overflow() {
    overflow_root_ = UTHIN_TRY(overflow_.create());
    return {};
}

result<void> bitmap_counts::check_range(std::uint64_t begin, std::uint64_t end) const {
    if (begin >= end || end > nr_blocks_) {
        return fail(error_code::corrupt, fmt::format("blocks {}..{} are beyond the space map of {}",
                                                     begin, end, nr_blocks_));
    }
    return {};
}

result<std::uint32_t> bitmap_counts::count(std::uint64_t block) {
    UTHIN_TRY(check_range(block, block + 1));
    const bitmap_slot* slot = UTHIN_TRY(index_.slot(block / entries_per_bitmap));
    const block_ref bitmap =
        UTHIN_TRY(tm_.read(metadata_block(slot->now.blocknr), block_kind::bitmap));
    const std::uint32_t field =
        bitmap_count(bitmap.bytes().data(), static_cast<std::uint32_t>(block % entries_per_bitmap));
    if (field < 3) {
        return field;
    }
    std::array<std::byte, 4> value{};
    if (!UTHIN_TRY(btree_lookup(tm_.source(), overflow_root_, block, value))) {
        return fail(error_code::corrupt,
                    fmt::format("block {} has 3 or more references and no overflow entry", block));
    }
    return load_le<std::uint32_t>(value.data());
}

result<void> bitmap_counts::open_for_change(std::uint64_t bitmap) {
    const std::uint64_t generation = tm_.blocks().generation();
    if (opened_.bitmap == bitmap && opened_.generation == generation) {
        return {};
    }
    bitmap_slot* slot = UTHIN_TRY(index_.slot(bitmap));
    const shadow copy =
        UTHIN_TRY(tm_.shadow_block(metadata_block(slot->now.blocknr), block_kind::bitmap));
    slot->now.blocknr = copy.where.value();
    if (!slot->dirty) {
        slot->dirty = true;
        index_.changed(bitmap);
    }
    opened_ = {bitmap, generation, slot, copy.bytes.data()};
    return {};
}

result<std::uint32_t> bitmap_counts::change_overflow(std::uint64_t block, std::uint32_t field,
                                                     bool up) {
    std::array<std::byte, 4> value{};
    std::uint32_t count = field;
    if (field == 3) {
        if (!UTHIN_TRY(btree_lookup(tm_.source(), overflow_root_, block, value))) {
            return fail(
                error_code::corrupt,
                fmt::format("block {} has 3 or more references and no overflow entry", block));
        }
        count = load_le<std::uint32_t>(value.data());
    }
    if (up && count == UINT32_MAX) {
        return fail(error_code::corrupt, fmt::format("block {}: reference count overflow", block));
    }
    if (!up && count == 0) {  // the tree has counts of 3 and more (SC2), unless it is damaged
        return std::unexpected(loses_what_it_has_not(block));
    }
    count = up ? count + 1 : count - 1;
    if (count >= 3) {
        store_le(value.data(), count);
        overflow_root_ = UTHIN_TRY(overflow_.insert(overflow_root_, block, value.data())).root;
        return count;
    }
    overflow_root_ = UTHIN_TRY(overflow_.remove_range(overflow_root_, block, block + 1)).root;
    return count;
}

result<void> bitmap_counts::change(std::uint64_t block, bool up) {
    const std::uint64_t bitmap = block / entries_per_bitmap;
    const auto index = static_cast<std::uint32_t>(block % entries_per_bitmap);
    UTHIN_TRY(open_for_change(bitmap));
    const std::uint32_t field = bitmap_count(opened_.bytes, index);
    disk_index_entry& entry = opened_.slot->now;
    if (up && field == 0) {
        set_count(index, 1);
        ++nr_allocated_;
        entry.nr_free = entry.nr_free == 0 ? 0 : entry.nr_free - 1;
        if (entry.none_free_before == index) {
            entry.none_free_before = index + 1;
        }
        return {};
    }
    if (!up && field == 0) {
        return std::unexpected(loses_what_it_has_not(block));
    }
    if (!up && field == 1) {
        return become_free(block);
    }
    if (field < 3 && (!up || field == 1)) {
        set_count(index, up ? 2 : 1);
        return {};
    }
    const std::uint32_t count = UTHIN_TRY(change_overflow(block, field, up));
    // Changing the tree may have changed this bitmap as well (metadata space map), and so what is
    // open.
    UTHIN_TRY(open_for_change(bitmap));
    if (count == 0) {
        return become_free(block);
    }
    set_count(index, count);
    return {};
}

// The bitmap is open.
result<void> bitmap_counts::become_free(std::uint64_t block) {
    const auto index = static_cast<std::uint32_t>(block % entries_per_bitmap);
    disk_index_entry& entry = opened_.slot->now;
    set_count(index, 0);
    nr_allocated_ = nr_allocated_ == 0 ? 0 : nr_allocated_ - 1;
    entry.nr_free = std::min<std::uint32_t>(entry.nr_free + 1, entries_per_bitmap);
    entry.none_free_before = std::min<std::uint32_t>(entry.none_free_before, index);
    // A block that this transaction allocated is read by no view.
    if (UTHIN_TRY(was_used_at_commit(*opened_.slot, index))) {
        quarantine_.freed(block);
    }
    if (freed_hook_) {
        freed_hook_(block);
    }
    return {};
}

result<bool> bitmap_counts::was_used_at_commit(const bitmap_slot& slot, std::uint32_t index) {
    if (slot.committed_blocknr == 0) {
        return false;
    }
    const block_ref committed =
        UTHIN_TRY(tm_.read(metadata_block(slot.committed_blocknr), block_kind::bitmap));
    return bitmap_count(committed.bytes().data(), index) != 0;
}

result<void> bitmap_counts::inc(std::uint64_t block) {
    UTHIN_TRY(check_range(block, block + 1));
    return change(block, true);
}

result<void> bitmap_counts::dec(std::uint64_t block) {
    UTHIN_TRY(check_range(block, block + 1));
    return change(block, false);
}

result<void> bitmap_counts::inc_range(std::uint64_t begin, std::uint64_t end) {
    UTHIN_TRY(check_range(begin, end));
    for (; begin < end; ++begin) {
        UTHIN_TRY(change(begin, true));
    }
    return {};
}

result<void> bitmap_counts::dec_range(std::uint64_t begin, std::uint64_t end) {
    UTHIN_TRY(check_range(begin, end));
    for (; begin < end; ++begin) {
        UTHIN_TRY(change(begin, false));
    }
    return {};
}

// The new blocks exist before their bitmaps, which may have to lie in them.
result<void> bitmap_counts::extend(std::uint64_t nr_blocks) {
    const std::uint64_t old_blocks = std::exchange(nr_blocks_, nr_blocks);
    auto made = add_bitmaps(bitmaps_for(old_blocks), bitmaps_for(nr_blocks));
    if (!made) {
        // Nothing may have changed yet, so that nobody aborts.
        nr_blocks_ = old_blocks;
    }
    return made;
}

result<void> bitmap_counts::add_bitmaps(std::uint64_t have, std::uint64_t need) {
    for (std::uint64_t bitmap = have; bitmap < need; ++bitmap) {
        const shadow fresh = UTHIN_TRY(tm_.new_block(block_kind::bitmap));
        bitmap_slot* slot = UTHIN_TRY(index_.slot(bitmap));
        slot->now.blocknr = fresh.where.value();
        // Even in a partial last bitmap, so that growing does not touch the old one
        // (docs/format.md 7.3).
        slot->now.nr_free = entries_per_bitmap;
        slot->now.none_free_before = 0;
        slot->dirty = true;
        index_.changed(bitmap);
    }
    return {};
}

void bitmap_counts::committed(std::uint64_t transaction, bool views_live) {
    committed_blocks_ = nr_blocks_;
    committed_allocated_ = nr_allocated_;
    quarantine_.committed(transaction, views_live);
}

result<bitmap_counts::bitmap_pages> bitmap_counts::read_bitmap(const bitmap_slot& slot) {
    const metadata_block now_at(slot.now.blocknr);
    const metadata_block committed_at(slot.committed_blocknr);
    block_ref now = UTHIN_TRY(tm_.read(now_at, block_kind::bitmap));
    const bool same = committed_at.value() == 0 || committed_at == now_at;
    block_ref committed = same ? now : UTHIN_TRY(tm_.read(committed_at, block_kind::bitmap));
    return bitmap_pages{std::move(now), std::move(committed)};
}

std::uint32_t bitmap_counts::scan(const std::byte* now, const std::byte* committed,
                                  std::uint32_t begin, std::uint32_t end) noexcept {
    while (begin < end) {
        const std::uint32_t word = begin / entries_per_word;
        const std::size_t at = bitmap_header_bytes + std::size_t{word} * 8;
        const std::uint64_t used =
            load_le<std::uint64_t>(now + at) | load_le<std::uint64_t>(committed + at);
        std::uint64_t free = ~(used | used >> 1) & low_bits;
        free &= ~0ULL << 2 * (begin % entries_per_word);
        if (free != 0) {
            const std::uint32_t found =
                word * entries_per_word + static_cast<std::uint32_t>(std::countr_zero(free)) / 2;
            return std::min(found, end);
        }
        begin = (word + 1) * entries_per_word;
    }
    return end;
}

}  // namespace uthin::persistent_data
