#include <algorithm>

#include <fmt/format.h>

#include "persistent_data/btree.h"
#include "thin_metadata/checker_state.h"
#include "thin_metadata/leaf_runs.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::btree_depth_max;
using persistent_data::max_entries_for;
using persistent_data::node_header_bytes;
using persistent_data::node_view;

namespace {

std::string keys_text(key_bounds bounds) {
    if (bounds.last == UINT64_MAX) {
        return fmt::format("{} and up", bounds.first);
    }
    return fmt::format("{} to {}", bounds.first, bounds.last);
}

// What lies under a subtree with these keys.
std::string content_text(const tree_walk& walk, key_bounds bounds) {
    const std::string keys = keys_text(bounds);
    switch (walk.use) {
        case block_use::details_node: return fmt::format("details of devices {}", keys);
        case block_use::top_node: return fmt::format("mapping trees of devices {}", keys);
        case block_use::bottom_node:
            return fmt::format("mappings of device {}, virtual blocks {}",
                               walk.device.value_or(device_id()).value(), keys);
        case block_use::data_index_node: return fmt::format("data space map, bitmaps {}", keys);
        default: return fmt::format("counts above 2 of blocks {}", keys);
    }
}

// The keys that child `index` may hold.
key_bounds child_bounds(const node_view& node, std::uint32_t index, key_bounds bounds) {
    return {.first = node.key(index),
            .last = index + 1 < node.nr_entries() ? node.key(index + 1) - 1 : bounds.last};
}

}  // namespace

void checker::node_finding(check_code code, const tree_walk& walk, metadata_block where,
                           key_bounds bounds, std::string_view what, std::string_view loss) {
    add({.severity = check_severity::fatal,
         .code = code,
         .space = block_space::metadata,
         .block = where.value(),
         .device = walk.device,
         .text = fmt::format("block {}, {}: {}; {}: {}", where.value(), to_string(walk.use), what,
                             loss, content_text(walk, bounds))});
}

result<void> checker::visit_root(const tree_walk& walk, metadata_block root) {
    (void)UTHIN_TRY(visit(walk, root, {}, true, 1));
    return {};
}

result<const block_info*> checker::visit(const tree_walk& walk, metadata_block where,
                                         key_bounds bounds, bool is_root, std::uint32_t depth) {
    if (where.value() >= block_count_) {
        node_finding(check_code::block_out_of_range, walk, where, bounds,
                     fmt::format("the device has only {} blocks", block_count_));
        lose(walk.use);
        return nullptr;
    }
    block_info& info = blocks_[where.value()];
    ++info.references;
    highest_reference_ = std::max(highest_reference_, where.value());
    if (info.use != block_use::none) {
        meet_again(walk, where, bounds, info);
        // A loop is damage for those who close it; elsewhere nothing is known of other kinds.
        return info.use == walk.use && !info.in_progress ? &info : nullptr;
    }
    ++report_.metadata_blocks_used;
    info.use = walk.use;
    info.in_progress = true;
    UTHIN_TRY(visit_new(walk, where, bounds, is_root, depth, info));
    info.in_progress = false;
    if (info.is_bad) {
        info.has_damage = true;
        lose(walk.use);
    }
    return &info;
}

void checker::meet_again(const tree_walk& walk, metadata_block where, key_bounds bounds,
                         const block_info& info) {
    if (info.use != walk.use) {
        node_finding(check_code::conflicting_use, walk, where, bounds,
                     fmt::format("it is also a {}", to_string(info.use)));
        lose(walk.use);
    } else if (info.in_progress) {
        node_finding(check_code::loop, walk, where, bounds, "the tree leads back to it");
        lose(walk.use);
    } else if (info.has_damage) {
        node_finding(check_code::shared_damage, walk, where, bounds,
                     "it is shared with a device named before",
                     info.is_bad ? "lost" : "lost in part");
    }
}

result<void> checker::visit_new(const tree_walk& walk, metadata_block where, key_bounds bounds,
                                bool is_root, std::uint32_t depth, block_info& info) {
    info.is_bad = true;
    if (depth > btree_depth_max) {
        node_finding(check_code::tree_too_deep, walk, where, bounds,
                     fmt::format("more than {} levels", btree_depth_max));
        return {};
    }
    const auto lost = [&] {
        return fmt::format("{}; lost: {}", to_string(walk.use), content_text(walk, bounds));
    };
    const auto page = UTHIN_TRY(read(where, block_kind::btree_node, lost, walk.device));
    if (!page) {
        return {};
    }
    const node_view node(page->bytes());
    if (!check_node(walk, where, bounds, is_root, node)) {
        return {};
    }
    check_node_habits(walk, where, is_root, node, page->bytes());
    info.is_bad = false;
    info.height = 1;
    if (node.nr_entries() != 0) {
        info.first_key = node.key(0);
        info.last_key = node.key(node.nr_entries() - 1);
    }
    if (node.is_leaf()) {
        info.entries = node.nr_entries();
        return visit_leaf(walk, where, node, info);
    }
    info.is_internal = true;
    return visit_children(walk, where, bounds, depth, node, info);
}

