// The bytes of one btree node.
//
// Invariants (of a node that passed check_block(); order of keys and fill are not implied)
//   BN1  32 + (8 + value_size) * max_entries <= 4096 and nr_entries <= max_entries.
//   BN2  Exactly one of INTERNAL and LEAF is set.
//
// Threads   Plain views of memory.
// Failures  None but of the checks at the end, which return `corrupt` and name the block.
// Source    docs/format.md 4.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/endian.h"
#include "persistent_data/validator.h"

namespace uthin::persistent_data {

inline constexpr std::uint32_t node_flag_internal = 1;
inline constexpr std::uint32_t node_flag_leaf = 2;
inline constexpr std::uint32_t node_header_bytes = 32;

struct disk_node_header {
    le32 csum;
    le32 flags;
    le64 blocknr;
    le32 nr_entries;
    le32 max_entries;
    le32 value_size;
    le32 padding;
};
static_assert(sizeof(disk_node_header) == node_header_bytes);

// A multiple of three, so that a third is an exact minimum fill.
[[nodiscard]] constexpr std::uint32_t max_entries_for(std::uint32_t value_size_bytes) noexcept {
    return (metadata_block_size_bytes - node_header_bytes) / (8 + value_size_bytes) / 3 * 3;
}
static_assert(max_entries_for(8) == 252 && max_entries_for(24) == 126 &&
              max_entries_for(16) == 168 && max_entries_for(4) == 336);

// Read access.
class node_view {
public:
    explicit node_view(const_block_bytes bytes) noexcept
        : bytes_(bytes.data()),
          nr_entries_(load_le<std::uint32_t>(bytes_ + 16)),
          max_entries_(load_le<std::uint32_t>(bytes_ + 20)),
          value_size_(load_le<std::uint32_t>(bytes_ + 24)) {}

    [[nodiscard]] bool is_leaf() const noexcept {
        return (load_le<std::uint32_t>(bytes_ + 4) & node_flag_leaf) != 0;
    }
    [[nodiscard]] metadata_block blocknr() const noexcept {
        return metadata_block(load_le<std::uint64_t>(bytes_ + 8));
    }
    [[nodiscard]] std::uint32_t nr_entries() const noexcept { return nr_entries_; }
    [[nodiscard]] std::uint32_t max_entries() const noexcept { return max_entries_; }
    [[nodiscard]] std::uint32_t value_size_bytes() const noexcept { return value_size_; }
    [[nodiscard]] std::uint64_t key(std::uint32_t index) const noexcept {
        return load_le<std::uint64_t>(key_bytes(index));
    }
    [[nodiscard]] const std::byte* key_bytes(std::uint32_t index) const noexcept {
        return bytes_ + node_header_bytes + 8 * std::size_t{index};
    }
    [[nodiscard]] const std::byte* value(std::uint32_t index) const noexcept {
        return bytes_ + node_header_bytes + 8 * std::size_t{max_entries_} +
               std::size_t{value_size_} * index;
    }
    [[nodiscard]] std::uint64_t value_u64(std::uint32_t index) const noexcept {
        return load_le<std::uint64_t>(value(index));
    }
    [[nodiscard]] metadata_block child(std::uint32_t index) const noexcept {
        return metadata_block(value_u64(index));
    }
    // Greatest index whose key is <= `key`; -1 when there is none.
    [[nodiscard]] int lower_bound(std::uint64_t key) const noexcept;

private:
    const std::byte* bytes_;
    std::uint32_t nr_entries_;
    std::uint32_t max_entries_;
    std::uint32_t value_size_;
};

// Write access to the writer's private copy.
class node_editor {
public:
    explicit node_editor(block_bytes bytes) noexcept : bytes_(bytes) {}

    // An empty node; the rest of the block is left as it is.
    void init(bool leaf, std::uint32_t value_size_bytes) noexcept {
        init(leaf, value_size_bytes, max_entries_for(value_size_bytes));
    }
    void init(bool leaf, std::uint32_t value_size_bytes, std::uint32_t max_entries) noexcept;
    // The same entries with another capacity; they fit into it, and it fits into the block.
    void set_max_entries(std::uint32_t max_entries) noexcept;
    [[nodiscard]] node_view view() const noexcept { return node_view(bytes_); }
    void set_nr_entries(std::uint32_t count) noexcept {
        store_le<std::uint32_t>(bytes_.data() + 16, count);
    }
    void set_key(std::uint32_t index, std::uint64_t key) noexcept {
        store_le(bytes_.data() + node_header_bytes + 8 * std::size_t{index}, key);
    }
    void set_value(std::uint32_t index, const std::byte* value) noexcept {
        const node_view node = view();
        std::memcpy(mutable_value(node, index), value, node.value_size_bytes());
    }
    void set_child(std::uint32_t index, metadata_block child) noexcept {
        store_le(mutable_value(view(), index), child.value());
    }
    [[nodiscard]] std::byte* value(std::uint32_t index) noexcept {
        return mutable_value(view(), index);
    }
    // Room must exist; later entries move up.
    void insert_at(std::uint32_t index, std::uint64_t key, const std::byte* value) noexcept;
    // Removes [begin, end); later entries move down.
    void erase(std::uint32_t begin, std::uint32_t end) noexcept;
    // Copies `count` entries of `from` starting at `from_index` over those at `index`; counts are
    // not changed.
    void copy_entries(std::uint32_t index, const node_view& from, std::uint32_t from_index,
                      std::uint32_t count) noexcept;

private:
    [[nodiscard]] std::byte* mutable_value(const node_view& node, std::uint32_t index) noexcept {
        return bytes_.data() + (node.value(index) - bytes_.data());
    }
    block_bytes bytes_;
};

// Moves entries between neighbours of equal capacity and value size until `left` has `left_count`.
void redistribute_two(node_editor left, node_editor right, std::uint32_t left_count) noexcept;

// A node that a tree of this value size can contain. `where` is named in the error.
[[nodiscard]] result<void> check_tree_node(const node_view& node, metadata_block where,
                                           std::uint32_t value_size_bytes);
// A pointer found in `parent` (or a root, which is its own parent) that can be followed.
[[nodiscard]] result<void> check_pointer(metadata_block child, metadata_block parent,
                                         std::uint64_t block_count);

}  // namespace uthin::persistent_data
