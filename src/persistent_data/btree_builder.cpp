// Writing a tree bottom-up.
#include <fmt/format.h>

#include "persistent_data/btree.h"

namespace uthin::persistent_data {

result<void> btree_builder::push(std::uint64_t key, const std::byte* value) {
    if (!levels_.empty() && !levels_[0].keys.empty() && key <= levels_[0].keys.back()) {
        return fail(error_code::invalid_argument,
                    fmt::format("btree builder: key {} after key {}", key, levels_[0].keys.back()));
    }
    return add(0, key, value);
}

result<void> btree_builder::add(std::size_t level, std::uint64_t key, const std::byte* value) {
    const std::size_t value_size = value_size_of(level);
    const std::size_t capacity = max_entries_for(value_size_of(level));
    if (level == levels_.size()) {
        levels_.emplace_back();
        levels_[level].keys.reserve(2 * capacity);
        levels_[level].values.reserve(2 * capacity * value_size);
    }
    open_level& open = levels_[level];
    open.keys.push_back(key);
    open.values.insert(open.values.end(), value, value + value_size);
    // A full node is held back until another full one follows: whatever comes last can then be
    // shared out between two legal nodes.
    if (open.keys.size() == 2 * capacity) {
        return write_and_link(level, capacity);
    }
    return {};
}

result<metadata_block> btree_builder::write_node(std::size_t level, std::size_t count) {
    const shadow node = UTHIN_TRY(tree_.tm_.new_block(block_kind::btree_node));
    const std::size_t value_size = value_size_of(level);
    open_level& open = levels_[level];
    node_editor edit(node.bytes);
    edit.init(level == 0, value_size_of(level));
    edit.set_nr_entries(static_cast<std::uint32_t>(count));
    for (std::uint32_t i = 0; i < count; ++i) {
        edit.set_key(i, open.keys[i]);
        edit.set_value(i, &open.values[i * value_size]);
    }
    const auto written = static_cast<std::ptrdiff_t>(count);
    open.keys.erase(open.keys.begin(), open.keys.begin() + written);
    open.values.erase(open.values.begin(),
                      open.values.begin() + written * static_cast<std::ptrdiff_t>(value_size));
    return node.where;
}

result<void> btree_builder::write_and_link(std::size_t level, std::size_t count) {
    const std::uint64_t first_key = levels_[level].keys.front();
    const le64 child(UTHIN_TRY(write_node(level, count)).value());
    return add(level + 1, first_key, std::as_bytes(std::span(&child, 1)).data());
}

result<metadata_block> btree_builder::finish() {
    if (levels_.empty()) {
        return tree_.create();
    }
    for (std::size_t level = 0;; ++level) {
        const std::size_t count = levels_[level].keys.size();
        const std::size_t capacity = max_entries_for(value_size_of(level));
        if (count <= capacity && level + 1 == levels_.size()) {
            const metadata_block root = UTHIN_TRY(write_node(level, count));
            levels_.clear();
            return root;
        }
        if (count > capacity) {
            UTHIN_TRY(write_and_link(level, count / 2));
        }
        UTHIN_TRY(write_and_link(level, levels_[level].keys.size()));
    }
}

}  // namespace uthin::persistent_data
