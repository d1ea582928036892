#include "thin_metadata/mapping_survey.h"

#include <algorithm>
#include <array>
#include <optional>

#include <fmt/format.h>

#include "persistent_data/btree.h"
#include "thin_metadata/superblock.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::block_ref;
using persistent_data::btree_depth_max;
using persistent_data::node_view;

namespace {

constexpr std::uint32_t value_size_bytes = 8;

bool is_within(std::uint64_t key, key_span bounds) {
    return key >= bounds.first && key <= bounds.last;
}

// Keys between two that are kept, within `bounds`; absent when there is no room.
std::optional<key_span> span_between(std::optional<std::uint64_t> after,
                                     std::optional<std::uint64_t> before, key_span bounds) {
    if ((after && *after == UINT64_MAX) || (before && *before == 0)) {
        return std::nullopt;
    }
    const key_span span{.first = after ? *after + 1 : bounds.first,
                        .last = before ? *before - 1 : bounds.last};
    return span.first <= span.last ? std::optional(span) : std::nullopt;
}

// A block that holds other keys is not the one that was meant, and is left to those who mean it.
bool is_mostly_within(const node_view& node, key_span bounds) {
    std::uint32_t within = 0;
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        within += is_within(node.key(index), bounds) ? 1U : 0U;
    }
    return 2 * within >= node.nr_entries();
}

}  // namespace

std::vector<std::uint32_t> ascending_entries(const node_view& node,
                                             const std::function<bool(std::uint32_t)>& accept) {
    // ends[n]: the entry with the lowest key that a series of n + 1 entries can end with.
    std::vector<std::uint32_t> ends;
    std::vector<std::uint32_t> before(node.nr_entries());
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        if (!accept(index)) {
            continue;
        }
        const auto place = std::lower_bound(
            ends.begin(), ends.end(), node.key(index),
            [&node](std::uint32_t end, std::uint64_t key) { return node.key(end) < key; });
        before[index] = place == ends.begin() ? index : *(place - 1);
        if (place == ends.end()) {
            ends.push_back(index);
        } else {
            *place = index;
        }
    }
    std::vector<std::uint32_t> series(ends.size());
    for (std::size_t left = ends.size(); left != 0; --left) {
        series[left - 1] = left == ends.size() ? ends.back() : before[series[left]];
    }
    return series;
}

void subtree_summary::add(const subtree_summary& other) {
    if (other.mappings == 0) {
        return;
    }
    if (mappings == 0) {
        first_key = other.first_key;
    }
    last_key = other.last_key;
    mappings += other.mappings;
    highest_data_block = std::max(highest_data_block, other.highest_data_block);
    if (other.time_max > time_max) {
        time_max = other.time_max;
        newest_count = 0;
    }
    newest_count += other.time_max == time_max ? other.newest_count : 0;
}

mapping_survey::mapping_survey(mending_source& blocks, std::uint64_t data_limit)
    : blocks_(blocks), data_limit_(data_limit), nodes_(blocks.block_count()) {
}

metadata_block mapping_survey::add_empty_tree() noexcept {
    return metadata_block(blocks_.block_count() + empty_trees_++);
}

bool mapping_survey::has_damage(metadata_block root) const noexcept {
    const node_info* const info = nodes_.find(root.value());
    return info == nullptr || info->is != state::usable || info->damaged;
}

bool mapping_survey::is_overwritten(metadata_block root) const noexcept {
    const node_info* const info = nodes_.find(root.value());
    return info != nullptr && info->overwritten;
}

bool mapping_survey::was_visited(metadata_block where) const noexcept {
    const node_info* const info = nodes_.find(where.value());
    return info != nullptr && info->is != state::unseen;
}

const subtree_summary* mapping_survey::find(metadata_block root) const noexcept {
    const node_info* const info = nodes_.find(root.value());
    return info != nullptr && info->is == state::usable ? &info->summary : nullptr;
}

void mapping_survey::add_reference(metadata_block root) {
    if (root.value() < blocks_.block_count()) {
        ++nodes_[root.value()].references;
    }
}

std::uint32_t mapping_survey::references(metadata_block where) const noexcept {
    const node_info* const info = nodes_.find(where.value());
    return info != nullptr ? info->references : 0;
}

