// Inside of the checker: what it knows about each block, and the walk itself. Not for others.
//
// Memory: one block_info for each touched block (paged), one on-disk-encoded page of counts for
// each bitmap that is really there, and the overflow entries; all of it is bounded by the image.
#pragma once

#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/paged_array.h"
#include "persistent_data/btree_node.h"
#include "thin_metadata/checker.h"

namespace uthin::thin_metadata {

enum class block_use : std::uint8_t {
    none,
    superblock,
    details_node,
    top_node,
    bottom_node,
    data_index_node,
    data_overflow_node,
    metadata_overflow_node,
    data_bitmap,
    metadata_bitmap,
    metadata_index,
};
[[nodiscard]] std::string_view to_string(block_use use) noexcept;

// What is remembered of a block; for nodes, of the subtree under it.
struct block_info {
    std::uint64_t entries = 0;
    std::uint64_t first_key = 0;
    std::uint64_t last_key = 0;
    std::uint32_t references = 0;
    std::uint32_t time_max = 0;
    block_use use = block_use::none;
    std::uint8_t height = 0;  // a leaf has 1
    bool in_progress = false;
    bool is_bad = false;       // the node itself cannot be used
    bool has_damage = false;   // it, or something below it
    bool is_internal = false;  // only of nodes that are not bad
};

// Inclusive, since UINT64_MAX is a key.
struct key_bounds {
    std::uint64_t first = 0;
    std::uint64_t last = UINT64_MAX;
};

struct tree_walk {
    block_use use = block_use::none;
    std::uint32_t value_size_bytes = 8;
    // Of the mapping tree that is walked; of the first owner when several share it.
    std::optional<device_id> device = std::nullopt;
};

// One entry of a space map's index, and whether its bitmap belongs to it alone.
struct index_entry {
    std::uint64_t index = 0;
    metadata_block bitmap;
    std::uint32_t nr_free = 0;
    std::uint32_t none_free_before = 0;
    bool usable = false;
};

struct space_map_state {
    block_space space = block_space::none;
    std::uint64_t nr_blocks = 0;
    std::uint64_t nr_allocated = 0;
    bool index_complete = true;
    bool overflow_complete = true;
    std::vector<index_entry> entries;                               // ascending, unique
    std::vector<std::pair<std::uint64_t, std::uint32_t>> overflow;  // ascending, unique

    [[nodiscard]] const index_entry* find_entry(std::uint64_t index) const noexcept;
};

// Counted references on data blocks, in the encoding of the bitmaps so that whole words compare.
class data_counts {
public:
    void cover(const space_map_state& map);
    void add(data_block block);
    // The same for the values of a leaf whose highest data block is `highest`.
    void add_leaf(const persistent_data::node_view& leaf, data_block highest);
    // The fields of one bitmap; null: all zero.
    [[nodiscard]] const std::byte* fields(const index_entry& of) const noexcept;
    [[nodiscard]] std::uint32_t exact(std::uint64_t block) const;
    [[nodiscard]] std::uint64_t used() const noexcept { return used_; }

private:
    // Eight aligned bytes of fields, all of them 0: counts them once.
    [[nodiscard]] static bool take_blank_word(std::byte* fields);
    // Counts a block whose fields are in `place`.
    bool add_dense(std::byte& place, std::uint64_t block);
    void count_overflow(std::uint64_t block, bool is_first);

    const space_map_state* map_ = nullptr;
    // A space map whose index is whole, as nearly all are, has its fields in one piece.
    std::uint64_t dense_blocks_ = 0;
    std::vector<std::byte> dense_;
    paged_array<std::uint32_t, 1024> dense_overflow_{0};
    std::vector<std::unique_ptr<std::byte[]>> pages_;
    std::unordered_map<std::uint64_t, std::uint32_t> overflow_;
    std::uint64_t used_ = 0;
};

class checker {
public:
    checker(metadata_view& view, const check_options& options);
    [[nodiscard]] result<check_report> run();

private:
    struct named_device {
        std::uint64_t id;
        disk_device_details details;
    };
    struct named_root {
        std::uint64_t id;
        metadata_block root;
    };
    using entry_function = std::function<void(std::uint64_t key, const std::byte* value)>;

