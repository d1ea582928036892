#include "thin_metadata/orphan_nodes.h"

#include <algorithm>
#include <map>
#include <unordered_set>

#include "persistent_data/btree.h"
#include "persistent_data/space_map_common.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::disk_index_entry;
using persistent_data::entries_per_bitmap;
using persistent_data::node_view;

namespace {

// Reads the counts of the metadata space map as far as they can be read.
class used_blocks {
public:
    used_blocks(mending_source& blocks, const disk_superblock& superblock);
    // 0 also where nobody can tell.
    [[nodiscard]] std::uint32_t count(metadata_block where);

private:
    mending_source& blocks_;
    std::uint64_t block_count_;
    metadata_block overflow_root_;
    persistent_data::block_ref index_;
    persistent_data::block_ref bitmap_;
    std::uint64_t bitmap_number_ = UINT64_MAX;
};

used_blocks::used_blocks(mending_source& blocks, const disk_superblock& superblock)
    : blocks_(blocks),
      block_count_(
          std::min<std::uint64_t>(superblock.metadata_sm_root.nr_blocks, blocks.block_count())),
      overflow_root_(superblock.metadata_sm_root.ref_count_root) {
    if (auto index = blocks.read(metadata_block(superblock.metadata_sm_root.bitmap_root),
                                 block_kind::index)) {
        index_ = *index;
    }
}

std::uint32_t used_blocks::count(metadata_block where) {
    if (!index_ || where.value() >= block_count_) {
        return 0;
    }
    const std::uint64_t number = where.value() / entries_per_bitmap;
    if (number != bitmap_number_) {
        bitmap_number_ = number;
        disk_index_entry entry{};
        std::memcpy(
            &entry,
            index_.bytes().data() + persistent_data::bitmap_header_bytes + number * sizeof entry,
            sizeof entry);
        const auto bitmap = blocks_.read(metadata_block(entry.blocknr), block_kind::bitmap);
        bitmap_ = bitmap ? *bitmap : persistent_data::block_ref();
    }
    const auto index = static_cast<std::uint32_t>(where.value() % entries_per_bitmap);
    const std::uint32_t field =
        bitmap_ ? persistent_data::bitmap_count(bitmap_.bytes().data(), index) : 0;
    constexpr std::uint32_t in_overflow = 3;
    if (field != in_overflow) {
        return field;
    }
    persistent_data::btree_cursor overflow(blocks_, overflow_root_, sizeof(std::uint32_t));
    const bool found =
        overflow.seek(where.value()) && !overflow.at_end() && overflow.key() == where.value();
    return found ? load_le<std::uint32_t>(overflow.value()) : 0;
}

struct counted_node {
    metadata_block where;
    std::uint32_t count = 0;
};

}  // namespace

std::vector<orphan_node> list_orphans(mending_source& blocks, mapping_survey& survey,
                                      const node_scan& scan, const disk_superblock& superblock,
                                      std::span<const metadata_block> other_nodes) {
    used_blocks used(blocks, superblock);
    std::unordered_set<std::uint64_t> others;
    for (const metadata_block node : other_nodes) {
        others.insert(node.value());
    }
    for (const metadata_block leaf : scan.top_leaves) {
        others.insert(leaf.value());
    }
    std::vector<counted_node> in_use;
    for (const auto* nodes : {&scan.internal_nodes, &scan.mapping_leaves}) {
        for (const metadata_block where : *nodes) {
            const std::uint32_t count = others.contains(where.value()) ? 0 : used.count(where);
            if (count != 0) {
                in_use.push_back({.where = where, .count = count});
            }
        }
    }
    // Those that nobody refers to refer to others, which are not missing then.
    for (const counted_node& node : in_use) {
        (void)survey.visit(node.where);
    }
    std::vector<orphan_node> orphans;
    for (const auto& [where, count] : in_use) {
        const subtree_summary* const tree = survey.find(where);
        const std::uint32_t seen = survey.references(where);
        if (tree != nullptr && tree->mappings != 0 && count > seen) {
            orphans.push_back({.where = where, .tree = *tree, .missing = count - seen});
        }
    }
    return orphans;
}

