// Copy-on-write of metadata blocks within one transaction.
//
// Invariants
//   TM1  A block that existed at the last commit is copied before it is changed, once per
//   transaction. TM2  Copying a block that others point to as well gives its children one more
//   reference (the caller's part).
// Threads   The writer's.
// Failures  Any failure but of a plain read poisons the transaction: abort.
// Source    docs/format.md 9.
#pragma once

#include <functional>
#include <memory>
#include <unordered_set>

#include "persistent_data/block_manager.h"
#include "persistent_data/space_map.h"

namespace uthin::persistent_data {

class space_map_metadata;

// A block that may be changed in place until the next publish().
struct shadow {
    metadata_block where;
    block_bytes bytes;
    // The original is still somebody else's: its children have one more pointer now and must be
    // incremented.
    bool was_shared = false;
};

class transaction_manager {
public:
    // `blocks` outlives the object.
    explicit transaction_manager(block_manager& blocks);
    ~transaction_manager();

    // Builds the metadata space map on a blank device of `nr_blocks`, or opens the one described by
    // `root`.
    [[nodiscard]] result<void> format_space_map(std::uint64_t nr_blocks);
    [[nodiscard]] result<void> open_space_map(const disk_space_map_root& root);

    // A zero-filled block.
    [[nodiscard]] result<shadow> new_block(block_kind kind);
    // `where` itself when it belongs to this transaction alone, else a copy in a new block.
    [[nodiscard]] result<shadow> shadow_block(metadata_block where, block_kind kind);
    // The same for a block that is known to belong to it (is_exclusive_shadow) and was just read.
    [[nodiscard]] result<shadow> edit_own(const block_ref& page);
    // The writer's view.
    [[nodiscard]] result<block_ref> read(metadata_block where, block_kind kind);
    [[nodiscard]] result<void> inc(metadata_block where);
    [[nodiscard]] result<void> dec(metadata_block where);
    [[nodiscard]] result<std::uint32_t> count(metadata_block where);
    // Copies of this block are not needed: made in this transaction, never shared since.
    [[nodiscard]] bool is_exclusive_shadow(metadata_block where) const {
        return exclusive_.contains(where.value());
    }

    // Called for each block that is used anew, and for each one whose pointers others got while it
    // lives on: what is below it has more owners from now on.
    void set_owner_hook(std::function<void(metadata_block)> hook) { owner_hook_ = std::move(hook); }
    // By whoever gives pointers of a block away without copying it.
    void tell_owner_hook(metadata_block where);

    // The transaction became durable: its blocks are not its own any more.
    void committed();

    [[nodiscard]] block_manager& blocks() noexcept { return blocks_; }
    // A block_source over the writer's view.
    [[nodiscard]] block_source& source() noexcept;
    [[nodiscard]] space_map_metadata& metadata_map() noexcept { return *metadata_map_; }

private:
    class writer_source;
    [[nodiscard]] result<metadata_block> free_block();

    block_manager& blocks_;
    std::unique_ptr<writer_source> source_;
    std::unique_ptr<space_map_metadata> metadata_map_;
    std::unordered_set<std::uint64_t> exclusive_;
    std::function<void(metadata_block)> owner_hook_;
};

}  // namespace uthin::persistent_data
