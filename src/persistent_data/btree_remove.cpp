// Removing ranges and whole trees, and making what is left legal again.
#include <algorithm>

#include <fmt/format.h>

#include "persistent_data/btree.h"

namespace uthin::persistent_data {
namespace {

constexpr std::uint64_t internal_fanout = max_entries_for(8);
// Below this a node cannot be shared out between two legal ones.
constexpr std::uint32_t max_entries_min = 3;
// Far more than one removal can leave to repair: only a damaged tree gets here.
constexpr std::uint32_t repair_steps_max = 100'000;

// Nodes of a subtree whose nodes are all full; saturates.
std::uint64_t nodes_at_most(std::uint32_t height) {
    std::uint64_t nodes = 1;
    for (std::uint32_t i = 0; i < height; ++i) {
        if (nodes > UINT64_MAX / (internal_fanout + 1)) {
            return UINT64_MAX;
        }
        nodes = nodes * internal_fanout + 1;
    }
    return nodes;
}

// An internal node with one child has nobody to borrow from, however small it may be.
std::uint32_t min_entries(const node_view& node) {
    return std::max(node.max_entries() / 3, node.is_leaf() ? 1U : 2U);
}

std::unexpected<error> uneven(metadata_block where) {
    return fail(error_code::corrupt,
                fmt::format("btree node {}: leaves are not at one depth", where.value()));
}

}  // namespace

// ---- whole trees

result<std::uint32_t> btree::height_of(metadata_block root) {
    metadata_block where = root;
    for (std::uint32_t height = 0; height <= btree_depth_max; ++height) {
        const block_ref node = UTHIN_TRY(read_node(where));
        const node_view view(node.bytes());
        if (view.is_leaf()) {
            return height;
        }
        if (view.nr_entries() == 0) {
            return fail(error_code::corrupt,
                        fmt::format("btree node {}: internal and empty", where.value()));
        }
        where = view.child(0);
    }
    return fail(error_code::corrupt, fmt::format("btree of root {}: deeper than {} levels",
                                                 root.value(), btree_depth_max));
}

result<void> btree::destroy(metadata_block root) {
    UTHIN_TRY(check_pointer(root, root, tm_.source().block_count()));
    if (UTHIN_TRY(tm_.count(root)) > 1) {
        return tm_.dec(root);
    }
    drop_totals totals;
    return drop_subtree(root, UTHIN_TRY(height_of(root)), totals);
}

// Reads the nodes above the leaves and the leaves' headers; each batch of children in parallel.
// Nothing is freed on the way that would give a circle away, so the nodes are counted.
result<std::uint64_t> btree::count_subtree(metadata_block where, std::uint32_t height,
                                           drop_totals& totals) {
    if (++totals.counted_nodes > tm_.source().block_count()) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: reached again and again", where.value()));
    }
    const block_ref node = UTHIN_TRY(read_node(where));
    const node_view view(node.bytes());
    if (view.is_leaf() != (height == 0)) {
        return uneven(where);
    }
    if (view.is_leaf()) {
        return view.nr_entries();
    }
    std::vector<metadata_block> children;
    for (std::uint32_t i = 0; i < view.nr_entries(); ++i) {
        UTHIN_TRY(check_pointer(view.child(i), where, tm_.source().block_count()));
        children.push_back(view.child(i));
    }
    tm_.source().prefetch(children, block_kind::btree_node);
    std::uint64_t entries = 0;
    for (const metadata_block child : children) {
        entries += UTHIN_TRY(count_subtree(child, height - 1, totals));
    }
    return entries;
}