// ---- judging

const subtree_summary* mapping_survey::visit(metadata_block root) {
    if (root.value() < blocks_.block_count()) {
        const bool is_new = nodes_[root.value()].is == state::unseen;
        const node_info* const info = visit(root, {}, 1);
        if (info != nullptr) {
            return &info->summary;
        }
        if (is_new && !blocks_.read(root, block_kind::btree_node)) {
            lost_nodes_.push_back({.where = root, .keys = {}, .height = 0});
        }
    }
    return nullptr;
}

const mapping_survey::node_info* mapping_survey::fitting(const node_info& info, key_span bounds) {
    const subtree_summary& has = info.summary;
    const bool fits =
        has.mappings == 0 || (is_within(has.first_key, bounds) && is_within(has.last_key, bounds));
    return info.is == state::usable && fits ? &info : nullptr;
}

const mapping_survey::node_info* mapping_survey::visit(metadata_block where, key_span bounds,
                                                       std::uint32_t depth) {
    if (where.value() >= blocks_.block_count()) {
        return nullptr;
    }
    node_info& info = nodes_[where.value()];
    if (info.is != state::unseen) {
        return fitting(info, bounds);
    }
    const auto page = blocks_.read(where, block_kind::btree_node);
    if (!page) {
        info.is = state::unusable;
        return nullptr;
    }
    const node_view node(page->bytes());
    if (node.value_size_bytes() != value_size_bytes || depth > btree_depth_max) {
        info.is = state::unusable;
        return nullptr;
    }
    if (node.is_leaf() && is_sound_leaf(node, bounds, info.summary)) {
        info.is = state::usable;
        leaf_mappings_ += info.summary.mappings;
        return &info;
    }
    if (!is_mostly_within(node, bounds)) {
        return nullptr;
    }
    info.is = state::in_progress;
    if (node.is_leaf()) {
        visit_leaf(node, bounds, info);
        leaf_mappings_ += info.summary.mappings;
    } else {
        visit_children(where, node, bounds, depth, info);
    }
    if (info.patched) {
        clips_.emplace(where.value(), bounds);
    }
    info.is = state::usable;
    return fitting(info, bounds);
}

bool mapping_survey::is_sound_leaf(const node_view& node, key_span bounds,
                                   subtree_summary& summary) const {
    const std::uint32_t count = node.nr_entries();
    std::uint64_t highest = 0;
    std::uint64_t newest = 0;
    std::uint32_t time_max = 0;
    bool ascends = true;
    for (std::uint32_t index = 0; index < count; ++index) {
        const std::uint64_t packed = node.value_u64(index);
        const std::uint32_t time = mapping_time(packed);
        ascends = ascends && (index == 0 || node.key(index) > node.key(index - 1));
        highest = std::max(highest, mapping_block(packed).value());
        newest = time > time_max ? 0 : newest;
        time_max = std::max(time_max, time);
        newest += time == time_max ? 1 : 0;
    }
    if (!ascends || (count != 0 && (highest >= data_limit_ || node.key(0) < bounds.first ||
                                    node.key(count - 1) > bounds.last))) {
        return false;
    }
    summary = {.first_key = count != 0 ? node.key(0) : 1,
               .last_key = count != 0 ? node.key(count - 1) : 0,
               .mappings = count,
               .highest_data_block = highest,
               .newest_count = newest,
               .time_max = time_max,
               .height = 1};
    return true;
}

bool mapping_survey::has_good_value(const node_view& node, std::uint32_t index) const {
    return mapping_block(node.value_u64(index)).value() < data_limit_;
}

std::vector<std::uint32_t> mapping_survey::leaf_entries(const node_view& node,
                                                        key_span bounds) const {
    return ascending_entries(node, [&](std::uint32_t index) {
        return is_within(node.key(index), bounds) && has_good_value(node, index);
    });
}

