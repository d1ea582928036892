// Reference counts of the metadata device, kept in the blocks that they count.
//
// Changing a count copies a bitmap, which allocates a block, which changes a count. Every change
// therefore goes through a queue in arrival order (first in, first out: a decrement must not
// overtake its increment); the outermost caller drains it, and changes that arrive while it drains
// are only queued. After the first touch in a transaction a bitmap is edited in place, so draining
// ends.
//
// Invariants
//   SM1..SM3 of space_map.h
//   MM1  count() is the stored count plus queued increments less queued decrements. A change that
//   copies the very block whose count it changes (a bitmap, a node of large counts) also takes the
//   reference of the pointer that moved to the copy.
//   MM2  One index block, at most 255 bitmaps.
// Threads   The writer's.
// Failures  no_metadata_space at the start of new_block leaves the map as it was.
// Source    docs/format.md 7.4, 7.7, 7.8.
#pragma once

#include <array>
#include <deque>

#include "persistent_data/space_map_common.h"

namespace uthin::persistent_data {

class space_map_metadata final : public space_map {
public:
    explicit space_map_metadata(transaction_manager& tm);

    [[nodiscard]] result<void> format(std::uint64_t nr_blocks);
    [[nodiscard]] result<void> open(const disk_space_map_root& root);

    [[nodiscard]] std::uint64_t nr_blocks() const override { return counts_.nr_blocks(); }
    [[nodiscard]] std::uint64_t nr_free() const override;
    [[nodiscard]] result<std::uint32_t> count(std::uint64_t block) override;
    [[nodiscard]] result<void> inc(std::uint64_t begin, std::uint64_t end) override;
    [[nodiscard]] result<void> dec(std::uint64_t begin, std::uint64_t end) override;
    [[nodiscard]] result<std::uint64_t> new_block() override;
    [[nodiscard]] result<void> extend(std::uint64_t nr_blocks) override;
    [[nodiscard]] result<void> commit() override;
    void committed() override { committed_at(0, false); }
    void committed_at(std::uint64_t transaction, bool views_live);
    [[nodiscard]] disk_space_map_root root() const override;

    // Called inside an allocation with the number of free blocks left.
    void set_allocation_hook(std::function<void(std::uint64_t)> hook) { hook_ = std::move(hook); }
    [[nodiscard]] view_quarantine& quarantine() noexcept { return counts_.quarantine(); }
    // Counts were asked to change and have not been, because of a failure.
    [[nodiscard]] bool has_pending() const noexcept { return !queue_.empty(); }
    // A view was released: blocks may be free that were not.
    void forget_exhaustion() noexcept { exhausted_ = false; }

private:
    class index_block final : public bitmap_index {
    public:
        [[nodiscard]] result<bitmap_slot*> slot(std::uint64_t bitmap) override;
        void changed(std::uint64_t) override { any_changed = true; }
        std::array<bitmap_slot, metadata_index_entries_max> slots;
        bool any_changed = false;
    };
    struct pending {
        std::uint64_t begin;
        std::uint64_t end;
        bool up;
    };

    [[nodiscard]] result<void> drain();
    [[nodiscard]] result<std::uint64_t> find_free();
    [[nodiscard]] bool is_own(std::uint64_t block) const noexcept;
    void rewind_cursor() noexcept;
    [[nodiscard]] bool promised(std::uint64_t block) const noexcept;
    [[nodiscard]] result<std::uint64_t> bootstrap_block();
    [[nodiscard]] result<void> settle_bootstrap(std::uint64_t counted_to);

    transaction_manager& tm_;
    index_block index_;
    bitmap_counts counts_;
    metadata_block index_root_;
    std::deque<pending> queue_;
    bool draining_ = false;
    // Everything from cursor_ up is free and nothing below it is: while formatting and growing.
    bool bootstrap_ = false;
    std::uint64_t cursor_ = 0;
    std::uint64_t allocated_since_commit_ = 0;
    bool exhausted_ = false;
    std::function<void(std::uint64_t)> hook_;
};

}  // namespace uthin::persistent_data