// Ends on any damage: depth is bounded by `height`, and a node walked here counts as free
// afterwards, so that a second pointer to it is an error.
result<void> btree::drop_subtree(metadata_block where, std::uint32_t height, drop_totals& totals) {
    UTHIN_TRY(check_pointer(where, where, tm_.source().block_count()));
    ++totals.nodes;
    const std::uint32_t pointers = UTHIN_TRY(tm_.count(where));
    if (pointers == 0) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: counts as free", where.value()));
    }
    if (pointers > 1) {
        ++totals.shared_subtrees;
        if (totals.count_shared) {
            totals.entries += UTHIN_TRY(count_subtree(where, height, totals));
        }
        return tm_.dec(where);
    }
    const block_ref node = UTHIN_TRY(read_node(where));
    const node_view view(node.bytes());
    if (view.is_leaf() != (height == 0)) {
        return uneven(where);
    }
    if (view.is_leaf()) {
        totals.entries += view.nr_entries();
        if (view.nr_entries() > 0) {
            UTHIN_TRY(rule_.dec(view.value(0), view.nr_entries()));
        }
    } else {
        for (std::uint32_t i = 0; i < view.nr_entries(); ++i) {
            UTHIN_TRY(drop_subtree(view.child(i), height - 1, totals));
        }
    }
    return tm_.dec(where);
}

// ---- the tree is made legal again along the path to a key

class btree_repairer {
public:
    btree_repairer(btree& tree, metadata_block root) : tree_(tree), tm_(tree.tm_), root_(root) {}

    [[nodiscard]] result<void> repair(std::uint64_t left_key, std::uint64_t right_key) {
        std::uint32_t before = 0;
        do {
            before = steps_;
            UTHIN_TRY(repair_path(left_key));
            UTHIN_TRY(repair_path(right_key));
        } while (steps_ != before);
        return {};
    }

    [[nodiscard]] metadata_block root() const noexcept { return root_; }

private:
    static std::uint32_t route(const node_view& node, std::uint64_t key) {
        return static_cast<std::uint32_t>(std::max(0, node.lower_bound(key)));
    }

    // Each step takes a node away or makes two legal, from the root down.
    [[nodiscard]] result<void> repair_path(std::uint64_t key) {
        while (steps_ < repair_steps_max) {
            UTHIN_TRY(collapse_root());
            const std::optional<std::uint32_t> depth = UTHIN_TRY(find_underfull(key));
            if (!depth) {
                return {};
            }
            ++steps_;
            UTHIN_TRY(mend_child(key, *depth));
        }
        return fail(error_code::corrupt,
                    fmt::format("btree of root {}: cannot be made legal", root_.value()));
    }

    // A root without a choice gives way to its only child.
    [[nodiscard]] result<void> collapse_root() {
        for (std::uint32_t depth = 0; depth <= btree_depth_max; ++depth) {
            const block_ref node = UTHIN_TRY(tree_.read_node(root_));
            const node_view view(node.bytes());
            if (view.is_leaf() || view.nr_entries() != 1) {
                return {};
            }
            const metadata_block child = view.child(0);
            UTHIN_TRY(check_pointer(child, root_, tm_.source().block_count()));
            // If the old root lives on, its pointer stays and ours is one more.
            if (UTHIN_TRY(tm_.count(root_)) > 1) {
                tm_.tell_owner_hook(root_);
                UTHIN_TRY(tm_.inc(child));
            }
            UTHIN_TRY(tm_.dec(root_));
            root_ = child;
        }
        return fail(error_code::corrupt, fmt::format("btree of root {}: deeper than {} levels",
                                                     root_.value(), btree_depth_max));
    }

    // Depth of the first parent on the path whose child on the path is underfull.
    [[nodiscard]] result<std::optional<std::uint32_t>> find_underfull(std::uint64_t key) {
        block_ref node = UTHIN_TRY(tree_.read_node(root_));
        for (std::uint32_t depth = 0; depth <= btree_depth_max; ++depth) {
            const node_view view(node.bytes());
            if (view.is_leaf()) {
                return std::nullopt;
            }
            if (view.nr_entries() < 2) {
                return fail(error_code::corrupt,
                            fmt::format("btree node {}: internal with {} entries",
                                        node.where().value(), view.nr_entries()));
            }
            block_ref child = UTHIN_TRY(tree_.read_node(view.child(route(view, key))));
            const node_view below(child.bytes());
            if (below.nr_entries() < min_entries(below)) {
                return depth;
            }
            node = std::move(child);
        }
        return fail(error_code::corrupt, fmt::format("btree of root {}: deeper than {} levels",
                                                     root_.value(), btree_depth_max));
    }

