// A metadata device in memory with its transaction manager, and a slow judge of the trees on it.
//
// Invariants
//   TL1  The judge shares no code with the btree but node_view: it recounts every reference by
//        walking all trees, and compares with the space map block by block.
//
// Threads   One.
// Failures  judge() returns every complaint as text, empty when there is none.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/memory_device.h"
#include "persistent_data/btree.h"
#include "persistent_data/space_map_metadata.h"

namespace uthin::test {

// Counts the owners of each value; the first 8 bytes of a value are its name.
class counting_rule final : public persistent_data::value_rule {
public:
    explicit counting_rule(std::uint32_t value_size_bytes) : value_size_(value_size_bytes) {}

    [[nodiscard]] result<void> inc(const std::byte* values, std::uint32_t count) override;
    [[nodiscard]] result<void> dec(const std::byte* values, std::uint32_t count) override;
    [[nodiscard]] bool equal(const std::byte* a, const std::byte* b) const override;

    // Values without owners are not listed.
    std::map<std::uint64_t, std::uint64_t> owners;

private:
    std::uint32_t value_size_;
};

// `size_bytes` bytes that depend on `name` and begin with it.
[[nodiscard]] std::vector<std::byte> make_value(std::uint64_t name, std::uint32_t size_bytes);
[[nodiscard]] bool is_value(std::uint64_t name, std::span<const std::byte> value);

struct tree_version {
    metadata_block root;
    std::map<std::uint64_t, std::uint64_t> entries;  // key to the name of its value
};

class tree_lab {
public:
    explicit tree_lab(std::uint32_t value_size_bytes, std::uint64_t nr_blocks = 16320);

    // Writes everything out and starts the next transaction.
    [[nodiscard]] result<void> commit();
    // Every complaint about these trees, which must be all there are on the device: content,
    // structure (BT1, BT2), reference counts of blocks (BT3) and owners of values.
    [[nodiscard]] std::string judge(std::span<const tree_version> versions);
    // Entries of each leaf, left to right.
    [[nodiscard]] std::vector<std::uint32_t> leaf_sizes(metadata_block root);
    // Blocks allocated in this transaction so far.
    [[nodiscard]] std::uint64_t allocations() const;
    // The writer's copy of a node, to be damaged.
    [[nodiscard]] persistent_data::block_bytes edit(metadata_block where);

    const std::uint32_t value_size_bytes;
    counting_rule rule;
    io::memory_device device;
    persistent_data::block_manager blocks;
    persistent_data::transaction_manager tm;
    persistent_data::btree tree;

private:
    struct walk;
    void walk_node(walk& state, metadata_block where, std::uint32_t depth, std::uint64_t key_begin,
                   std::uint64_t key_last);

    std::uint64_t free_at_commit_ = 0;
};

}  // namespace uthin::test
