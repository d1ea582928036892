#include "persistent_data/btree_node.h"

#include <fmt/format.h>

namespace uthin::persistent_data {

int node_view::lower_bound(std::uint64_t key) const noexcept {
    std::uint32_t count = nr_entries_;
    if (count == 0) {
        return -1;
    }
    // Halving without a branch on the comparison: it is unpredictable, the loop count is not.
    const std::byte* const keys = bytes_ + node_header_bytes;
    const std::byte* base = keys;
    while (count > 1) {
        const std::uint32_t half = count / 2;
        const std::byte* const middle = base + 8 * std::size_t{half};
        base = load_le<std::uint64_t>(middle) <= key ? middle : base;
        count -= half;
    }
    const auto index = static_cast<int>((base - keys) / 8);
    return load_le<std::uint64_t>(base) <= key ? index : index - 1;
}

void node_editor::init(bool leaf, std::uint32_t value_size_bytes,
                       std::uint32_t max_entries) noexcept {
    store_le<std::uint32_t>(bytes_.data() + 4, leaf ? node_flag_leaf : node_flag_internal);
    store_le<std::uint32_t>(bytes_.data() + 16, 0);
    store_le<std::uint32_t>(bytes_.data() + 20, max_entries);
    store_le<std::uint32_t>(bytes_.data() + 24, value_size_bytes);
    store_le<std::uint32_t>(bytes_.data() + 28, 0);
}

void node_editor::set_max_entries(std::uint32_t max_entries) noexcept {
    const node_view before = view();
    store_le<std::uint32_t>(bytes_.data() + 20, max_entries);
    std::memmove(value(0), before.value(0),
                 std::size_t{before.value_size_bytes()} * before.nr_entries());
}

void node_editor::insert_at(std::uint32_t index, std::uint64_t key,
                            const std::byte* value) noexcept {
    const node_view node = view();
    copy_entries(index + 1, node, index, node.nr_entries() - index);
    set_nr_entries(node.nr_entries() + 1);
    set_key(index, key);
    set_value(index, value);
}

void node_editor::erase(std::uint32_t begin, std::uint32_t end) noexcept {
    const node_view node = view();
    copy_entries(begin, node, end, node.nr_entries() - end);
    set_nr_entries(node.nr_entries() - (end - begin));
}

void node_editor::copy_entries(std::uint32_t index, const node_view& from, std::uint32_t from_index,
                               std::uint32_t count) noexcept {
    // memmove: a node is shifted within itself this way too.
    std::memmove(bytes_.data() + node_header_bytes + 8 * std::size_t{index},
                 from.key_bytes(from_index), 8 * std::size_t{count});
    std::memmove(value(index), from.value(from_index),
                 std::size_t{from.value_size_bytes()} * count);
}

void redistribute_two(node_editor left, node_editor right, std::uint32_t left_count) noexcept {
    const std::uint32_t nr_left = left.view().nr_entries();
    const std::uint32_t nr_right = right.view().nr_entries();
    if (nr_left < left_count) {
        const std::uint32_t moved = left_count - nr_left;
        left.copy_entries(nr_left, right.view(), 0, moved);
        right.erase(0, moved);
    } else {
        const std::uint32_t moved = nr_left - left_count;
        right.copy_entries(moved, right.view(), 0, nr_right);
        right.copy_entries(0, left.view(), left_count, moved);
        right.set_nr_entries(nr_right + moved);
    }
    left.set_nr_entries(left_count);
}

result<void> check_tree_node(const node_view& node, metadata_block where,
                             std::uint32_t value_size_bytes) {
    const std::uint32_t expected = node.is_leaf() ? value_size_bytes : 8;
    if (node.value_size_bytes() != expected) [[unlikely]] {
        return fail(error_code::corrupt,
                    fmt::format("btree node {}: values of {} bytes, expected {}", where.value(),
                                node.value_size_bytes(), expected));
    }
    return {};
}

result<void> check_pointer(metadata_block child, metadata_block parent, std::uint64_t block_count) {
    // Block 0 is the superblock, never a node.
    if (child.value() == 0 || child.value() >= block_count) [[unlikely]] {
        return fail(error_code::corrupt, fmt::format("btree node {}: points to block {} of {}",
                                                     parent.value(), child.value(), block_count));
    }
    return {};
}

}  // namespace uthin::persistent_data
