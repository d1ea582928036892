// Reading: lookup, highest key, counting and the cursor.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "persistent_data/btree.h"

namespace uthin::persistent_data {
namespace {

constexpr std::uint32_t prefetch_children_max = 32;

std::unexpected<error> too_deep(metadata_block root) {
    return fail(error_code::corrupt, fmt::format("btree of root {}: deeper than {} levels",
                                                 root.value(), btree_depth_max));
}

// For readers that do not know what the leaves of the tree hold.
result<void> check_kind(const node_view& node, metadata_block where) {
    return check_tree_node(node, where, node.value_size_bytes());
}

// A tree holds each block once, so a walk that reads more of them than the device has goes in
// circles.
result<void> count_visit(std::uint64_t& visited, block_source& source, metadata_block where) {
    if (++visited > source.block_count()) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: reached again and again", where.value()));
    }
    return {};
}

class key_below_search {
public:
    key_below_search(block_source& source, std::uint64_t key) : source_(source), key_(key) {}

    result<std::optional<std::uint64_t>> find(metadata_block where, metadata_block parent,
                                              std::uint32_t depth) {
        if (depth > btree_depth_max) {
            return too_deep(where);
        }
        UTHIN_TRY(check_pointer(where, parent, source_.block_count()));
        UTHIN_TRY(count_visit(visited_, source_, where));
        const block_ref node = UTHIN_TRY(source_.read(where, block_kind::btree_node));
        const node_view view(node.bytes());
        UTHIN_TRY(check_kind(view, where));
        int index = view.lower_bound(key_);
        if (view.is_leaf()) {
            return index < 0 ? std::nullopt
                             : std::optional(view.key(static_cast<std::uint32_t>(index)));
        }
        // A child may hold less than its bound promises, or nothing: then the one before it counts.
        for (; index >= 0; --index) {
            const auto found =
                UTHIN_TRY(find(view.child(static_cast<std::uint32_t>(index)), where, depth + 1));
            if (found) {
                return found;
            }
        }
        return std::nullopt;
    }

private:
    block_source& source_;
    std::uint64_t key_;
    std::uint64_t visited_ = 0;
};

class range_counter {
public:
    range_counter(block_source& source, std::uint64_t begin, std::uint64_t last)
        : source_(source), begin_(begin), last_(last) {}

    // Keys of the node are in [node_begin, node_last].
    result<std::uint64_t> count(metadata_block where, metadata_block parent, std::uint32_t depth,
                                std::uint64_t node_begin, std::uint64_t node_last) {
        if (depth > btree_depth_max) {
            return too_deep(where);
        }
        UTHIN_TRY(check_pointer(where, parent, source_.block_count()));
        UTHIN_TRY(count_visit(visited_, source_, where));
        const block_ref node = UTHIN_TRY(source_.read(where, block_kind::btree_node));
        const node_view view(node.bytes());
        UTHIN_TRY(check_kind(view, where));
        if (!view.is_leaf()) {
            return count_children(view, where, depth, node_last);
        }
        if (begin_ <= node_begin && node_last <= last_) {
            return view.nr_entries();
        }
        const int below = begin_ == 0 ? -1 : view.lower_bound(begin_ - 1);
        return static_cast<std::uint64_t>(std::max(0, view.lower_bound(last_) - below));
    }

private:
    result<std::uint64_t> count_children(const node_view& view, metadata_block where,
                                         std::uint32_t depth, std::uint64_t node_last) {
        std::uint64_t total = 0;
        const int first = std::max(0, view.lower_bound(begin_));
        for (auto i = static_cast<std::uint32_t>(first);
             i < view.nr_entries() && view.key(i) <= last_; ++i) {
            const std::uint64_t child_last =
                i + 1 < view.nr_entries() ? view.key(i + 1) - 1 : node_last;
            total += UTHIN_TRY(count(view.child(i), where, depth + 1, view.key(i), child_last));
        }
        return total;
    }

    block_source& source_;
    std::uint64_t begin_;
    std::uint64_t last_;
    std::uint64_t visited_ = 0;
};

// Strictly ascending and within [key_begin, key_last].
result<void> check_keys(const node_view& node, metadata_block where, std::uint64_t key_begin,
                        std::uint64_t key_last) {
    const std::uint32_t count = node.nr_entries();
    if (count == 0) {
        return {};
    }
    bool ascending = true;
    for (std::uint32_t i = 1; i < count; ++i) {
        ascending &= node.key(i - 1) < node.key(i);
    }
    if (!ascending) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: keys do not ascend", where.value()));
    }
    if (node.key(0) < key_begin || node.key(count - 1) > key_last) {
        return fail(
            error_code::corrupt,
            fmt::format("btree node {}: keys {}..{} beyond its parent's bounds {}..{}",
                        where.value(), node.key(0), node.key(count - 1), key_begin, key_last));
    }
    return {};
}

}  // namespace