    [[nodiscard]] result<void> mend_child(std::uint64_t key, std::uint32_t parent_depth) {
        shadow parent = UTHIN_TRY(tree_.shadow_node(root_));
        root_ = parent.where;
        for (std::uint32_t depth = 0; depth < parent_depth; ++depth) {
            parent = UTHIN_TRY(tree_.shadow_child(parent, route(node_view(parent.bytes), key)));
        }
        const node_view up(parent.bytes);
        const std::uint32_t index = route(up, key);
        const std::uint32_t low = UTHIN_TRY(prefer_left(up, index)) ? index - 1 : index;
        return merge_or_share(parent, low);
    }

    // The neighbour that is not shared need not be copied with all its children's counts.
    [[nodiscard]] result<bool> prefer_left(const node_view& parent, std::uint32_t index) {
        if (index == 0 || index + 1 == parent.nr_entries()) {
            return index > 0;
        }
        if (UTHIN_TRY(tm_.count(parent.child(index - 1))) <= 1) {
            return true;
        }
        return UTHIN_TRY(tm_.count(parent.child(index + 1))) > 1;
    }

    // Children `low` and `low` + 1 become one node if that holds both, else two even ones.
    [[nodiscard]] result<void> merge_or_share(const shadow& parent, std::uint32_t low) {
        const shadow left = UTHIN_TRY(tree_.shadow_child(parent, low));
        node_editor low_edit(left.bytes);
        const metadata_block right_where = node_view(parent.bytes).child(low + 1);
        const block_ref right_node = UTHIN_TRY(tree_.read_node(right_where));
        const node_view low_view = low_edit.view();
        const node_view high_view(right_node.bytes());
        if (low_view.is_leaf() != high_view.is_leaf() || right_where == left.where ||
            right_where == parent.where) {
            return fail(error_code::corrupt, fmt::format("btree node {}: not a sibling of node {}",
                                                         right_where.value(), left.where.value()));
        }
        const bool keep = low_view.max_entries() == high_view.max_entries() &&
                          low_view.max_entries() >= max_entries_min;
        const std::uint32_t capacity =
            keep ? low_view.max_entries() : max_entries_for(low_view.value_size_bytes());
        if (low_view.nr_entries() > capacity || high_view.nr_entries() > capacity) {
            return fail(error_code::corrupt,
                        fmt::format("btree node {}: more entries than a legal sibling can take",
                                    right_where.value()));
        }
        low_edit.set_max_entries(capacity);
        if (low_view.nr_entries() + high_view.nr_entries() <= capacity) {
            return absorb(parent, low, left, right_node);
        }
        const shadow right = UTHIN_TRY(tree_.shadow_child(parent, low + 1));
        node_editor high_edit(right.bytes);
        high_edit.set_max_entries(capacity);
        redistribute_two(low_edit, high_edit,
                         (low_edit.view().nr_entries() + high_edit.view().nr_entries()) / 2);
        node_editor(parent.bytes).set_key(low + 1, high_edit.view().key(0));
        return {};
    }

    // The right node's entries move to the left one. It is not copied for that.
    [[nodiscard]] result<void> absorb(const shadow& parent, std::uint32_t low, const shadow& left,
                                      const block_ref& right) {
        node_editor edit(left.bytes);
        const node_view from(right.bytes());
        const std::uint32_t have = edit.view().nr_entries();
        edit.copy_entries(have, from, 0, from.nr_entries());
        edit.set_nr_entries(have + from.nr_entries());
        if (UTHIN_TRY(tm_.count(right.where())) > 1) {
            tm_.tell_owner_hook(right.where());
            UTHIN_TRY(tree_.inc_children(from, right.where()));
        }
        UTHIN_TRY(tm_.dec(right.where()));
        node_editor(parent.bytes).erase(low + 1, low + 2);
        return {};
    }

