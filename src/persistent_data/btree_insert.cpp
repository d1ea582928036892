// Creating, inserting and updating.
#include <algorithm>

#include <fmt/format.h>

#include "persistent_data/btree.h"

namespace uthin::persistent_data {
namespace {

// Moving fewer entries to a neighbour is not worth its copy (docs/format.md 6.3).
constexpr std::uint32_t room_worth_shifting = 8;
// Below this a node cannot be split into legal ones.
constexpr std::uint32_t max_entries_min = 3;

std::unexpected<error> too_deep(metadata_block root) {
    return fail(error_code::corrupt, fmt::format("btree of root {}: deeper than {} levels",
                                                 root.value(), btree_depth_max));
}

// Null: the leaf has no such key.
const std::byte* value_in(const node_view& leaf, std::uint64_t key) {
    const int index = leaf.lower_bound(key);
    const auto at = static_cast<std::uint32_t>(index);
    return index >= 0 && leaf.key(at) == key ? leaf.value(at) : nullptr;
}

bool is_full_for(const node_view& node, std::uint64_t key) {
    if (node.nr_entries() < node.max_entries()) {
        return false;
    }
    return !node.is_leaf() || value_in(node, key) == nullptr;
}

result<shadow> covering(const shadow& left, const shadow& right, std::uint64_t key) {
    return key < node_view(right.bytes).key(0) ? left : right;
}

void insert_child(node_editor parent, std::uint32_t index, std::uint64_t key,
                  metadata_block child) {
    const le64 value(child.value());
    parent.insert_at(index, key, std::as_bytes(std::span(&value, 1)).data());
}

}  // namespace

result<void> value_rule::inc(const std::byte*, std::uint32_t) {
    return {};
}

result<void> value_rule::dec(const std::byte*, std::uint32_t) {
    return {};
}

bool value_rule::equal(const std::byte*, const std::byte*) const {
    return false;
}

result<metadata_block> btree::create() {
    const shadow root = UTHIN_TRY(tm_.new_block(block_kind::btree_node));
    node_editor(root.bytes).init(true, value_size_);
    return root.where;
}

result<void> btree::inc_children(const node_view& node, metadata_block where) {
    if (node.nr_entries() == 0) {
        return {};
    }
    if (node.is_leaf()) {
        return rule_.inc(node.value(0), node.nr_entries());
    }
    const std::uint64_t block_count = tm_.source().block_count();
    for (std::uint32_t i = 0; i < node.nr_entries(); ++i) {
        UTHIN_TRY(check_pointer(node.child(i), where, block_count));
        UTHIN_TRY(tm_.inc(node.child(i)));
    }
    return {};
}

result<shadow> btree::shadow_node(metadata_block where) {
    UTHIN_TRY(check_pointer(where, where, tm_.source().block_count()));
    const shadow copy = UTHIN_TRY(tm_.shadow_block(where, block_kind::btree_node));
    const node_view view(copy.bytes);
    UTHIN_TRY(check_tree_node(view, where, value_size_));
    if (copy.was_shared) {
        UTHIN_TRY(inc_children(view, where));
    }
    return copy;
}

result<shadow> btree::shadow_child(const shadow& parent, std::uint32_t index) {
    const metadata_block where = node_view(parent.bytes).child(index);
    UTHIN_TRY(check_pointer(where, parent.where, tm_.source().block_count()));
    const shadow child = UTHIN_TRY(shadow_node(where));
    // A damaged tree can point at a block that counts as free and became ours just now.
    if (child.where == parent.where) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: points to itself", parent.where.value()));
    }
    node_editor(parent.bytes).set_child(index, child.where);
    return child;
}

result<block_ref> btree::read_node(metadata_block where) {
    UTHIN_TRY(check_pointer(where, where, tm_.source().block_count()));
    block_ref node = UTHIN_TRY(tm_.read(where, block_kind::btree_node));
    UTHIN_TRY(check_tree_node(node_view(node.bytes()), where, value_size_));
    return node;
}

result<btree::inserted> btree::insert(metadata_block root, std::uint64_t key,
                                      const std::byte* value) {
    return insert_below(root, UTHIN_TRY(find_insertion_point(root, key)), key, value);
}

result<std::optional<btree::inserted>> btree::insert_if(metadata_block root, std::uint64_t key,
                                                        const std::byte* value,
                                                        const condition& allows) {
    const insertion_point point = UTHIN_TRY(find_insertion_point(root, key));
    std::vector<std::byte> copied;
    const std::byte* present = nullptr;
    if (point.page && node_view(point.page.bytes()).is_leaf()) {
        present = value_in(node_view(point.page.bytes()), key);
    } else {
        copied.resize(value_size_);
        const bool is_there = UTHIN_TRY(btree_lookup(tm_.source(), point.where, key, copied));
        present = is_there ? copied.data() : nullptr;
    }
    if (!allows(present)) {
        return std::nullopt;
    }
    return UTHIN_TRY(insert_below(root, point, key, value));
}