// What makes a node useless.
bool checker::check_node(const tree_walk& walk, metadata_block where, key_bounds bounds,
                         bool is_root, const node_view& node) {
    const std::uint32_t value_size = node.is_leaf() ? walk.value_size_bytes : 8;
    if (node.value_size_bytes() != value_size) {
        node_finding(
            check_code::wrong_value_size, walk, where, bounds,
            fmt::format("values of {} bytes instead of {}", node.value_size_bytes(), value_size));
        return false;
    }
    if (!node.is_leaf() && node.nr_entries() == 0) {
        node_finding(check_code::empty_internal_node, walk, where, bounds,
                     is_root ? "an internal root without children" : "no children");
        return false;
    }
    if (keys_ascend(node)) {
        return true;
    }
    std::uint32_t index = 1;
    while (node.key(index) > node.key(index - 1)) {
        ++index;
    }
    node_finding(check_code::keys_out_of_order, walk, where, bounds,
                 fmt::format("key {} follows key {}", node.key(index), node.key(index - 1)));
    return false;
}

// What healthy tools do not write, but every reader copes with.
void checker::check_node_habits(const tree_walk& walk, metadata_block where, bool is_root,
                                const node_view& node, persistent_data::const_block_bytes bytes) {
    using enum check_severity;
    const std::uint32_t max_entries = node.max_entries();
    if (max_entries != max_entries_for(node.value_size_bytes())) {
        add_block(cosmetic, check_code::odd_max_entries, where,
                  fmt::format("block {}, {}: room for {} entries instead of {}", where.value(),
                              to_string(walk.use), max_entries,
                              max_entries_for(node.value_size_bytes())));
    }
    if (!is_root && node.nr_entries() < max_entries / 3) {
        add_block(cosmetic, check_code::underfull_node, where,
                  fmt::format("block {}, {}: {} entries, fewer than a third of {}", where.value(),
                              to_string(walk.use), node.nr_entries(), max_entries));
    }
    const std::size_t used = node_header_bytes + (8 + node.value_size_bytes()) * max_entries;
    const auto slack = bytes.subspan(used);
    if (load_le<std::uint32_t>(bytes.data() + 28) != 0 ||
        std::any_of(slack.begin(), slack.end(),
                    [](std::byte byte) { return byte != std::byte{}; })) {
        add_block(
            cosmetic, check_code::nonzero_padding, where,
            fmt::format("block {}, {}: padding is not zero", where.value(), to_string(walk.use)));
    }
}

result<void> checker::visit_children(const tree_walk& walk, metadata_block where, key_bounds bounds,
                                     std::uint32_t depth, const node_view& node, block_info& info) {
    if (!leaves_planned_ || walk.use != block_use::bottom_node) {
        prefetch_values(node);
    }
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        const key_bounds below = child_bounds(node, index, bounds);
        const block_info* child =
            UTHIN_TRY(visit(walk, node.child(index), below, false, depth + 1));
        if (child == nullptr) {
            info.has_damage = true;
            continue;
        }
        check_child(walk, where, node.child(index), below, *child, info);
    }
    return {};
}

void checker::check_child(const tree_walk& walk, metadata_block parent, metadata_block where,
                          key_bounds bounds, const block_info& child, block_info& info) {
    info.has_damage = info.has_damage || child.has_damage;
    if (child.is_bad) {
        return;
    }
    if (child.entries != 0 && (child.first_key < bounds.first || child.last_key > bounds.last)) {
        node_finding(check_code::key_out_of_bounds, walk, where, bounds,
                     fmt::format("it holds keys {} to {}, outside what its parent {} says",
                                 child.first_key, child.last_key, parent.value()),
                     "lost in part");
        info.has_damage = true;
    }
    if (info.height != 1 && info.height != child.height + 1) {
        node_finding(
            check_code::uneven_depth, walk, where, bounds,
            fmt::format("{} levels deep, its siblings are {}", child.height, info.height - 1));
        info.has_damage = true;
    }
    info.height = std::max(info.height, static_cast<std::uint8_t>(child.height + 1));
    info.entries += child.entries;
    info.time_max = std::max(info.time_max, child.time_max);
    if (child.entries != 0) {
        info.last_key = std::max(info.last_key, child.last_key);
    }
}

void checker::prefetch_values(const node_view& node) {
    std::vector<metadata_block> wanted;
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        const metadata_block where = node.child(index);
        const block_info* known = blocks_.find(where.value());
        if (where.value() < block_count_ && (known == nullptr || known->use == block_use::none)) {
            wanted.push_back(where);
        }
    }
    if (wanted.size() > 1) {
        source_.prefetch(wanted, block_kind::btree_node);
    }
}