void mapping_survey::visit_leaf(const node_view& node, key_span bounds, node_info& info) {
    for (const std::uint32_t index : leaf_entries(node, bounds)) {
        const std::uint64_t packed = node.value_u64(index);
        info.summary.add({.first_key = node.key(index),
                          .last_key = node.key(index),
                          .mappings = 1,
                          .highest_data_block = mapping_block(packed).value(),
                          .newest_count = 1,
                          .time_max = mapping_time(packed)});
    }
    info.summary.height = 1;
    info.patched = true;
    info.damaged = true;
}

void mapping_survey::prefetch_children(const node_view& node) {
    std::vector<metadata_block> wanted;
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        const metadata_block child = node.child(index);
        if (child.value() < blocks_.block_count() && !was_visited(child)) {
            wanted.push_back(child);
        }
    }
    blocks_.prefetch(wanted, block_kind::btree_node);
}

namespace {

std::vector<surveyed_child> slots_of(const node_view& node, key_span bounds) {
    const auto series = ascending_entries(
        node, [&](std::uint32_t index) { return is_within(node.key(index), bounds); });
    std::vector<surveyed_child> slots;
    slots.reserve(series.size());
    for (std::size_t at = 0; at < series.size(); ++at) {
        const std::uint64_t last =
            at + 1 < series.size() ? node.key(series[at + 1]) - 1 : bounds.last;
        slots.push_back(
            {.index = series[at], .slot = {.first = node.key(series[at]), .last = last}});
    }
    return slots;
}

}  // namespace

void mapping_survey::visit_children(metadata_block where, const node_view& node, key_span bounds,
                                    std::uint32_t depth, node_info& info) {
    prefetch_children(node);
    std::array<std::uint32_t, btree_depth_max + 1> of_height{};
    const std::vector<surveyed_child> slots = slots_of(node, bounds);
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        add_reference(node.child(index));
    }
    for (const surveyed_child& child : slots) {
        const node_info* const below = visit(node.child(child.index), child.slot, depth + 1);
        if (below != nullptr && below->summary.mappings != 0 &&
            below->summary.height < btree_depth_max) {
            ++of_height.at(below->summary.height);
        }
    }
    // The height that most agree on; 2 when there is nothing below.
    const auto most = std::max_element(of_height.begin(), of_height.end());
    info.summary.height = *most == 0 ? 2 : static_cast<std::uint8_t>(most - of_height.begin() + 1);
    const std::vector<surveyed_child> children = children_of(node, info, bounds);
    for (const surveyed_child& child : children) {
        const node_info& below = nodes_[node.child(child.index).value() < blocks_.block_count()
                                            ? node.child(child.index).value()
                                            : where.value()];
        info.patched = info.patched || !child.kept;
        info.damaged = info.damaged || (child.readable ? below.damaged : true);
        info.overwritten = info.overwritten || (child.readable && below.overwritten);
        if (child.kept) {
            info.summary.add(below.summary);
        }
    }
    if (slots.size() != node.nr_entries()) {
        info.patched = true;
        info.damaged = true;
    }
    if (info.summary.mappings == 0) {
        info.summary.first_key = 1;
        info.summary.last_key = 0;
    }
    // What else was under a node that was worked out anew, nobody knows.
    info.damaged = info.damaged || blocks_.is_replaced(where);
    note_lost_children(node, children, info);
}

void mapping_survey::note_lost_children(const node_view& node,
                                        const std::vector<surveyed_child>& children,
                                        node_info& info) {
    for (const surveyed_child& child : children) {
        if (child.readable) {
            continue;
        }
        const metadata_block where = node.child(child.index);
        if (where.value() < blocks_.block_count() && !blocks_.read(where, block_kind::btree_node)) {
            const auto height = static_cast<std::uint8_t>(info.summary.height - 1);
            lost_nodes_.push_back({.where = where, .keys = child.slot, .height = height});
        } else {
            info.overwritten = true;
        }
    }
}

std::vector<surveyed_child> mapping_survey::children_of(const node_view& node,
                                                        const node_info& info, key_span bounds) {
    std::vector<surveyed_child> children = slots_of(node, bounds);
    for (surveyed_child& child : children) {
        const node_info* const found = nodes_.find(node.child(child.index).value());
        const node_info* const below = found != nullptr ? fitting(*found, child.slot) : nullptr;
        if (below != nullptr) {
            const bool has_mappings = below->summary.mappings != 0;
            child.kept = has_mappings && below->summary.height + 1 == info.summary.height;
            child.readable = child.kept || !has_mappings;
        }
    }
    return children;
}