    // checker.cpp
    void check_superblock_fields();
    void check_sizes();
    void check_superblock_tail();
    [[nodiscard]] result<void> check_trees_of(const disk_superblock& superblock, bool is_live);
    [[nodiscard]] result<void> check_devices(const disk_superblock& superblock, bool is_live);
    void check_device(const named_device& device, metadata_block root,
                      const disk_superblock& superblock, bool is_live);
    [[nodiscard]] result<void> check_held_root();
    void add(check_finding finding);
    void add_superblock(check_severity severity, check_code code, std::string text);
    void add_device(check_severity severity, check_code code, std::uint64_t id, std::string text);
    void add_block(check_severity severity, check_code code, metadata_block where,
                   std::string text);
    // Absent after a finding was added; `lost` says what cannot be read now.
    [[nodiscard]] result<std::optional<persistent_data::block_ref>> read(
        metadata_block where, persistent_data::block_kind kind,
        const std::function<std::string()>& lost, std::optional<device_id> device = std::nullopt);
    // Notes a pointer to a block that is no tree node. False after a finding was added.
    [[nodiscard]] bool claim(metadata_block where, block_use use);
    void lose(block_use use);

    // checker_trees.cpp
    [[nodiscard]] result<void> visit_root(const tree_walk& walk, metadata_block root);
    // Null when nothing is known of the block; else what is remembered.
    [[nodiscard]] result<const block_info*> visit(const tree_walk& walk, metadata_block where,
                                                  key_bounds bounds, bool is_root,
                                                  std::uint32_t depth);
    void meet_again(const tree_walk& walk, metadata_block where, key_bounds bounds,
                    const block_info& info);
    [[nodiscard]] result<void> visit_new(const tree_walk& walk, metadata_block where,
                                         key_bounds bounds, bool is_root, std::uint32_t depth,
                                         block_info& info);
    [[nodiscard]] bool check_node(const tree_walk& walk, metadata_block where, key_bounds bounds,
                                  bool is_root, const persistent_data::node_view& node);
    void check_node_habits(const tree_walk& walk, metadata_block where, bool is_root,
                           const persistent_data::node_view& node,
                           persistent_data::const_block_bytes bytes);
    [[nodiscard]] result<void> visit_children(const tree_walk& walk, metadata_block where,
                                              key_bounds bounds, std::uint32_t depth,
                                              const persistent_data::node_view& node,
                                              block_info& info);
    void check_child(const tree_walk& walk, metadata_block parent, metadata_block where,
                     key_bounds bounds, const block_info& child, block_info& info);
    [[nodiscard]] result<void> visit_leaf(const tree_walk& walk, metadata_block where,
                                          const persistent_data::node_view& node, block_info& info);
    [[nodiscard]] result<void> visit_top_leaf(const persistent_data::node_view& node);
    void visit_bottom_leaf(const tree_walk& walk, metadata_block where,
                           const persistent_data::node_view& node, block_info& info);
    void visit_odd_leaf(const tree_walk& walk, metadata_block where,
                        const persistent_data::node_view& node);
    void prefetch_values(const persistent_data::node_view& node);
    void node_finding(check_code code, const tree_walk& walk, metadata_block where,
                      key_bounds bounds, std::string_view what, std::string_view loss = "lost");
    // All entries of a tree that was visited, less what is lost. Each node is read at most once.
    [[nodiscard]] result<void> collect(const tree_walk& walk, metadata_block where,
                                       key_bounds bounds, std::uint32_t depth,
                                       const entry_function& each);

    // checker_space_maps.cpp
    [[nodiscard]] result<void> read_space_maps();
    [[nodiscard]] result<void> read_metadata_index(metadata_block where);
    void add_index_entry(space_map_state& map, std::uint64_t index, const std::byte* value);
    void finish_index(space_map_state& map);
    [[nodiscard]] result<std::optional<std::uint32_t>> stored_metadata_count(metadata_block where);
    [[nodiscard]] result<void> compare_space_maps();

    metadata_view& view_;
    persistent_data::block_source& source_;
    const check_options& options_;
    check_report report_;
    std::vector<std::uint64_t> listed_of_code_;
    std::uint64_t block_count_;
    std::uint64_t blocks_read_ = 0;
    std::uint32_t pool_time_;
    paged_array<block_info> blocks_;
    bool leaves_planned_ = false;
    std::uint64_t highest_reference_ = 0;
    // Some references could not be counted.
    bool data_counts_incomplete_ = false;
    bool metadata_counts_incomplete_ = false;
    space_map_state metadata_map_;
    space_map_state data_map_;
    data_counts data_counts_;

    friend class space_map_comparison;
};

}  // namespace uthin::thin_metadata
