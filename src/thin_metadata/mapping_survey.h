// What can be kept of damaged mapping trees: every subtree and every entry that verifies. As a
// block source it shows the trees without the rest, so that a dump of it meets no damage.
//
// Invariants
//   SV1  Each block is judged once, whatever shares it; memory is bounded by the number of blocks
//        that are nodes.
//   SV2  What read() returns of a visited tree is sound: keys ascend within their bounds, all
//        leaves are at one level, data blocks are below the limit.
//   SV3  list_losses() covers every key that a part left out could have had, and none of those
//        that are kept.
// Threads   One at a time.
// Failures  Damage is none: it is what is left out.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/paged_array.h"
#include "thin_metadata/mending_source.h"

namespace uthin::thin_metadata {

// Inclusive, since UINT64_MAX is a key.
struct key_span {
    std::uint64_t first = 0;
    std::uint64_t last = UINT64_MAX;
};

// What is kept of a node and everything below it.
struct subtree_summary {
    std::uint64_t first_key = 0;  // of a mapping; last < first when there is none
    std::uint64_t last_key = 0;
    std::uint64_t mappings = 0;
    std::uint64_t highest_data_block = 0;
    std::uint64_t newest_count = 0;  // mappings made at time_max
    std::uint32_t time_max = 0;
    std::uint8_t height = 0;  // a leaf has 1

    void add(const subtree_summary& other);
};

// Inside of the survey: the entries of a node that come into question, and what became of them.
struct surveyed_child {
    std::uint32_t index = 0;
    key_span slot;
    bool kept = false;
    bool readable = false;  // there is nothing (left) in it
};

class mapping_survey final : public persistent_data::block_source {
public:
    // `blocks` outlives it. Mappings to data blocks from `data_limit` on are damage.
    mapping_survey(mending_source& blocks, std::uint64_t data_limit);

    // Null: no node, nothing can be kept. A shared tree costs one look.
    [[nodiscard]] const subtree_summary* visit(metadata_block root);
    // What was seen at an earlier visit; null also without one.
    [[nodiscard]] const subtree_summary* find(metadata_block root) const noexcept;
    // A pointer to it from outside of the trees. Pointers inside are counted by visit().
    void add_reference(metadata_block root);
    [[nodiscard]] std::uint32_t references(metadata_block where) const noexcept;
    // Something below is left out.
    [[nodiscard]] bool has_damage(metadata_block root) const noexcept;
    // Something below is a sound block that does not belong there: the tree is an old one.
    [[nodiscard]] bool is_overwritten(metadata_block root) const noexcept;
    [[nodiscard]] bool was_visited(metadata_block where) const noexcept;
    // In all leaves that were visited, each counted once.
    [[nodiscard]] std::uint64_t leaf_mappings() const noexcept { return leaf_mappings_; }
    // The root of a tree without mappings, which no block of the device is.
    [[nodiscard]] metadata_block add_empty_tree() noexcept;

    struct loss {
        key_span keys;
        metadata_block block;  // what was found bad
        std::string text;
    };
    using loss_function = std::function<void(const loss& lost)>;
    // Of a tree that was visited.
    void list_losses(metadata_block root, const loss_function& each);
    // Nodes that could not be read, with the keys that they may have had and their height (0: of
    // the root of a device).
    struct lost_node {
        metadata_block where;
        key_span keys;
        std::uint8_t height = 0;
    };
    [[nodiscard]] const std::vector<lost_node>& lost_nodes() const noexcept { return lost_nodes_; }

    [[nodiscard]] result<persistent_data::block_ref> read(
        metadata_block where, persistent_data::block_kind kind) override;
    [[nodiscard]] std::uint64_t block_count() const override {
        return blocks_.block_count() + empty_trees_;
    }
    void prefetch(std::span<const metadata_block> blocks,
                  persistent_data::block_kind kind) override;

private:
    enum class state : std::uint8_t { unseen, in_progress, unusable, usable };
    struct node_info {
        subtree_summary summary;
        std::uint32_t references = 0;
        state is = state::unseen;
        bool patched = false;  // the node itself is not shown as it is
        bool damaged = false;
        bool overwritten = false;
    };

    [[nodiscard]] const node_info* visit(metadata_block where, key_span bounds,
                                         std::uint32_t depth);
    [[nodiscard]] static const node_info* fitting(const node_info& info, key_span bounds);
    void visit_leaf(const persistent_data::node_view& node, key_span bounds, node_info& info);
    void visit_children(metadata_block where, const persistent_data::node_view& node,
                        key_span bounds, std::uint32_t depth, node_info& info);
    void prefetch_children(const persistent_data::node_view& node);
    void note_lost_children(const persistent_data::node_view& node,
                            const std::vector<surveyed_child>& children, node_info& info);
    // The same for a node that was visited.
    [[nodiscard]] std::vector<surveyed_child> children_of(const persistent_data::node_view& node,
                                                          const node_info& info, key_span bounds);
    [[nodiscard]] bool is_sound_leaf(const persistent_data::node_view& node, key_span bounds,
                                     subtree_summary& summary) const;
    // Indexes of the entries to keep.
    [[nodiscard]] std::vector<std::uint32_t> leaf_entries(const persistent_data::node_view& node,
                                                          key_span bounds) const;
    [[nodiscard]] bool has_good_value(const persistent_data::node_view& node,
                                      std::uint32_t index) const;
    [[nodiscard]] std::string describe(metadata_block where, key_span bounds);
    void list_losses(metadata_block where, key_span bounds, std::uint32_t depth,
                     const loss_function& each);
    void list_leaf_losses(metadata_block where, const persistent_data::node_view& node,
                          key_span bounds, const loss_function& each);
    void list_child_losses(metadata_block where, const persistent_data::node_view& node,
                           const node_info& info, key_span bounds, std::uint32_t depth,
                           const loss_function& each);
    [[nodiscard]] bool is_to_be_listed(const surveyed_child& child, metadata_block below,
                                       std::uint32_t depth);
    void list_gaps(metadata_block where, const persistent_data::node_view& node,
                   const std::vector<surveyed_child>& children, key_span bounds,
                   const loss_function& each);
    [[nodiscard]] key_span clip_of(metadata_block where, key_span otherwise) const;

    mending_source& blocks_;
    std::uint64_t data_limit_;
    std::uint64_t empty_trees_ = 0;
    std::uint64_t leaf_mappings_ = 0;
    paged_array<node_info> nodes_;
    // The bounds by which a patched node was judged.
    std::unordered_map<std::uint64_t, key_span> clips_;
    std::vector<lost_node> lost_nodes_;
    // Nodes without mappings whose losses were listed.
    std::unordered_set<std::uint64_t> empty_listed_;
};

// Indexes of the longest series of ascending keys among the entries that `accept` takes.
[[nodiscard]] std::vector<std::uint32_t> ascending_entries(
    const persistent_data::node_view& node, const std::function<bool(std::uint32_t)>& accept);

}  // namespace uthin::thin_metadata