// ---- showing what is kept

key_span mapping_survey::clip_of(metadata_block where, key_span otherwise) const {
    const auto found = clips_.find(where.value());
    return found != clips_.end() ? found->second : otherwise;
}

result<block_ref> mapping_survey::read(metadata_block where, block_kind kind) {
    if (where.value() >= blocks_.block_count()) {
        return make_node(where, true, [](const auto&) {});
    }
    const node_info* const info = nodes_.find(where.value());
    auto page = blocks_.read(where, kind);
    if (!page || info == nullptr || !info->patched || kind != block_kind::btree_node) {
        return page;
    }
    const node_view node(page->bytes());
    const key_span bounds = clip_of(where, {});
    if (node.is_leaf()) {
        return make_node(where, true, [&](persistent_data::node_editor& made) {
            std::uint32_t count = 0;
            for (const std::uint32_t index : leaf_entries(node, bounds)) {
                made.set_key(count, node.key(index));
                made.set_value(count++, node.value(index));
            }
            made.set_nr_entries(count);
        });
    }
    return make_node(where, false, [&](persistent_data::node_editor& made) {
        std::uint32_t count = 0;
        for (const surveyed_child& child : children_of(node, *info, bounds)) {
            if (child.kept) {
                made.set_key(count, node.key(child.index));
                made.set_value(count++, node.value(child.index));
            }
        }
        made.set_nr_entries(count);
    });
}

void mapping_survey::prefetch(std::span<const metadata_block> blocks, block_kind kind) {
    std::vector<metadata_block> real;
    for (const metadata_block block : blocks) {
        if (block.value() < blocks_.block_count()) {
            real.push_back(block);
        }
    }
    blocks_.prefetch(real, kind);
}

// ---- telling what is not

std::string mapping_survey::describe(metadata_block where, key_span bounds) {
    if (where.value() >= blocks_.block_count()) {
        return fmt::format("the pointer to block {} leads beyond the {} blocks of the device",
                           where.value(), blocks_.block_count());
    }
    const auto page = blocks_.read(where, block_kind::btree_node);
    if (!page) {
        return page.error().message();
    }
    const node_view node(page->bytes());
    if (node.value_size_bytes() != value_size_bytes) {
        return fmt::format("btree node {}: belongs to another kind of tree", where.value());
    }
    const node_info* const info = nodes_.find(where.value());
    if (node.nr_entries() == 0 || (info != nullptr && fitting(*info, bounds) != nullptr)) {
        return fmt::format("btree node {}: is not as high as its neighbours", where.value());
    }
    return fmt::format("btree node {}: holds the keys {} to {}, which do not belong here",
                       where.value(), node.key(0), node.key(node.nr_entries() - 1));
}

void mapping_survey::list_losses(metadata_block root, const loss_function& each) {
    empty_listed_.clear();
    list_losses(root, {}, 1, each);
}

void mapping_survey::list_losses(metadata_block where, key_span bounds, std::uint32_t depth,
                                 const loss_function& each) {
    const node_info* const found = nodes_.find(where.value());
    const node_info* const info = found != nullptr ? fitting(*found, bounds) : nullptr;
    const auto page = info != nullptr && info->damaged ? blocks_.read(where, block_kind::btree_node)
                                                       : result<block_ref>(block_ref());
    if (info == nullptr || !page) {
        each({.keys = bounds, .block = where, .text = describe(where, bounds)});
        return;
    }
    if (!info->damaged) {
        return;
    }
    const node_view node(page->bytes());
    if (node.is_leaf()) {
        list_leaf_losses(where, node, clip_of(where, bounds), each);
    } else {
        list_child_losses(where, node, *info, clip_of(where, bounds), depth, each);
    }
}

