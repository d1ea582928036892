#include "thin_metadata/leaf_plan.h"

#include <algorithm>
#include <utility>

#include "persistent_data/btree.h"
#include "persistent_data/btree_node.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::btree_depth_max;
using persistent_data::node_view;

std::optional<std::uint32_t> leaf_plan::depth_of(metadata_block root) {
    metadata_block where = root;
    for (std::uint32_t depth = 1; depth <= btree_depth_max; ++depth) {
        if (where.value() >= source_.block_count()) {
            return std::nullopt;
        }
        const auto page = source_.read(where, block_kind::btree_node);
        if (!page) {
            return std::nullopt;
        }
        const node_view node(page->bytes());
        if (node.is_leaf()) {
            return depth;
        }
        if (node.nr_entries() == 0) {
            return std::nullopt;
        }
        where = node.child(0);
    }
    return std::nullopt;
}

bool leaf_plan::meet(metadata_block where) {
    if (where.value() >= seen_.size() || seen_[where.value()]) {
        return false;
    }
    seen_[where.value()] = true;
    return true;
}

void leaf_plan::add_tree(metadata_block root) {
    if (root.value() >= seen_.size() || seen_[root.value()]) {
        return;
    }
    // A root without nodes under it has just been read.
    if (const auto depth = depth_of(root); depth && *depth > 1) {
        add_under(root, *depth);
    }
}

// Every block is met once, so that a loop ends.
void leaf_plan::add_under(metadata_block where, std::uint32_t depth) {
    if (!meet(where)) {
        return;
    }
    if (depth == 1) {
        add_leaf(where);
        return;
    }
    const auto page = source_.read(where, block_kind::btree_node);
    if (!page) {
        return;
    }
    const node_view node(page->bytes());
    if (node.is_leaf() || node.value_size_bytes() != 8) {
        return;
    }
    if (depth > 2) {
        std::vector<metadata_block> wanted;
        for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
            const metadata_block child = node.child(index);
            if (child.value() < seen_.size() && !seen_[child.value()]) {
                wanted.push_back(child);
            }
        }
        source_.prefetch(wanted, block_kind::btree_node);
    }
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        add_under(node.child(index), depth - 1);
    }
}

void leaf_plan::add_roots_under(metadata_block where, std::uint32_t depth,
                                std::vector<metadata_block>& roots) {
    if (depth > btree_depth_max || !meet(where)) {
        return;
    }
    const auto page = source_.read(where, block_kind::btree_node);
    if (!page) {
        return;
    }
    const node_view node(page->bytes());
    if (node.value_size_bytes() != 8) {
        return;
    }
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        if (!node.is_leaf()) {
            add_roots_under(node.child(index), depth + 1, roots);
        } else if (node.child(index).value() < source_.block_count()) {
            roots.push_back(node.child(index));
        }
    }
}

void leaf_plan::add_devices(metadata_block top_root) {
    std::vector<metadata_block> roots;
    add_roots_under(top_root, 1, roots);
    constexpr std::size_t batch = 256;
    for (std::size_t at = 0; at < roots.size(); ++at) {
        if (at % batch == 0) {
            const std::size_t count = std::min(batch, roots.size() - at);
            source_.prefetch(std::span(roots).subspan(at, count), block_kind::btree_node);
        }
        add_tree(roots[at]);
    }
}

bool leaf_plan::announce() {
    return source_.plan(std::exchange(leaves_, {}), block_kind::btree_node);
}

}  // namespace uthin::thin_metadata
