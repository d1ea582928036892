// A persistent (copy-on-write) B+tree in metadata blocks: u64 keys in ascending order, values of a
// fixed size.
//
// Trees are named by the block of their root; a changing call takes a root and returns the new one,
// the old root then belongs to nobody if it was exclusive to the caller.
//
// Invariants
//   BT1  All leaves are at one depth; nodes other than the root hold at least a third of their
//        capacity.
//   BT2  key[i] of an internal node is at most the smallest key under child i, and below key[i+1].
//   BT3  A block's reference count is the number of blocks (and superblocks) that point to it; what
//        a shared node points to is counted once.
//
// Threads   Changing calls: the writer's. Reading functions: as their block_source.
//
// Failures  A changing call that fails leaves the transaction to be aborted. Damaged nodes end in
//           `corrupt`, never in an endless walk: depth is bounded, and so are the nodes visited.
//           Trees that older kernels left underfull, or with smaller nodes, are worked on as found.
//
// Source    docs/format.md 4 to 6. Rebalancing after removal is ours (the format leaves it free):
//           damage along the edges of the removed range is repaired from the root down until every
//           node is legal.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "persistent_data/btree_node.h"
#include "persistent_data/transaction_manager.h"

namespace uthin::persistent_data {

// No real tree is deeper: 84^10 entries exceed any key space that blocks can hold.
inline constexpr std::uint32_t btree_depth_max = 16;

// What a leaf entry owns. The default owns nothing.
class value_rule {
public:
    value_rule() = default;
    value_rule(const value_rule&) = delete;
    value_rule& operator=(const value_rule&) = delete;
    virtual ~value_rule() = default;
    // A leaf with these values was copied, or they lost their entry. `values` are packed.
    [[nodiscard]] virtual result<void> inc(const std::byte* values, std::uint32_t count);
    [[nodiscard]] virtual result<void> dec(const std::byte* values, std::uint32_t count);
    // An overwrite by an equal value does not dec the old one.
    [[nodiscard]] virtual bool equal(const std::byte* a, const std::byte* b) const;
};

class btree {
public:
    // `tm` and `rule` outlive the object.
    btree(transaction_manager& tm, std::uint32_t value_size_bytes, value_rule& rule)
        : tm_(tm), value_size_(value_size_bytes), rule_(rule) {}

    struct inserted {
        metadata_block root;
        bool is_new_key = false;
    };
    struct removed {
        metadata_block root;
        // Entries removed; when `emptied`, those of shared subtrees are missing: they were dropped
        // unread.
        std::uint64_t entries = 0;
        std::uint64_t dropped_shared_subtrees = 0;
        // The tree is empty now.
        bool emptied = false;
        // Where a sliced removal goes on; the end of the range when it is done.
        std::uint64_t next_key = 0;
    };
    // Changes the value of an entry in place.
    using updater = std::function<result<void>(std::byte* value)>;

    [[nodiscard]] result<metadata_block> create();
    // The entry takes over the caller's reference on what `value` names.
    [[nodiscard]] result<inserted> insert(metadata_block root, std::uint64_t key,
                                          const std::byte* value);
    // The same, if `allows` the entry that is there (null: there is none). Absent: it does not, and
    // nothing was changed.
    using condition = std::function<bool(const std::byte* present)>;
    [[nodiscard]] result<std::optional<inserted>> insert_if(metadata_block root, std::uint64_t key,
                                                            const std::byte* value,
                                                            const condition& allows);
    // Shadows the path to an existing key, then lets `change` edit its value in place; rule_ is not
    // applied to it. `change` may work on other trees of the same transaction. not_found when the
    // key is absent (nothing changed).
    [[nodiscard]] result<metadata_block> update(metadata_block root, std::uint64_t key,
                                                const updater& change);
    // Removes every key in [begin, end), lowest first. Stops with a legal tree when about
    // `budget_blocks` nodes were visited or dropped; a shared subtree costs one. Allocates for the
    // two edges of the range only.
    [[nodiscard]] result<removed> remove_range(metadata_block root, std::uint64_t begin,
                                               std::uint64_t end,
                                               std::uint64_t budget_blocks = UINT64_MAX);
    // Drops one reference to the tree; what nobody else uses is freed and its values are dec'ed.
    [[nodiscard]] result<void> destroy(metadata_block root);