    btree& tree_;
    transaction_manager& tm_;
    metadata_block root_;
    std::uint32_t steps_ = 0;
};

// ---- a range of keys

class btree_remover {
public:
    btree_remover(btree& tree, std::uint64_t begin, std::uint64_t end, std::uint64_t budget)
        : tree_(tree),
          tm_(tree.tm_),
          begin_(begin),
          last_(end - 1),
          end_(end),
          budget_(std::max<std::uint64_t>(budget, 1)) {}

    [[nodiscard]] result<btree::removed> run(metadata_block root) {
        btree_cursor cursor(tm_.source(), root, tree_.value_size_);
        UTHIN_TRY(cursor.seek(begin_));
        if (cursor.at_end() || cursor.key() > last_) {
            return btree::removed{.root = root, .next_key = end_};
        }
        first_present_ = cursor.key();
        const auto height = static_cast<std::uint32_t>(cursor.depth() - 1);
        UTHIN_TRY(widen(root, cursor));

        const bool everything = begin_ == 0 && last_ == UINT64_MAX;
        if (everything && UTHIN_TRY(tm_.count(root)) > 1) {
            UTHIN_TRY(tm_.dec(root));
            return btree::removed{.root = UTHIN_TRY(tree_.create()),
                                  .dropped_shared_subtrees = 1,
                                  .emptied = true,
                                  .next_key = end_};
        }
        // Of a tree that ends up empty nobody asks how much was in it.
        totals_.count_shared = !everything || budget_ != UINT64_MAX;
        const shadow top = UTHIN_TRY(tree_.shadow_node(root));
        UTHIN_TRY(prune(top, height, UINT64_MAX));
        if (node_view(top.bytes).nr_entries() == 0) {
            node_editor(top.bytes).init(true, tree_.value_size_);
        }
        btree_repairer repairer(tree_, top.where);
        UTHIN_TRY(repairer.repair(first_present_, stopped_at_.value_or(last_present_)));
        return btree::removed{
            .root = repairer.root(),
            .entries = totals_.entries,
            .dropped_shared_subtrees = totals_.shared_subtrees,
            .emptied = everything && !stopped_at_,
            .next_key = std::clamp(stopped_at_.value_or(end_), first_present_, end_)};
    }

private:
    // Finds the outermost keys that are present, and stretches the range over the gaps around it:
    // then a subtree without survivors is seen to be one from its bounds alone.
    [[nodiscard]] result<void> widen(metadata_block root, btree_cursor& cursor) {
        if (begin_ == last_) {
            last_present_ = last_;
            return {};
        }
        last_present_ =
            UTHIN_TRY(btree_key_at_or_below(tm_.source(), root, last_)).value_or(first_present_);
        UTHIN_TRY(cursor.seek(end_));
        last_ = cursor.at_end() ? UINT64_MAX : cursor.key() - 1;
        if (begin_ > 0) {
            const auto before = UTHIN_TRY(btree_key_at_or_below(tm_.source(), root, begin_ - 1));
            begin_ = before ? *before + 1 : 0;
        }
        return {};
    }

    // Keys of the (copied) node are at most `node_last`.
    [[nodiscard]] result<void> prune(const shadow& node, std::uint32_t height,
                                     std::uint64_t node_last) {
        const node_view view(node.bytes);
        if (view.is_leaf() != (height == 0)) {
            return uneven(node.where);
        }
        return height == 0 ? prune_leaf(node) : prune_internal(node, height, node_last);
    }

