// What both space maps share: bitmaps of two-bit counts, the overflow tree, the search for a free
// block.
//
// Invariants
//   SC1  A bitmap block of the last commit is never changed: the first change of a transaction
//   copies it. SC2  The overflow tree holds exactly the blocks whose field is 3, with counts of 3
//   and more.
// Threads   The writer's.
// Source    docs/format.md 7 and 8.
#pragma once

#include <functional>
#include <optional>

#include "persistent_data/btree.h"
#include "persistent_data/space_map.h"
#include "persistent_data/view_quarantine.h"

namespace uthin::persistent_data {

// The two-bit field of `count`, 3 for everything from 3 up.
void set_bitmap_count(std::byte* bitmap, std::uint32_t index, std::uint32_t count) noexcept;

[[nodiscard]] constexpr std::uint64_t bitmaps_for(std::uint64_t nr_blocks) noexcept {
    // Without an overflow: a damaged superblock may name any number.
    return nr_blocks / entries_per_bitmap + (nr_blocks % entries_per_bitmap != 0 ? 1 : 0);
}

// Where one bitmap is now and where it was at the last commit.
struct bitmap_slot {
    disk_index_entry now;
    // 0: there was none (block 0 is the superblock).
    std::uint64_t committed_blocknr = 0;
    bool dirty = false;
};

// Where the slots are kept: in one index block, or in a btree.
class bitmap_index {
public:
    bitmap_index() = default;
    bitmap_index(const bitmap_index&) = delete;
    bitmap_index& operator=(const bitmap_index&) = delete;
    virtual ~bitmap_index() = default;
    // Stays valid until the next commit.
    [[nodiscard]] virtual result<bitmap_slot*> slot(std::uint64_t bitmap) = 0;
    // The slot became dirty.
    virtual void changed(std::uint64_t bitmap) = 0;
};

class bitmap_counts {
public:
    bitmap_counts(transaction_manager& tm, bitmap_index& index);

    void open(const disk_space_map_root& root);
    [[nodiscard]] result<void> create_overflow();

    [[nodiscard]] result<std::uint32_t> count(std::uint64_t block);
    [[nodiscard]] result<void> inc(std::uint64_t block);
    [[nodiscard]] result<void> dec(std::uint64_t block);
    [[nodiscard]] result<void> inc_range(std::uint64_t begin, std::uint64_t end);
    [[nodiscard]] result<void> dec_range(std::uint64_t begin, std::uint64_t end);

    // First block in [begin, end) that is free now and was at the last commit, is not quarantined
    // and not refused by `taken`. Hints (nr_free, none_free_before) are only believed when
    // `trust_hints`.
    template <class Taken>
    [[nodiscard]] result<std::optional<std::uint64_t>> find_free(std::uint64_t begin,
                                                                 std::uint64_t end,
                                                                 bool trust_hints,
                                                                 const Taken& taken);

    // The end of the run of such blocks that begins at `begin`, which is one of them, at most
    // `limit`.
    template <class Taken>
    [[nodiscard]] result<std::uint64_t> free_run_end(std::uint64_t begin, std::uint64_t limit,
                                                     const Taken& taken);

    // Adds zero-filled bitmaps up to `nr_blocks`.
    [[nodiscard]] result<void> extend(std::uint64_t nr_blocks);
    // Makes the map longer before its bitmaps exist (metadata space map only).
    void set_nr_blocks(std::uint64_t nr_blocks) noexcept { nr_blocks_ = nr_blocks; }
    void committed(std::uint64_t transaction, bool views_live);

