#include "support/tree_lab.h"

#include <algorithm>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace uthin::test {

using persistent_data::block_kind;
using persistent_data::block_ref;
using persistent_data::node_view;

namespace {

constexpr std::uint64_t cache_blocks = 4096;
constexpr std::size_t complaints_max_bytes = 1000;

std::uint64_t name_of(const std::byte* value) {
    return load_le<std::uint64_t>(value);
}

}  // namespace

result<void> counting_rule::inc(const std::byte* values, std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i) {
        ++owners[name_of(values + std::size_t{i} * value_size_)];
    }
    return {};
}

result<void> counting_rule::dec(const std::byte* values, std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i) {
        const auto found = owners.find(name_of(values + std::size_t{i} * value_size_));
        if (found == owners.end()) {
            return fail(error_code::corrupt, "a value loses an owner that it does not have");
        }
        if (--found->second == 0) {
            owners.erase(found);
        }
    }
    return {};
}

bool counting_rule::equal(const std::byte* a, const std::byte* b) const {
    return name_of(a) == name_of(b);
}

std::vector<std::byte> make_value(std::uint64_t name, std::uint32_t size_bytes) {
    std::vector<std::byte> value(size_bytes);
    store_le(value.data(), name);
    for (std::size_t i = 8; i < value.size(); ++i) {
        value[i] = static_cast<std::byte>(name * 31 + i);
    }
    return value;
}

bool is_value(std::uint64_t name, std::span<const std::byte> value) {
    for (std::size_t i = 8; i < value.size(); ++i) {
        if (value[i] != static_cast<std::byte>(name * 31 + i)) {
            return false;
        }
    }
    return name == name_of(value.data());
}

tree_lab::tree_lab(std::uint32_t value_size, std::uint64_t nr_blocks)
    : value_size_bytes(value_size),
      rule(value_size),
      device(nr_blocks * metadata_block_size_bytes),
      blocks(device, nr_blocks, cache_blocks),
      tm(blocks),
      tree(tm, value_size, rule) {
    EXPECT_TRUE(tm.format_space_map(nr_blocks).has_value());
    EXPECT_TRUE(commit().has_value());
}

result<void> tree_lab::commit() {
    UTHIN_TRY(tm.metadata_map().commit());
    blocks.publish();
    UTHIN_TRY(blocks.write_dirty());
    UTHIN_TRY(blocks.flush());
    tm.metadata_map().committed();
    tm.committed();
    free_at_commit_ = tm.metadata_map().nr_free();
    return {};
}

std::uint64_t tree_lab::allocations() const {
    return free_at_commit_ - const_cast<tree_lab*>(this)->tm.metadata_map().nr_free();
}

persistent_data::block_bytes tree_lab::edit(metadata_block where) {
    return blocks.edit(where, block_kind::btree_node).value();
}

struct tree_lab::walk {
    std::uint32_t value_size_bytes = 0;
    bool counts_values = false;
    std::string complaints;
    std::optional<std::uint32_t> leaf_depth;
    std::map<std::uint64_t, std::uint64_t> entries;
    std::vector<std::uint32_t> leaf_sizes;
    // Over all trees: pointers to each block, and owners of each value.
    std::map<std::uint64_t, std::uint64_t> pointers;
    std::map<std::uint64_t, std::uint64_t> owners;
};