// What is edited is copied for the next publication, and 4 KiB take longer than to look at a node.
result<btree::insertion_point> btree::find_insertion_point(metadata_block root, std::uint64_t key) {
    insertion_point point{root, {}};
    metadata_block where = root;
    for (std::uint32_t depth = 0; depth <= btree_depth_max; ++depth) {
        if (!tm_.is_exclusive_shadow(where)) {
            return point;  // its copy is elsewhere, and the parent has to say so
        }
        insertion_point next{where, UTHIN_TRY(read_node(where))};
        const node_view node(next.page.bytes());
        if (is_full_for(node, key)) {
            return where == root ? next : point;
        }
        const int below = node.nr_entries() == 0 ? -1 : node.lower_bound(key);
        if (node.is_leaf() || below < 0) {
            return next;
        }
        where = node.child(static_cast<std::uint32_t>(below));
        point = std::move(next);
    }
    return too_deep(root);
}

result<btree::inserted> btree::insert_below(metadata_block root, const insertion_point& point,
                                            std::uint64_t key, const std::byte* value) {
    shadow node =
        point.page ? UTHIN_TRY(tm_.edit_own(point.page)) : UTHIN_TRY(shadow_node(point.where));
    const metadata_block new_root = point.where == root ? node.where : root;
    std::optional<shadow> parent;
    std::uint32_t index = 0;
    for (std::uint32_t depth = 0; depth <= btree_depth_max; ++depth) {
        if (is_full_for(node_view(node.bytes), key)) {
            if (parent) {
                node = UTHIN_TRY(make_space(*parent, index, node, key));
            } else {
                UTHIN_TRY(split_beneath(node));
            }
        }
        const node_view view(node.bytes);
        if (view.is_leaf()) {
            return put_in_leaf(node, new_root, key, value);
        }
        if (view.nr_entries() == 0) {
            return fail(error_code::corrupt,
                        fmt::format("btree node {}: internal and empty", node.where.value()));
        }
        const int below = view.lower_bound(key);
        if (below < 0) {
            node_editor(node.bytes).set_key(0, key);
        }
        index = static_cast<std::uint32_t>(std::max(below, 0));
        parent = node;
        node = UTHIN_TRY(shadow_child(*parent, index));
    }
    return too_deep(root);
}

result<btree::inserted> btree::put_in_leaf(const shadow& leaf, metadata_block root,
                                           std::uint64_t key, const std::byte* value) {
    node_editor edit(leaf.bytes);
    const node_view view = edit.view();
    const int below = view.lower_bound(key);
    const auto index = static_cast<std::uint32_t>(std::max(below, 0));
    if (below >= 0 && view.key(index) == key) {
        if (!rule_.equal(view.value(index), value)) {
            UTHIN_TRY(rule_.dec(view.value(index), 1));
        }
        edit.set_value(index, value);
        return inserted{root, false};
    }
    if (view.nr_entries() >= view.max_entries()) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: no room was made", leaf.where.value()));
    }
    edit.insert_at(static_cast<std::uint32_t>(below + 1), key, value);
    return inserted{root, true};
}

// The root keeps its address and becomes the parent of two halves.
result<void> btree::split_beneath(const shadow& root) {
    node_editor top(root.bytes);
    const node_view view = top.view();
    if (view.max_entries() < max_entries_min) {
        top.set_max_entries(max_entries_for(view.value_size_bytes()));
        return {};
    }
    const shadow left = UTHIN_TRY(tm_.new_block(block_kind::btree_node));
    const shadow right = UTHIN_TRY(tm_.new_block(block_kind::btree_node));
    const std::uint32_t nr_left = view.nr_entries() / 2;
    const std::uint32_t nr_right = view.nr_entries() - nr_left;
    node_editor low(left.bytes);
    node_editor high(right.bytes);
    low.init(view.is_leaf(), view.value_size_bytes(), view.max_entries());
    high.init(view.is_leaf(), view.value_size_bytes(), view.max_entries());
    low.copy_entries(0, view, 0, nr_left);
    low.set_nr_entries(nr_left);
    high.copy_entries(0, view, nr_left, nr_right);
    high.set_nr_entries(nr_right);

    top.init(false, 8);
    insert_child(top, 0, low.view().key(0), left.where);
    insert_child(top, 1, high.view().key(0), right.where);
    return {};
}

result<btree::sibling_state> btree::judge_sibling(const shadow& parent, std::int64_t index,
                                                  const shadow& node) {
    const node_view up(parent.bytes);
    if (index < 0 || index >= up.nr_entries()) {
        return sibling_state::absent;
    }
    const metadata_block where = up.child(static_cast<std::uint32_t>(index));
    if (UTHIN_TRY(tm_.count(where)) > 1) {
        return sibling_state::shared;
    }
    const block_ref sibling = UTHIN_TRY(read_node(where));
    const node_view theirs(sibling.bytes());
    const node_view ours(node.bytes);
    if (theirs.is_leaf() != ours.is_leaf() || where == node.where) {
        return fail(error_code::corrupt, fmt::format("btree node {}: not a sibling of node {}",
                                                     where.value(), node.where.value()));
    }
    if (theirs.max_entries() != ours.max_entries()) {
        return sibling_state::other_capacity;
    }
    return theirs.max_entries() - theirs.nr_entries() >= room_worth_shifting ? sibling_state::roomy
                                                                             : sibling_state::full;
}

