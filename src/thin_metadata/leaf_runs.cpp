#include "thin_metadata/leaf_runs.h"

#include <algorithm>

#include <fmt/format.h>

#include "persistent_data/btree.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::block_ref;
using persistent_data::block_source;
using persistent_data::btree_depth_max;
using persistent_data::node_view;

namespace {

constexpr std::uint32_t value_size_bytes = 8;

std::unexpected<error> beyond_device(metadata_block where, std::uint64_t block_count) {
    return fail(error_code::corrupt,
                fmt::format("mapping tree: it points to block {}, but the device has {}",
                            where.value(), block_count));
}

result<block_ref> read_node(block_source& source, metadata_block where, std::uint64_t first,
                            std::uint64_t last) {
    if (where.value() >= source.block_count()) {
        return beyond_device(where, source.block_count());
    }
    block_ref page = UTHIN_TRY(source.read(where, block_kind::btree_node));
    const node_view node(page.bytes());
    const std::uint32_t count = node.nr_entries();
    const bool sane = node.value_size_bytes() == value_size_bytes &&
                      (node.is_leaf() || count != 0) && keys_ascend(node);
    if (!sane || (count != 0 && (node.key(0) < first || node.key(count - 1) > last))) {
        return fail(error_code::corrupt,
                    fmt::format("mapping tree: block {} is no node for the keys {} to {}",
                                where.value(), first, last));
    }
    return page;
}

// Lists the leaves of one tree, whose depth its leftmost path tells.
class leaf_lister {
public:
    leaf_lister(block_source& source, const leaf_choice& prefetch, const leaf_function& each)
        : source_(source), prefetch_(prefetch), each_(each) {}

    result<void> list(metadata_block root) {
        std::uint32_t depth = 1;
        metadata_block where = root;
        for (;; ++depth) {
            if (depth > btree_depth_max) {
                return fail(error_code::corrupt,
                            fmt::format("mapping tree: more than {} levels under block {}",
                                        btree_depth_max, root.value()));
            }
            const block_ref page = UTHIN_TRY(read_node(source_, where, 0, UINT64_MAX));
            const node_view node(page.bytes());
            if (node.is_leaf()) {
                break;
            }
            where = node.child(0);
        }
        return list_under(root, depth, 0, UINT64_MAX);
    }

private:
    result<void> list_under(metadata_block where, std::uint32_t depth, std::uint64_t first,
                            std::uint64_t last) {
        if (depth == 1) {
            if (where.value() >= source_.block_count()) {
                return beyond_device(where, source_.block_count());
            }
            return each_(where, first, last);
        }
        // A tree has each block once, so more of them than the device has means a loop.
        if (++visited_ > source_.block_count()) {
            return fail(
                error_code::corrupt,
                fmt::format("mapping tree: block {} is reached again and again", where.value()));
        }
        const block_ref page = UTHIN_TRY(read_node(source_, where, first, last));
        const node_view node(page.bytes());
        if (node.is_leaf()) {
            return fail(error_code::corrupt,
                        fmt::format("mapping tree: block {} is a leaf above the other leaves",
                                    where.value()));
        }
        if (prefetch_ || depth > 2) {
            prefetch_children(node, depth);
        }
        for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
            const std::uint64_t end =
                index + 1 < node.nr_entries() ? node.key(index + 1) - 1 : last;
            UTHIN_TRY(list_under(node.child(index), depth - 1, node.key(index), end));
        }
        return {};
    }

    // Nodes above the leaves are all going to be read.
    void prefetch_children(const node_view& node, std::uint32_t depth) {
        std::vector<metadata_block> wanted;
        for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
            if (node.child(index).value() < source_.block_count() &&
                (depth > 2 || prefetch_(node.child(index)))) {
                wanted.push_back(node.child(index));
            }
        }
        source_.prefetch(wanted, block_kind::btree_node);
    }

    block_source& source_;
    const leaf_choice& prefetch_;
    const leaf_function& each_;
    std::uint64_t visited_ = 0;
};

}  // namespace

result<void> list_leaves(block_source& source, metadata_block root, const leaf_choice& prefetch,
                         const leaf_function& each) {
    return leaf_lister(source, prefetch, each).list(root);
}