result<void> checker::visit_leaf(const tree_walk& walk, metadata_block where, const node_view& node,
                                 block_info& info) {
    switch (walk.use) {
        case block_use::top_node: return visit_top_leaf(node);
        case block_use::bottom_node: visit_bottom_leaf(walk, where, node, info); break;
        case block_use::data_index_node:
            for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
                add_index_entry(data_map_, node.key(index), node.value(index));
            }
            break;
        case block_use::data_overflow_node:
        case block_use::metadata_overflow_node: {
            space_map_state& map =
                walk.use == block_use::data_overflow_node ? data_map_ : metadata_map_;
            for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
                map.overflow.emplace_back(node.key(index),
                                          load_le<std::uint32_t>(node.value(index)));
            }
            break;
        }
        default: break;
    }
    return {};
}

result<void> checker::visit_top_leaf(const node_view& node) {
    if (options_.scope != check_scope::all) {
        return {};
    }
    prefetch_values(node);
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        const tree_walk bottom{.use = block_use::bottom_node,
                               .value_size_bytes = 8,
                               .device = device_id(node.key(index))};
        UTHIN_TRY(visit_root(bottom, node.child(index)));
    }
    return {};
}

void checker::visit_bottom_leaf(const tree_walk& walk, metadata_block where, const node_view& node,
                                block_info& info) {
    const std::uint32_t count = node.nr_entries();
    // The data block is the upper part of a value.
    std::uint64_t highest_packed = 0;
    std::uint32_t time_max = 0;
    for (std::uint32_t index = 0; index < count; ++index) {
        const std::uint64_t packed = node.value_u64(index);
        highest_packed = std::max(highest_packed, packed);
        time_max = std::max(time_max, mapping_time(packed));
    }
    const std::uint64_t highest = mapping_block(highest_packed).value();
    info.time_max = std::max(info.time_max, time_max);
    const bool bounded = view_.has_space_maps();
    if (time_max <= pool_time_ && (!bounded || count == 0 || highest < data_map_.nr_blocks)) {
        if (bounded) {
            data_counts_.add_leaf(node, data_block(highest));
        }
        return;
    }
    visit_odd_leaf(walk, where, node);
}

// One with mappings that cannot be.
void checker::visit_odd_leaf(const tree_walk& walk, metadata_block where, const node_view& node) {
    const std::uint64_t id = walk.device.value_or(device_id()).value();
    const bool bounded = view_.has_space_maps();
    std::uint64_t beyond = 0;
    std::uint64_t from_future = 0;
    std::uint32_t beyond_at = 0;
    std::uint32_t from_future_at = 0;
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        const std::uint64_t packed = node.value_u64(index);
        if (mapping_time(packed) > pool_time_ && from_future++ == 0) {
            from_future_at = index;
        }
        if (!bounded) {
            continue;
        }
        if (mapping_block(packed).value() >= data_map_.nr_blocks) {
            beyond_at = beyond++ == 0 ? index : beyond_at;
            continue;
        }
        data_counts_.add(mapping_block(packed));
    }
    if (beyond != 0) {
        add({.severity = check_severity::fatal,
             .code = check_code::mapping_beyond_data,
             .space = block_space::metadata,
             .block = where.value(),
             .count = beyond,
             .device = walk.device,
             .text = fmt::format("device {}: virtual block {} is mapped to data block {}, but "
                                 "there are {} ({} such mappings in block {})",
                                 id, node.key(beyond_at),
                                 mapping_block(node.value_u64(beyond_at)).value(),
                                 data_map_.nr_blocks, beyond, where.value())});
    }
    // Such a mapping counts as made after the next snapshot: a write would change the snapshot.
    if (from_future != 0) {
        add({.severity = check_severity::fatal,
             .code = check_code::mapping_from_future,
             .space = block_space::metadata,
             .block = where.value(),
             .count = from_future,
             .device = walk.device,
             .text = fmt::format("device {}: virtual block {} was mapped at time {}, but the "
                                 "pool's time is {} ({} such mappings in block {})",
                                 id, node.key(from_future_at),
                                 mapping_time(node.value_u64(from_future_at)), pool_time_,
                                 from_future, where.value())});
    }
}

// Bounds are tested again on the way, so that no node is met twice: its keys would have to lie in
// two disjoint ranges. Empty nodes are passed over for the same reason.
result<void> checker::collect(const tree_walk& walk, metadata_block where, key_bounds bounds,
                              std::uint32_t depth, const entry_function& each) {
    const block_info* info = blocks_.find(where.value());
    if (info == nullptr || info->use != walk.use || info->is_bad || info->entries == 0 ||
        info->first_key < bounds.first || info->last_key > bounds.last || depth > btree_depth_max) {
        return {};
    }
    const auto page = UTHIN_TRY(source_.read(where, block_kind::btree_node));
    const node_view node(page.bytes());
    const std::uint32_t value_size = info->is_internal ? 8 : walk.value_size_bytes;
    if (node.is_leaf() == info->is_internal || node.value_size_bytes() != value_size) {
        return fail(error_code::corrupt,
                    fmt::format("block {} changed while it was checked", where.value()));
    }
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        if (info->is_internal) {
            UTHIN_TRY(collect(walk, node.child(index), child_bounds(node, index, bounds), depth + 1,
                              each));
        } else {
            each(node.key(index), node.value(index));
        }
    }
    return {};
}

}  // namespace uthin::thin_metadata
