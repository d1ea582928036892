// Reference counts of the data device, kept on the metadata device.
//
// Index entries are read on demand and kept in memory (about 64 bytes for each 16,320 data blocks
// touched); changed ones go into the index tree at commit.
//
// Invariants, threads  as space_map.h.
// Failures  no_data_space leaves the map as it was and is no reason to abort.
// Source    docs/format.md 7.4 and 8.
#pragma once

#include <unordered_map>

#include "persistent_data/space_map_common.h"

namespace uthin::persistent_data {

class space_map_disk final : public space_map {
public:
    explicit space_map_disk(transaction_manager& tm);

    [[nodiscard]] result<void> format();
    void open(const disk_space_map_root& root);

    [[nodiscard]] std::uint64_t nr_blocks() const override { return counts_.nr_blocks(); }
    [[nodiscard]] std::uint64_t committed_nr_blocks() const noexcept {
        return counts_.committed_nr_blocks();
    }
    [[nodiscard]] std::uint64_t nr_free() const override;
    [[nodiscard]] result<std::uint32_t> count(std::uint64_t block) override;
    [[nodiscard]] result<void> inc(std::uint64_t begin, std::uint64_t end) override;
    [[nodiscard]] result<void> dec(std::uint64_t begin, std::uint64_t end) override;
    [[nodiscard]] result<std::uint64_t> new_block() override;
    // Between 1 and `count_max` consecutive blocks; returns [begin, end).
    [[nodiscard]] result<range<data_block>> new_range(std::uint64_t count_max);
    [[nodiscard]] result<void> extend(std::uint64_t nr_blocks) override;
    [[nodiscard]] result<void> commit() override;
    void committed() override { committed_at(0, false); }
    void committed_at(std::uint64_t transaction, bool views_live);
    [[nodiscard]] disk_space_map_root root() const override;

    // Called inside an allocation with the number of free blocks left.
    void set_allocation_hook(std::function<void(std::uint64_t)> hook) { hook_ = std::move(hook); }
    void set_freed_hook(std::function<void(std::uint64_t)> hook) {
        counts_.set_freed_hook(std::move(hook));
    }
    // The first run of at most `count_max` blocks in `within` that could be allocated; it cannot be
    // until release_held(). Counts stay as they are. Absent: there is none.
    [[nodiscard]] result<std::optional<range<data_block>>> hold_free(range<data_block> within,
                                                                     std::uint64_t count_max);
    void release_held() noexcept;
    [[nodiscard]] bool holds_some() const noexcept { return !held_.empty(); }
    [[nodiscard]] view_quarantine& quarantine() noexcept { return counts_.quarantine(); }
    void forget_exhaustion() noexcept { exhausted_ = false; }

private:
    class index_tree final : public bitmap_index {
    public:
        explicit index_tree(transaction_manager& tm);
        [[nodiscard]] result<bitmap_slot*> slot(std::uint64_t bitmap) override;
        void changed(std::uint64_t bitmap) override { dirty.push_back(bitmap); }

        transaction_manager& tm;
        value_rule no_rule;
        btree tree;
        metadata_block root;
        // Bitmaps from here on are not in the tree yet.
        std::uint64_t committed_bitmaps = 0;
        std::unordered_map<std::uint64_t, bitmap_slot> slots;
        std::vector<std::uint64_t> dirty;
    };

    [[nodiscard]] result<std::uint64_t> find_free();
    [[nodiscard]] result<std::uint64_t> free_run_end(std::uint64_t begin, std::uint64_t limit);
    [[nodiscard]] bool is_held(std::uint64_t block) const noexcept;
    [[nodiscard]] result<void> check_range(std::uint64_t begin, std::uint64_t end) const;

    index_tree index_;
    bitmap_counts counts_;
    std::uint64_t cursor_ = 0;
    std::uint64_t allocated_since_commit_ = 0;
    bool exhausted_ = false;
    std::vector<range<data_block>> held_;
    std::function<void(std::uint64_t)> hook_;
};

}  // namespace uthin::persistent_data