    [[nodiscard]] result<void> prune_leaf(const shadow& node) {
        node_editor edit(node.bytes);
        const node_view view = edit.view();
        const int below = begin_ == 0 ? -1 : view.lower_bound(begin_ - 1);
        const auto from = static_cast<std::uint32_t>(below + 1);
        const auto to = static_cast<std::uint32_t>(view.lower_bound(last_) + 1);
        ++totals_.nodes;
        if (from < to) {
            UTHIN_TRY(tree_.rule_.dec(view.value(from), to - from));
            edit.erase(from, to);
            totals_.entries += to - from;
        }
        return {};
    }

    [[nodiscard]] result<void> prune_internal(const shadow& node, std::uint32_t height,
                                              std::uint64_t node_last) {
        node_editor edit(node.bytes);
        const node_view view = edit.view();
        auto index = static_cast<std::uint32_t>(std::max(0, view.lower_bound(begin_)));
        // Only the first and the last child that are looked at can survive.
        std::uint32_t gone_begin = index;
        std::uint32_t gone_end = index;
        const std::uint32_t entries = view.nr_entries();
        for (; index < view.nr_entries() && view.key(index) <= last_; ++index) {
            if (totals_.nodes >= budget_) {
                stopped_at_ = std::max(begin_, view.key(index));
                break;
            }
            const std::uint64_t child_last =
                index + 1 < view.nr_entries() ? view.key(index + 1) - 1 : node_last;
            if (UTHIN_TRY(prune_child(node, index, height - 1, child_last))) {
                if (gone_begin == gone_end) {
                    gone_begin = index;
                } else if (gone_end != index) {
                    return fail(error_code::corrupt,
                                fmt::format("btree node {}: children overlap", node.where.value()));
                }
                gone_end = index + 1;
            }
            if (stopped_at_) {
                break;
            }
        }
        if (view.nr_entries() != entries) {
            return fail(error_code::corrupt,
                        fmt::format("btree node {}: lies below itself", node.where.value()));
        }
        edit.erase(gone_begin, gone_end);
        return {};
    }

    // True: nothing is left of the child and its reference is dropped.
    [[nodiscard]] result<bool> prune_child(const shadow& parent, std::uint32_t index,
                                           std::uint32_t height, std::uint64_t child_last) {
        const node_view up(parent.bytes);
        const std::uint64_t child_begin = up.key(index);
        const metadata_block where = up.child(index);
        if (child_begin >= begin_ && child_last <= last_) {
            // A shared subtree goes by one decrement. An exclusive one that may be larger than the
            // budget is taken apart instead, so that the tree is legal when the budget ends.
            if (nodes_at_most(height) <= budget_ - totals_.nodes ||
                UTHIN_TRY(tm_.count(where)) > 1) {
                UTHIN_TRY(tree_.drop_subtree(where, height, totals_));
                return true;
            }
        } else if (child_last < first_present_ || child_begin > last_present_) {
            return false;
        }
        const shadow child = UTHIN_TRY(tree_.shadow_child(parent, index));
        UTHIN_TRY(prune(child, height, child_last));
        if (node_view(child.bytes).nr_entries() > 0) {
            return false;
        }
        UTHIN_TRY(tm_.dec(child.where));
        return true;
    }

    btree& tree_;
    transaction_manager& tm_;
    // The range; stretched over the gaps around it by widen().
    std::uint64_t begin_;
    std::uint64_t last_;
    const std::uint64_t end_;
    const std::uint64_t budget_;
    std::uint64_t first_present_ = 0;
    std::uint64_t last_present_ = 0;
    btree::drop_totals totals_;
    std::optional<std::uint64_t> stopped_at_;
};

result<btree::removed> btree::remove_range(metadata_block root, std::uint64_t begin,
                                           std::uint64_t end, std::uint64_t budget_blocks) {
    if (begin >= end) {
        return removed{.root = root, .next_key = end};
    }
    return btree_remover(*this, begin, end, budget_blocks).run(root);
}

}  // namespace uthin::persistent_data
