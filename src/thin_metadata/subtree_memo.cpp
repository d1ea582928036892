#include "thin_metadata/subtree_memo.h"

namespace uthin::thin_metadata {

namespace {

constexpr std::uint64_t limit = UINT32_MAX;

}  // namespace

std::optional<std::uint64_t> subtree_memo::find(metadata_block node) const {
    const lock_guard held(lock_);
    const entry* const known = entries_.find(node.value());
    if (known == nullptr || known->mappings_plus_one == 0) {
        return std::nullopt;
    }
    return known->mappings_plus_one - 1U;
}

void subtree_memo::remember(metadata_block node, std::uint64_t mappings,
                            std::uint64_t transaction) {
    if (node.value() >= metadata_blocks_max || mappings >= limit) {
        return;
    }
    const lock_guard held(lock_);
    entry& known = entries_[node.value()];
    if (known.changed_in <= transaction && all_changed_in_ <= transaction) {
        known.mappings_plus_one = static_cast<std::uint32_t>(mappings + 1);
    }
}

void subtree_memo::changed(metadata_block node, std::uint64_t transaction) {
    const lock_guard held(lock_);
    // A number that does not fit is in every view's future: nothing is remembered any more.
    const auto number = static_cast<std::uint32_t>(transaction < limit ? transaction : limit);
    entries_[node.value()] = {.mappings_plus_one = 0, .changed_in = number};
}

void subtree_memo::changed_everywhere(std::uint64_t transaction) {
    const lock_guard held(lock_);
    entries_ = paged_array<entry, 4096>(metadata_blocks_max);
    all_changed_in_ = transaction;
}

}  // namespace uthin::thin_metadata