void prefetch_inner_nodes(block_source& source, std::span<const metadata_block> roots) {
    // More would not stay in a cache until they are used.
    constexpr std::size_t nodes_max = 512;
    using block_list = std::vector<metadata_block>;
    const auto fetch = [&source](block_list blocks) {
        std::ranges::sort(blocks);
        const auto repeated = std::ranges::unique(blocks);
        blocks.erase(repeated.begin(), repeated.end());
        source.prefetch(blocks, block_kind::btree_node);
    };
    const auto add_children = [&source](metadata_block where, std::uint32_t count_max,
                                        block_list& into) {
        const auto page = source.read(where, block_kind::btree_node);
        if (!page || node_view(page->bytes()).is_leaf()) {
            return;
        }
        const node_view node(page->bytes());
        for (std::uint32_t index = 0; index < std::min(node.nr_entries(), count_max); ++index) {
            if (node.child(index).value() < source.block_count()) {
                into.push_back(node.child(index));
            }
        }
    };
    // One level of each tree that has another one below.
    std::vector<block_list> levels;
    for (const metadata_block root : roots) {
        levels.push_back({root});
    }
    std::size_t node_count = roots.size();
    for (std::uint32_t depth = 1; depth < btree_depth_max && node_count <= nodes_max; ++depth) {
        block_list level;
        for (const block_list& of_tree : levels) {
            level.insert(level.end(), of_tree.begin(), of_tree.end());
        }
        fetch(level);
        block_list first_children;
        for (const block_list& of_tree : levels) {
            add_children(of_tree.front(), 1, first_children);
        }
        fetch(first_children);
        std::vector<block_list> next;
        for (const block_list& of_tree : levels) {
            // The leftmost path says how deep the whole tree is.
            block_list first_child;
            block_list below;
            add_children(of_tree.front(), 1, first_child);
            if (!first_child.empty()) {
                add_children(first_child.front(), 1, below);
            }
            if (!below.empty()) {
                block_list& made = next.emplace_back();
                for (const metadata_block node : of_tree) {
                    add_children(node, UINT32_MAX, made);
                }
                node_count += made.size();
            }
        }
        levels = std::move(next);
        if (levels.empty()) {
            return;
        }
    }
}

result<block_ref> read_mapping_leaf(block_source& source, metadata_block leaf, std::uint64_t first,
                                    std::uint64_t last) {
    block_ref page = UTHIN_TRY(read_node(source, leaf, first, last));
    if (!node_view(page.bytes()).is_leaf()) {
        return fail(error_code::corrupt,
                    fmt::format("mapping tree: block {} is no leaf", leaf.value()));
    }
    return page;
}

void leaf_runs::add(metadata_block leaf) {
    leaf_info& info = leaves_[leaf.value()];
    if (info.devices++ == 0) {
        info.before = previous_;
    } else if (info.before != previous_) {
        info.begins_run = true;
    }
    info.begins_run = info.begins_run || previous_ == nobody;
    if (previous_ != nobody) {
        leaf_info& before = leaves_[previous_];
        if (before.after == nobody) {
            before.after = leaf.value();
        } else if (before.after != leaf.value()) {
            before.ends_run = true;
        }
    }
    previous_ = leaf.value();
}

void leaf_runs::end_device() {
    if (previous_ != nobody) {
        leaves_[previous_].ends_run = true;
    }
    previous_ = nobody;
}

bool leaf_runs::is_shared(metadata_block leaf) const noexcept {
    const leaf_info* info = leaves_.find(leaf.value());
    return info != nullptr && info->devices > 1;
}

bool leaf_runs::begins_run(metadata_block leaf) const noexcept {
    const leaf_info* info = leaves_.find(leaf.value());
    if (info == nullptr || info->begins_run || info->before == nobody) {
        return true;
    }
    const leaf_info* before = leaves_.find(info->before);
    return before == nullptr || before->ends_run;
}

std::optional<metadata_block> leaf_runs::find_shared_run(metadata_block from) const noexcept {
    for (metadata_block leaf = from; leaf.value() < block_count_; ++leaf) {
        if (is_shared(leaf) && begins_run(leaf)) {
            return leaf;
        }
    }
    return std::nullopt;
}

std::optional<metadata_block> leaf_runs::next_in_run(metadata_block leaf) const noexcept {
    const leaf_info* info = leaves_.find(leaf.value());
    if (info == nullptr || info->after == nobody || begins_run(metadata_block(info->after))) {
        return std::nullopt;
    }
    return metadata_block(info->after);
}

void leaf_runs::set_keys(metadata_block leaf, std::uint64_t first_key, std::uint64_t last_key) {
    leaf_info& info = leaves_[leaf.value()];
    info.first_key = first_key;
    info.last_key = last_key;
}

std::pair<std::uint64_t, std::uint64_t> leaf_runs::keys(metadata_block leaf) const noexcept {
    const leaf_info* info = leaves_.find(leaf.value());
    return info != nullptr ? std::pair(info->first_key, info->last_key) : std::pair(0UL, 0UL);
}

}  // namespace uthin::thin_metadata