    [[nodiscard]] std::uint64_t nr_blocks() const noexcept { return nr_blocks_; }
    [[nodiscard]] std::uint64_t nr_allocated() const noexcept { return nr_allocated_; }
    [[nodiscard]] std::uint64_t committed_nr_blocks() const noexcept { return committed_blocks_; }
    [[nodiscard]] std::uint64_t committed_nr_allocated() const noexcept {
        return committed_allocated_;
    }
    [[nodiscard]] metadata_block overflow_root() const noexcept { return overflow_root_; }
    [[nodiscard]] view_quarantine& quarantine() noexcept { return quarantine_; }
    // Called for each block whose count falls to 0, inside the change.
    void set_freed_hook(std::function<void(std::uint64_t)> hook) { freed_hook_ = std::move(hook); }

private:
    // The bitmap changed last; its private copy stays put until the next publish.
    struct open_bitmap {
        std::uint64_t bitmap = UINT64_MAX;
        std::uint64_t generation = 0;
        bitmap_slot* slot = nullptr;
        std::byte* bytes = nullptr;
    };
    [[nodiscard]] result<void> add_bitmaps(std::uint64_t have, std::uint64_t need);
    [[nodiscard]] result<void> open_for_change(std::uint64_t bitmap);
    [[nodiscard]] result<void> change(std::uint64_t block, bool up);
    [[nodiscard]] result<void> become_free(std::uint64_t block);
    [[nodiscard]] result<bool> was_used_at_commit(const bitmap_slot& slot, std::uint32_t index);
    void set_count(std::uint32_t index, std::uint32_t count) noexcept {
        set_bitmap_count(opened_.bytes, index, count);
    }
    // Returns the new count.
    [[nodiscard]] result<std::uint32_t> change_overflow(std::uint64_t block, std::uint32_t field,
                                                        bool up);
    [[nodiscard]] result<void> check_range(std::uint64_t begin, std::uint64_t end) const;
    struct bitmap_pages {
        block_ref now;
        block_ref committed;
    };
    // `committed` is `now` where a bitmap is new or has not changed.
    [[nodiscard]] result<bitmap_pages> read_bitmap(const bitmap_slot& slot);
    // Index in the bitmap of the first entry in [begin, end) that is 0 in both; `end` when there is
    // none.
    [[nodiscard]] static std::uint32_t scan(const std::byte* now, const std::byte* committed,
                                            std::uint32_t begin, std::uint32_t end) noexcept;

    transaction_manager& tm_;
    bitmap_index& index_;
    value_rule no_rule_;
    btree overflow_;
    metadata_block overflow_root_;
    std::uint64_t nr_blocks_ = 0;
    std::uint64_t nr_allocated_ = 0;
    std::uint64_t committed_blocks_ = 0;
    std::uint64_t committed_allocated_ = 0;
    view_quarantine quarantine_;
    std::function<void(std::uint64_t)> freed_hook_;
    open_bitmap opened_;
};

template <class Taken>
result<std::optional<std::uint64_t>> bitmap_counts::find_free(std::uint64_t begin,
                                                              std::uint64_t end, bool trust_hints,
                                                              const Taken& taken) {
    while (begin < end) {
        const std::uint64_t bitmap = begin / entries_per_bitmap;
        const std::uint64_t first = bitmap * entries_per_bitmap;
        const auto stop =
            static_cast<std::uint32_t>(std::min<std::uint64_t>(entries_per_bitmap, end - first));
        const bitmap_slot* slot = UTHIN_TRY(index_.slot(bitmap));
        auto at = static_cast<std::uint32_t>(begin - first);
        if (trust_hints) {
            if (slot->now.nr_free == 0) {
                begin = first + entries_per_bitmap;
                continue;
            }
            at = std::max<std::uint32_t>(at, slot->now.none_free_before);
        }
        const bitmap_pages pages = UTHIN_TRY(read_bitmap(*slot));
        while ((at = scan(pages.now.bytes().data(), pages.committed.bytes().data(), at, stop)) <
               stop) {
            const std::uint64_t block = first + at;
            if (!quarantine_.contains(block) && !taken(block)) {
                return block;
            }
            ++at;
        }
        begin = first + entries_per_bitmap;
    }
    return std::nullopt;
}

template <class Taken>
result<std::uint64_t> bitmap_counts::free_run_end(std::uint64_t begin, std::uint64_t limit,
                                                  const Taken& taken) {
    std::uint64_t end = begin + 1;
    while (end < limit) {
        const std::uint64_t bitmap = end / entries_per_bitmap;
        const std::uint64_t first = bitmap * entries_per_bitmap;
        const std::uint64_t stop = std::min(first + entries_per_bitmap, limit);
        const bitmap_slot* slot = UTHIN_TRY(index_.slot(bitmap));
        const bitmap_pages pages = UTHIN_TRY(read_bitmap(*slot));
        for (; end < stop; ++end) {
            const auto at = static_cast<std::uint32_t>(end - first);
            if (scan(pages.now.bytes().data(), pages.committed.bytes().data(), at, at + 1) != at ||
                quarantine_.contains(end) || taken(end)) {
                return end;
            }
        }
    }
    return end;
}

}  // namespace uthin::persistent_data