    [[nodiscard]] std::uint32_t value_size_bytes() const noexcept { return value_size_; }

private:
    friend class btree_remover;
    friend class btree_repairer;
    friend class btree_builder;

    enum class sibling_state : std::uint8_t { absent, shared, other_capacity, full, roomy };
    struct drop_totals {
        std::uint64_t nodes = 0;
        std::uint64_t entries = 0;
        std::uint64_t shared_subtrees = 0;
        // Entries of shared subtrees are to be counted, which reads them.
        bool count_shared = false;
        std::uint64_t counted_nodes = 0;
    };

    [[nodiscard]] result<void> inc_children(const node_view& node, metadata_block where);
    // shadow_block + inc_children + the test that the node belongs into this tree.
    [[nodiscard]] result<shadow> shadow_node(metadata_block where);
    // shadow_node of a child, with the parent's pointer patched.
    [[nodiscard]] result<shadow> shadow_child(const shadow& parent, std::uint32_t index);
    // The writer's view of a node, checked.
    [[nodiscard]] result<block_ref> read_node(metadata_block where);
    [[nodiscard]] result<std::uint64_t> count_subtree(metadata_block where, std::uint32_t height,
                                                      drop_totals& totals);
    // Levels below the root.
    [[nodiscard]] result<std::uint32_t> height_of(metadata_block root);

    // Where an insertion begins to change the tree: the nodes above belong to this transaction, and
    // stay as they are. Only the root of the tree may be full, or somebody else's as well.
    struct insertion_point {
        metadata_block where;
        block_ref page;  // of a node of this transaction; else null
    };
    [[nodiscard]] result<insertion_point> find_insertion_point(metadata_block root,
                                                               std::uint64_t key);
    [[nodiscard]] result<inserted> insert_below(metadata_block root, const insertion_point& point,
                                                std::uint64_t key, const std::byte* value);
    // A full node other than the root gets room; returns the node that covers `key` then.
    [[nodiscard]] result<shadow> make_space(const shadow& parent, std::uint32_t index,
                                            const shadow& node, std::uint64_t key);
    [[nodiscard]] result<void> split_beneath(const shadow& root);
    [[nodiscard]] result<sibling_state> judge_sibling(const shadow& parent, std::int64_t index,
                                                      const shadow& node);
    [[nodiscard]] result<shadow> shift_to_sibling(const shadow& parent, std::uint32_t index,
                                                  const shadow& node, bool to_left,
                                                  std::uint64_t key);
    [[nodiscard]] result<shadow> split_one_into_two(const shadow& parent, std::uint32_t index,
                                                    const shadow& node, std::uint64_t key);
    [[nodiscard]] result<shadow> split_two_into_three(const shadow& parent, std::uint32_t index,
                                                      const shadow& node, std::uint64_t key);
    [[nodiscard]] result<inserted> put_in_leaf(const shadow& leaf, metadata_block root,
                                               std::uint64_t key, const std::byte* value);

    // Drops one reference to a subtree; `height` is 0 for a leaf.
    [[nodiscard]] result<void> drop_subtree(metadata_block where, std::uint32_t height,
                                            drop_totals& totals);