namespace {

bool lies_within(const subtree_summary& tree, key_span keys) {
    return tree.first_key >= keys.first && tree.last_key <= keys.last;
}

class adopter {
public:
    adopter(mending_source& blocks, mapping_survey& survey, const disk_superblock& superblock)
        : blocks_(blocks), survey_(survey), superblock_(superblock) {}

    std::vector<metadata_block> adopt(const node_scan& scan,
                                      std::span<const metadata_block> other_nodes) {
        list_lost_nodes();
        if (!lost_.empty()) {
            orphans_ = list_orphans(blocks_, survey_, scan, superblock_, other_nodes);
            assign_orphans();
        }
        std::vector<metadata_block> replaced;
        for (auto& [where, children] : children_) {
            if (rebuild(metadata_block(where), children)) {
                replaced.emplace_back(where);
            }
        }
        return replaced;
    }

private:
    // A node that several parents refer to is one.
    void list_lost_nodes() {
        for (const mapping_survey::lost_node& lost : survey_.lost_nodes()) {
            const auto [known, is_new] = lost_.emplace(lost.where.value(), lost);
            if (!is_new) {
                mapping_survey::lost_node& node = known->second;
                node.keys.first = std::max(node.keys.first, lost.keys.first);
                node.keys.last = std::min(node.keys.last, lost.keys.last);
                node.height = std::max(node.height, lost.height);
            }
        }
        // A lost leaf has no children.
        std::erase_if(lost_, [](const auto& node) { return node.second.height == 1; });
        // So much is lost that hardly anything would be certain, and all would be compared.
        constexpr std::size_t lost_max = 4096;
        if (lost_.size() > lost_max) {
            lost_.clear();
        }
    }

    // First those whose parent's place is known, then the children of the root of a device.
    void assign_orphans() {
        std::vector<orphan_node> left;
        for (const orphan_node& child : orphans_) {
            std::vector<std::uint64_t> parents;
            for (const auto& [where, lost] : lost_) {
                if (lost.height == child.tree.height + 1 && lies_within(child.tree, lost.keys)) {
                    parents.push_back(where);
                }
            }
            if (parents.empty()) {
                left.push_back(child);
            } else if (parents.size() <= child.missing) {
                for (const std::uint64_t parent : parents) {
                    children_[parent].push_back(child);
                }
            }
        }
        std::vector<std::uint64_t> roots;
        for (const auto& [where, lost] : lost_) {
            if (lost.height == 0) {
                roots.push_back(where);
            }
        }
        if (roots.size() == 1 && !left.empty()) {
            const auto height = std::max_element(left.begin(), left.end(),
                                                 [](const orphan_node& a, const orphan_node& b) {
                                                     return a.tree.height < b.tree.height;
                                                 })
                                    ->tree.height;
            std::erase_if(left,
                          [&](const orphan_node& child) { return child.tree.height != height; });
            children_[roots.front()] = std::move(left);
        }
    }

    bool rebuild(metadata_block where, std::vector<orphan_node>& children) {
        std::sort(children.begin(), children.end(), [](const orphan_node& a, const orphan_node& b) {
            return a.tree.first_key < b.tree.first_key;
        });
        for (std::size_t index = 1; index < children.size(); ++index) {
            if (children[index].tree.first_key <= children[index - 1].tree.last_key) {
                return false;
            }
        }
        if (children.size() > persistent_data::max_entries_for(sizeof(std::uint64_t))) {
            return false;
        }
        blocks_.replace(where, make_node(where, false, [&](persistent_data::node_editor& made) {
                            std::uint32_t count = 0;
                            for (const orphan_node& child : children) {
                                made.set_key(count, child.tree.first_key);
                                made.set_child(count++, child.where);
                            }
                            made.set_nr_entries(count);
                        }));
        return true;
    }

    mending_source& blocks_;
    mapping_survey& survey_;
    const disk_superblock& superblock_;
    std::map<std::uint64_t, mapping_survey::lost_node> lost_;
    std::vector<orphan_node> orphans_;
    std::map<std::uint64_t, std::vector<orphan_node>> children_;
};

}  // namespace

std::vector<metadata_block> adopt_orphans(mending_source& blocks, mapping_survey& survey,
                                          const node_scan& scan, const disk_superblock& superblock,
                                          std::span<const metadata_block> other_nodes) {
    return adopter(blocks, survey, superblock).adopt(scan, other_nodes);
}

}  // namespace uthin::thin_metadata