void tree_lab::walk_node(walk& state, metadata_block where, std::uint32_t depth,
                         std::uint64_t key_begin, std::uint64_t key_last) {
    const bool first_visit = state.pointers[where.value()]++ == 0;
    const auto node = tm.read(where, block_kind::btree_node);
    const auto complain = [&](std::string_view what) {
        state.complaints += fmt::format("node {}: {}\n", where.value(), what);
    };
    if (!node) {
        complain(node.error().to_string());
        return;
    }
    const node_view view(node->bytes());
    const std::uint32_t value_size = view.is_leaf() ? state.value_size_bytes : 8;
    if (view.value_size_bytes() != value_size ||
        view.max_entries() != persistent_data::max_entries_for(value_size)) {
        complain("value size or capacity is wrong");
        return;
    }
    if (depth > 0 && view.nr_entries() < view.max_entries() / 3) {
        complain(fmt::format("{} entries are too few (BT1)", view.nr_entries()));
    }
    for (std::uint32_t i = 0; i < view.nr_entries(); ++i) {
        if (view.key(i) < key_begin || view.key(i) > key_last ||
            (i > 0 && view.key(i) <= view.key(i - 1))) {
            complain(fmt::format("key {} is out of order or bounds (BT2)", view.key(i)));
        }
    }
    if (view.is_leaf()) {
        if (state.leaf_depth.value_or(depth) != depth) {
            complain("leaves are at different depths (BT1)");
        }
        state.leaf_depth = depth;
        state.leaf_sizes.push_back(view.nr_entries());
        for (std::uint32_t i = 0; i < view.nr_entries(); ++i) {
            if (!state.counts_values) {
                continue;
            }
            const std::uint64_t name = name_of(view.value(i));
            state.entries[view.key(i)] = name;
            if (first_visit) {
                ++state.owners[name];
            }
            if (first_visit && !is_value(name, {view.value(i), value_size})) {
                complain(fmt::format("the value of key {} is garbled", view.key(i)));
            }
        }
        return;
    }
    for (std::uint32_t i = 0; i < view.nr_entries(); ++i) {
        const std::uint64_t last = i + 1 < view.nr_entries() ? view.key(i + 1) - 1 : key_last;
        const std::uint64_t before = state.pointers[view.child(i).value()];
        walk_node(state, view.child(i), depth + 1, view.key(i), last);
        // What a shared node points to is counted once (BT3); content was wanted all the same.
        if (!first_visit) {
            state.pointers[view.child(i).value()] = before;
        }
    }
}

std::string tree_lab::judge(std::span<const tree_version> versions) {
    walk state;
    state.value_size_bytes = value_size_bytes;
    state.counts_values = true;
    for (const tree_version& version : versions) {
        state.entries.clear();
        state.leaf_depth.reset();
        walk_node(state, version.root, 0, 0, UINT64_MAX);
        if (state.entries != version.entries) {
            state.complaints +=
                fmt::format("tree {}: {} entries, the model has {} (or others)\n",
                            version.root.value(), state.entries.size(), version.entries.size());
        }
    }
    if (state.owners != rule.owners) {
        state.complaints += fmt::format("{} values have owners, the rule knows {} (or others)\n",
                                        state.owners.size(), rule.owners.size());
    }
    for (const auto& [block, expected] : state.pointers) {
        const auto counted = tm.count(metadata_block(block));
        if (counted.value_or(0) != expected) {
            state.complaints += fmt::format("block {}: count {}, {} pointers (BT3)\n", block,
                                            counted.value_or(0), expected);
        }
    }
    // Whatever else is allocated belongs to the space map: superblock, index, bitmaps, overflow
    // tree.
    const persistent_data::disk_space_map_root map = tm.metadata_map().root();
    walk overflow;
    overflow.value_size_bytes = 4;
    walk_node(overflow, metadata_block(map.ref_count_root), 0, 0, UINT64_MAX);
    state.complaints += overflow.complaints;
    const std::uint64_t bitmaps = (map.nr_blocks + persistent_data::entries_per_bitmap - 1) /
                                  persistent_data::entries_per_bitmap;
    const std::uint64_t expected = state.pointers.size() + overflow.pointers.size() + bitmaps + 2;
    if (map.nr_allocated != expected) {
        state.complaints += fmt::format("{} blocks are allocated, {} are in use\n",
                                        std::uint64_t{map.nr_allocated}, expected);
    }
    // The first few say it; comparing long texts takes GoogleTest for ever.
    return state.complaints.substr(0, complaints_max_bytes);
}

std::vector<std::uint32_t> tree_lab::leaf_sizes(metadata_block root) {
    walk state;
    state.value_size_bytes = value_size_bytes;
    walk_node(state, root, 0, 0, UINT64_MAX);
    return state.leaf_sizes;
}

}  // namespace uthin::test