void mapping_survey::list_leaf_losses(metadata_block where, const node_view& node, key_span bounds,
                                      const loss_function& each) {
    const std::vector<std::uint32_t> kept = leaf_entries(node, bounds);
    std::uint32_t index = 0;
    std::optional<std::uint64_t> after;
    for (std::size_t at = 0; at <= kept.size(); ++at) {
        const std::uint32_t stop = at < kept.size() ? kept[at] : node.nr_entries();
        const auto before = at < kept.size() ? std::optional(node.key(stop)) : std::nullopt;
        const auto gap = span_between(after, before, bounds);
        bool in_order = true;
        for (std::uint32_t lost = index; lost < stop; ++lost) {
            in_order =
                in_order && !has_good_value(node, lost) && gap && is_within(node.key(lost), *gap);
        }
        for (std::uint32_t lost = index; in_order && lost < stop; ++lost) {
            each({.keys = {.first = node.key(lost), .last = node.key(lost)},
                  .block = where,
                  .text = fmt::format("btree node {}: block {} is mapped to data block {}, beyond "
                                      "the pool's {}",
                                      where.value(), node.key(lost),
                                      mapping_block(node.value_u64(lost)).value(), data_limit_)});
        }
        if (!in_order) {
            each({.keys = gap.value_or(key_span{node.key(index), node.key(index)}),
                  .block = where,
                  .text = fmt::format("btree node {}: {} entries are out of order", where.value(),
                                      stop - index)});
        }
        index = stop + 1;
        after = before;
    }
}

// Between the children that were found for a lost node, more of them may have been.
void mapping_survey::list_gaps(metadata_block where, const node_view& node,
                               const std::vector<surveyed_child>& children, key_span bounds,
                               const loss_function& each) {
    std::optional<std::uint64_t> after;
    for (std::size_t at = 0; at <= children.size(); ++at) {
        const bool at_end = at == children.size();
        if (!at_end && !children[at].kept) {
            continue;
        }
        const subtree_summary* const below =
            at_end ? nullptr : &nodes_[node.child(children[at].index).value()].summary;
        const auto before = at_end ? std::nullopt : std::optional(below->first_key);
        if (const auto gap = span_between(after, before, bounds)) {
            each({.keys = *gap,
                  .block = where,
                  .text = fmt::format("btree node {}: cannot be read, and nothing of these keys "
                                      "was found elsewhere",
                                      where.value())});
        }
        after = at_end ? std::nullopt : std::optional(below->last_key);
    }
}

// Nodes without mappings fit everywhere: they may form loops, be met again and again, and hang
// below each other without end. Those that are kept are one lower at each step.
bool mapping_survey::is_to_be_listed(const surveyed_child& child, metadata_block below,
                                     std::uint32_t depth) {
    return child.kept || (child.readable && depth < btree_depth_max &&
                          empty_listed_.insert(below.value()).second);
}

void mapping_survey::list_child_losses(metadata_block where, const node_view& node,
                                       const node_info& info, key_span bounds, std::uint32_t depth,
                                       const loss_function& each) {
    const std::vector<surveyed_child> children = children_of(node, info, bounds);
    if (blocks_.is_replaced(where)) {
        list_gaps(where, node, children, bounds, each);
    }
    std::uint32_t index = 0;
    std::optional<std::uint64_t> after;
    for (std::size_t at = 0; at <= children.size(); ++at) {
        const bool at_end = at == children.size();
        const std::uint32_t stop = at_end ? node.nr_entries() : children[at].index;
        std::optional<std::uint64_t> before;
        if (!at_end) {
            before = children[at].slot.first;
        }
        const auto gap = span_between(after, before, bounds);
        if (index < stop && gap) {
            each({.keys = *gap,
                  .block = where,
                  .text = fmt::format("btree node {}: {} pointers are out of order", where.value(),
                                      stop - index)});
        }
        if (at_end) {
            break;
        }
        const surveyed_child& child = children[at];
        const metadata_block below = node.child(child.index);
        if (is_to_be_listed(child, below, depth)) {
            list_losses(below, child.slot, depth + 1, each);
        } else {
            each({.keys = child.slot, .block = below, .text = describe(below, child.slot)});
        }
        index = child.index + 1;
        // What is out of order may have any key behind the last one that is kept.
        after = child.kept ? nodes_[below.value()].summary.last_key : child.slot.last;
    }
}

}  // namespace uthin::thin_metadata