result<bool> btree_lookup(block_source& source, metadata_block root, std::uint64_t key,
                          std::span<std::byte> value) {
    const std::uint64_t block_count = source.block_count();
    metadata_block where = root;
    metadata_block parent = root;
    for (std::uint32_t depth = 0; depth <= btree_depth_max; ++depth) {
        UTHIN_TRY(check_pointer(where, parent, block_count));
        const block_ref node = UTHIN_TRY(source.read(where, block_kind::btree_node));
        const node_view view(node.bytes());
        UTHIN_TRY(check_tree_node(view, where, static_cast<std::uint32_t>(value.size())));
        const int found = view.lower_bound(key);
        if (found < 0) {
            return false;
        }
        const auto index = static_cast<std::uint32_t>(found);
        if (view.is_leaf()) {
            if (view.key(index) != key) {
                return false;
            }
            std::memcpy(value.data(), view.value(index), value.size());
            return true;
        }
        parent = where;
        where = view.child(index);
    }
    return too_deep(root);
}

result<std::optional<std::uint64_t>> btree_lookup_u64(block_source& source, metadata_block root,
                                                      std::uint64_t key) {
    std::array<std::byte, 8> value;
    if (!UTHIN_TRY(btree_lookup(source, root, key, value))) {
        return std::nullopt;
    }
    return load_le<std::uint64_t>(value.data());
}

result<std::optional<std::uint64_t>> btree_highest_key(block_source& source, metadata_block root) {
    return btree_key_at_or_below(source, root, UINT64_MAX);
}

result<std::optional<std::uint64_t>> btree_key_at_or_below(block_source& source,
                                                           metadata_block root, std::uint64_t key) {
    return key_below_search(source, key).find(root, root, 0);
}

result<std::uint64_t> btree_count_range(block_source& source, metadata_block root,
                                        std::uint64_t begin, std::uint64_t end) {
    if (begin >= end) {
        return 0;
    }
    return range_counter(source, begin, end - 1).count(root, root, 0, 0, UINT64_MAX);
}

// ---- cursor

std::uint64_t btree_cursor::key() const noexcept {
    const level& leaf = levels_.back();
    return node_view(leaf.node.bytes()).key(leaf.index);
}

const std::byte* btree_cursor::value() const noexcept {
    const level& leaf = levels_.back();
    return node_view(leaf.node.bytes()).value(leaf.index);
}

result<void> btree_cursor::seek(std::uint64_t key) {
    levels_.clear();
    auto moved = descend(root_, key, 0, UINT64_MAX);
    if (moved) {
        moved = skip_exhausted_nodes();
    }
    if (!moved) {
        levels_.clear();
    }
    return moved;
}

result<void> btree_cursor::next() {
    ++levels_.back().index;
    auto moved = skip_exhausted_nodes();
    if (!moved) {
        levels_.clear();
    }
    return moved;
}

result<void> btree_cursor::descend(metadata_block where, std::uint64_t key, std::uint64_t key_begin,
                                   std::uint64_t key_last) {
    const std::uint64_t block_count = source_.block_count();
    metadata_block parent = levels_.empty() ? root_ : levels_.back().node.where();
    while (levels_.size() <= btree_depth_max) {
        UTHIN_TRY(check_pointer(where, parent, block_count));
        block_ref node = UTHIN_TRY(source_.read(where, block_kind::btree_node));
        const node_view view(node.bytes());
        UTHIN_TRY(check_tree_node(view, where, value_size_));
        UTHIN_TRY(check_keys(view, where, key_begin, key_last));
        const int below = view.lower_bound(key);
        auto index = static_cast<std::uint32_t>(std::max(below, 0));
        if (view.is_leaf() && below >= 0 && view.key(index) < key) {
            ++index;
        }
        levels_.push_back({std::move(node), index, index + 1, key_begin, key_last});
        if (view.is_leaf() || view.nr_entries() == 0) {
            return {};
        }
        parent = where;
        where = view.child(index);
        key_begin = view.key(index);
        key_last = index + 1 < view.nr_entries() ? view.key(index + 1) - 1 : key_last;
    }
    return too_deep(root_);
}

// Ends because bounds of siblings do not overlap: only nodes without entries can be met twice, and
// nothing hangs below those.
result<void> btree_cursor::skip_exhausted_nodes() {
    while (!levels_.empty()) {
        level& current = levels_.back();
        const node_view view(current.node.bytes());
        if (current.index >= view.nr_entries()) {
            levels_.pop_back();
            if (!levels_.empty()) {
                ++levels_.back().index;
            }
            continue;
        }
        if (view.is_leaf()) {
            return {};
        }
        prefetch_children(current);
        const std::uint32_t index = current.index;
        const std::uint64_t key_last =
            index + 1 < view.nr_entries() ? view.key(index + 1) - 1 : current.key_last;
        UTHIN_TRY(descend(view.child(index), 0, view.key(index), key_last));
    }
    return {};
}

// Only a cursor that moves on gets here, never a single seek.
void btree_cursor::prefetch_children(level& parent) {
    if (parent.index < parent.prefetched) {
        return;
    }
    const node_view view(parent.node.bytes());
    const std::uint32_t count = std::min(view.nr_entries() - parent.index, prefetch_children_max);
    parent.prefetched = parent.index + count;
    if (count < 2) {
        return;
    }
    std::array<metadata_block, prefetch_children_max> children;
    for (std::uint32_t i = 0; i < count; ++i) {
        children[i] = view.child(parent.index + i);
    }
    source_.prefetch(std::span(children).first(count), block_kind::btree_node);
}

}  // namespace uthin::persistent_data