result<shadow> btree::make_space(const shadow& parent, std::uint32_t index, const shadow& node,
                                 std::uint64_t key) {
    const node_view up(parent.bytes);
    const node_view view(node.bytes);
    if (up.nr_entries() >= up.max_entries()) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: no room was made", parent.where.value()));
    }
    if (view.max_entries() < max_entries_min) {
        node_editor(node.bytes).set_max_entries(max_entries_for(view.value_size_bytes()));
        return node;
    }
    const auto left = UTHIN_TRY(judge_sibling(parent, std::int64_t{index} - 1, node));
    if (left == sibling_state::roomy) {
        return shift_to_sibling(parent, index, node, true, key);
    }
    const auto right = UTHIN_TRY(judge_sibling(parent, std::int64_t{index} + 1, node));
    if (right == sibling_state::roomy) {
        return shift_to_sibling(parent, index, node, false, key);
    }
    const bool right_is_ours =
        right == sibling_state::full || right == sibling_state::other_capacity;
    if (left == sibling_state::full && right_is_ours) {
        return split_two_into_three(parent, index, node, key);
    }
    return split_one_into_two(parent, index, node, key);
}

result<shadow> btree::shift_to_sibling(const shadow& parent, std::uint32_t index,
                                       const shadow& node, bool to_left, std::uint64_t key) {
    const shadow sibling = UTHIN_TRY(shadow_child(parent, to_left ? index - 1 : index + 1));
    if (sibling.where == node.where) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: twice in its parent", node.where.value()));
    }
    const shadow& left = to_left ? sibling : node;
    const shadow& right = to_left ? node : sibling;
    node_editor low(left.bytes);
    node_editor high(right.bytes);
    redistribute_two(low, high, (low.view().nr_entries() + high.view().nr_entries()) / 2);
    node_editor(parent.bytes).set_key(to_left ? index : index + 1, high.view().key(0));
    return covering(left, right, key);
}

result<shadow> btree::split_one_into_two(const shadow& parent, std::uint32_t index,
                                         const shadow& node, std::uint64_t key) {
    const shadow right = UTHIN_TRY(tm_.new_block(block_kind::btree_node));
    node_editor low(node.bytes);
    node_editor high(right.bytes);
    const node_view view = low.view();
    high.init(view.is_leaf(), view.value_size_bytes(), view.max_entries());
    redistribute_two(low, high, view.nr_entries() / 2);
    insert_child(node_editor(parent.bytes), index + 1, high.view().key(0), right.where);
    return covering(node, right, key);
}

result<shadow> btree::split_two_into_three(const shadow& parent, std::uint32_t index,
                                           const shadow& node, std::uint64_t key) {
    const shadow left = UTHIN_TRY(shadow_child(parent, index - 1));
    const shadow centre = UTHIN_TRY(tm_.new_block(block_kind::btree_node));
    if (left.where == node.where) {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: twice in its parent", node.where.value()));
    }
    node_editor low(left.bytes);
    node_editor middle(centre.bytes);
    node_editor high(node.bytes);
    const node_view view = high.view();
    const std::uint32_t total = low.view().nr_entries() + view.nr_entries();
    const std::uint32_t nr_left = total / 3;
    const std::uint32_t nr_centre = (total - nr_left) / 2;
    middle.init(view.is_leaf(), view.value_size_bytes(), view.max_entries());
    // Left first gets or gives up what it must, then the centre is filled from the right.
    if (low.view().nr_entries() > nr_left) {
        redistribute_two(low, middle, nr_left);
    } else {
        redistribute_two(low, high, nr_left);
    }
    redistribute_two(middle, high, nr_centre);

    node_editor up(parent.bytes);
    up.set_key(index, high.view().key(0));
    insert_child(up, index, middle.view().key(0), centre.where);
    if (key >= high.view().key(0)) {
        return node;
    }
    return covering(left, centre, key);
}

result<metadata_block> btree::update(metadata_block root, std::uint64_t key,
                                     const updater& change) {
    // Before anything is copied, so that not_found leaves no trace.
    if (UTHIN_TRY(btree_key_at_or_below(tm_.source(), root, key)) != key) {
        return fail(error_code::not_found,
                    fmt::format("btree of root {}: no key {}", root.value(), key));
    }
    shadow node = UTHIN_TRY(shadow_node(root));
    const metadata_block new_root = node.where;
    for (std::uint32_t depth = 0; depth <= btree_depth_max; ++depth) {
        const node_view view(node.bytes);
        const int below = view.lower_bound(key);
        if (below < 0) {
            break;
        }
        const auto index = static_cast<std::uint32_t>(below);
        if (!view.is_leaf()) {
            node = UTHIN_TRY(shadow_child(node, index));
        } else if (view.key(index) == key) {
            UTHIN_TRY(change(node_editor(node.bytes).value(index)));
            return new_root;
        } else {
            break;
        }
    }
    return fail(error_code::corrupt,
                fmt::format("btree node {}: lost key {}", node.where.value(), key));
}

}  // namespace uthin::persistent_data