    transaction_manager& tm_;
    std::uint32_t value_size_;
    value_rule& rule_;
};

// ---- reading, over any source

// Copies the value of `key` to `value` (value.size() is the tree's value size). False: no such key.
[[nodiscard]] result<bool> btree_lookup(block_source& source, metadata_block root,
                                        std::uint64_t key, std::span<std::byte> value);
[[nodiscard]] result<std::optional<std::uint64_t>> btree_lookup_u64(block_source& source,
                                                                    metadata_block root,
                                                                    std::uint64_t key);
// Largest key; absent in an empty tree.
[[nodiscard]] result<std::optional<std::uint64_t>> btree_highest_key(block_source& source,
                                                                     metadata_block root);
// Largest key that is at most `key`.
[[nodiscard]] result<std::optional<std::uint64_t>> btree_key_at_or_below(block_source& source,
                                                                         metadata_block root,
                                                                         std::uint64_t key);
// Keys in [begin, end). Reads the nodes of that range; of leaves inside it the header only.
[[nodiscard]] result<std::uint64_t> btree_count_range(block_source& source, metadata_block root,
                                                      std::uint64_t begin, std::uint64_t end);

// Walks the entries of one tree in ascending order. Every node is checked on the way: kind, value
// size, order of keys, and that keys lie within the parent's bounds, so that no damage can make the
// walk endless. After an error the cursor is at_end(); seek() starts anew.
class btree_cursor {
public:
    btree_cursor(block_source& source, metadata_block root, std::uint32_t value_size_bytes)
        : source_(source), root_(root), value_size_(value_size_bytes) {}

    // Positions at the first key >= `key`.
    [[nodiscard]] result<void> seek(std::uint64_t key);
    [[nodiscard]] result<void> next();
    [[nodiscard]] bool at_end() const noexcept { return levels_.empty(); }
    // Not at_end().
    [[nodiscard]] std::uint64_t key() const noexcept;
    [[nodiscard]] const std::byte* value() const noexcept;
    [[nodiscard]] std::uint64_t value_u64() const noexcept {
        return load_le<std::uint64_t>(value());
    }
    // The leaf that holds the current entry; the same leaf under two trees means shared entries.
    [[nodiscard]] const block_ref& leaf() const noexcept { return levels_.back().node; }
    // Blocks from the root down to the leaf's parent, then the leaf.
    [[nodiscard]] std::size_t depth() const noexcept { return levels_.size(); }

private:
    struct level {
        block_ref node;
        std::uint32_t index = 0;
        // Children below this index were announced to the source.
        std::uint32_t prefetched = 0;
        // Keys of this node are in [key_begin, key_last].
        std::uint64_t key_begin = 0;
        std::uint64_t key_last = UINT64_MAX;
    };
    // Pushes the nodes from `where` down to the leaf that covers `key`.
    [[nodiscard]] result<void> descend(metadata_block where, std::uint64_t key,
                                       std::uint64_t key_begin, std::uint64_t key_last);
    [[nodiscard]] result<void> skip_exhausted_nodes();
    void prefetch_children(level& parent);

    block_source& source_;
    metadata_block root_;
    std::uint32_t value_size_;
    std::vector<level> levels_;
};

// Builds a tree from ascending keys with full leaves (the last two balanced), writing each node
// once.
//
// Memory: two open nodes a level. The caller publishes and writes back as it goes (transaction's
// bound).
class btree_builder {
public:
    explicit btree_builder(btree& tree) : tree_(tree) {}

    // invalid_argument unless keys ascend. The entry takes over the caller's reference on what the
    // value names.
    [[nodiscard]] result<void> push(std::uint64_t key, const std::byte* value);
    // The root; an empty leaf when nothing was pushed.
    [[nodiscard]] result<metadata_block> finish();

private:
    // Entries not yet written: up to two nodes' worth, so that the last two can be balanced.
    struct open_level {
        std::vector<std::uint64_t> keys;
        std::vector<std::byte> values;
    };
    [[nodiscard]] result<void> add(std::size_t level, std::uint64_t key, const std::byte* value);
    // Writes the first `count` entries of the level as a node and takes them off.
    [[nodiscard]] result<metadata_block> write_node(std::size_t level, std::size_t count);
    [[nodiscard]] result<void> write_and_link(std::size_t level, std::size_t count);
    [[nodiscard]] std::uint32_t value_size_of(std::size_t level) const noexcept {
        return level == 0 ? tree_.value_size_ : 8;
    }

    btree& tree_;
    std::vector<open_level> levels_;
};

}  // namespace uthin::persistent_data
