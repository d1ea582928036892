#include "thin_metadata/root_finder.h"

#include <algorithm>
#include <span>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "persistent_data/btree.h"

namespace uthin::thin_metadata {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using persistent_data::node_view;

namespace {

// ---- reading the device

class scanner {
public:
    explicit scanner(mending_source& blocks) : blocks_(blocks) {}

    node_scan scan() {
        constexpr std::uint64_t batch_blocks = 256;
        aligned_buffer batch(batch_blocks * metadata_block_size_bytes);
        for (std::uint64_t begin = 0; begin < blocks_.block_count(); begin += batch_blocks) {
            const std::uint64_t count = std::min(batch_blocks, blocks_.block_count() - begin);
            const auto bytes = batch.span().first(count * metadata_block_size_bytes);
            const bool whole =
                blocks_.device().read(begin * metadata_block_size_bytes, bytes).has_value();
            for (std::uint64_t index = 0; index < count; ++index) {
                const auto one = bytes.subspan(index * metadata_block_size_bytes)
                                     .first<metadata_block_size_bytes>();
                // Around an unreadable block the others are read one by one.
                if (whole ||
                    blocks_.device().read((begin + index) * metadata_block_size_bytes, one)) {
                    look_at(metadata_block(begin + index), one);
                }
            }
        }
        return std::move(found_);
    }

private:
    [[nodiscard]] bool passes(block_kind kind, metadata_block where, block_bytes bytes) const {
        return persistent_data::check_block(kind, where, bytes).has_value() ||
               (blocks_.corrects_bits() && correct_single_bit(kind, where, bytes));
    }

    void look_at(metadata_block where, block_bytes bytes) {
        // The own number tells most blocks that are none before their checksum is computed.
        if (passes(block_kind::btree_node, where, bytes)) {
            add_node(where, node_view(bytes));
        } else if (where.value() != 0 && check_superblock(where, bytes)) {
            found_.superblocks.push_back(where);
        }
    }

    void add_node(metadata_block where, const node_view& node) {
        if (!node.is_leaf()) {
            found_.internal_nodes.push_back(where);
        } else if (node.value_size_bytes() == sizeof(disk_device_details)) {
            found_.details_leaves.push_back(where);
        } else if (node.value_size_bytes() == sizeof(std::uint64_t)) {
            found_.mapping_leaves.push_back(where);
            bool is_top = node.nr_entries() != 0;
            for (std::uint32_t index = 0; is_top && index < node.nr_entries(); ++index) {
                is_top = node.key(index) <= device_id_max && node.value_u64(index) != 0 &&
                         node.value_u64(index) < blocks_.block_count();
            }
            if (is_top) {
                found_.top_leaves.push_back(where);
            }
        }
    }

    mending_source& blocks_;
    node_scan found_;
};

// The nodes of one kind of tree that no other node of it refers to.
std::vector<metadata_block> unreferenced(mending_source& blocks,
                                         const std::vector<metadata_block>& leaves,
                                         std::vector<metadata_block> internal_nodes) {
    std::unordered_set<std::uint64_t> members;
    std::unordered_set<std::uint64_t> referenced;
    for (const metadata_block leaf : leaves) {
        members.insert(leaf.value());
    }
    std::vector<metadata_block> roots = leaves;
    bool changed = !leaves.empty();
    // Each pass goes up one level at least; no tree has more.
    for (std::uint32_t level = 1; changed && level < persistent_data::btree_depth_max; ++level) {
        changed = false;
        std::vector<metadata_block> others;
        for (const metadata_block where : internal_nodes) {
            const auto page = blocks.read(where, block_kind::btree_node);
            if (!page) {
                continue;
            }
            const node_view node(page->bytes());
            std::uint32_t known = 0;
            for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
                known += members.contains(node.value_u64(index)) ? 1U : 0U;
            }
            if (2 * known <= node.nr_entries()) {
                others.push_back(where);
                continue;
            }
            changed = true;
            members.insert(where.value());
            roots.push_back(where);
            for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
                referenced.insert(node.value_u64(index));
            }
        }
        internal_nodes = std::move(others);
    }
    std::erase_if(roots, [&](metadata_block root) { return referenced.contains(root.value()); });
    return roots;
}

// ---- pairing

// Its entries are read again when its devices are those of a mapping tree.
struct details_candidate {
    metadata_block root;
    std::uint64_t transaction_id = 0;
    std::uint32_t time_max = 0;
};

struct surveyed_device {
    std::uint64_t id = 0;
    std::uint64_t mappings = 0;
    bool damaged = false;
};

template <class Entry>
std::uint64_t hash_of_ids(const std::vector<Entry>& entries) {
    constexpr std::uint64_t multiplier = 0x9E3779B97F4A7C15;
    std::uint64_t hash = entries.size();
    for (const Entry& entry : entries) {
        hash = (hash ^ entry.id) * multiplier;
        hash ^= hash >> 29;
    }
    return hash;
}

details_match compare(const std::vector<surveyed_device>& devices,
                      const std::vector<named_details>& details) {
    if (devices.size() != details.size()) {
        return details_match::none;
    }
    details_match match = details_match::exact;
    for (std::size_t index = 0; index < devices.size(); ++index) {
        const surveyed_device& device = devices[index];
        if (device.id != details[index].id) {
            return details_match::none;
        }
        if (!device.damaged && device.mappings != details[index].details.mapped_blocks) {
            match = details_match::same_devices;
        }
    }
    return match;
}

class root_search {
public:
    root_search(mending_source& blocks, const known_roots& known)
        : blocks_(blocks), known_(known), survey_(blocks, data_blocks_max) {}

    std::vector<root_candidate> search(const node_scan& scan) {
        const auto details_roots =
            known_.details_root ? std::vector{*known_.details_root}
                                : unreferenced(blocks_, scan.details_leaves, scan.internal_nodes);
        for (const metadata_block root : details_roots) {
            add_details(root);
        }
        sort_details();
        const auto top_roots = known_.mapping_root
                                   ? std::vector{*known_.mapping_root}
                                   : unreferenced(blocks_, scan.top_leaves, scan.internal_nodes);
        for (const metadata_block root : top_roots) {
            add_top(root);
        }
        std::stable_sort(
            candidates_.begin(), candidates_.end(),
            [this](const root_candidate& a, const root_candidate& b) { return rank(a) > rank(b); });
        return std::move(candidates_);
    }

private:
    void add_details(metadata_block root) {
        const auto read = read_details_tree(blocks_, root);
        details_candidate made{.root = root};
        for (const named_details& entry : read.entries) {
            made.transaction_id =
                std::max<std::uint64_t>(made.transaction_id, entry.details.transaction_id);
            made.time_max = std::max<std::uint32_t>(
                {made.time_max, entry.details.creation_time, entry.details.snapshotted_time});
        }
        details_[hash_of_ids(read.entries)].push_back(made);
    }

    // The preferred ones first.
    void sort_details() {
        for (auto& [hash, same_ids] : details_) {
            std::stable_sort(same_ids.begin(), same_ids.end(),
                             [this](const details_candidate& a, const details_candidate& b) {
                                 return std::tuple(is_hinted(a), a.transaction_id, a.time_max) >
                                        std::tuple(is_hinted(b), b.transaction_id, b.time_max);
                             });
        }
    }

    void add_top(metadata_block root) {
        const auto top = read_top_tree(blocks_, root);
        root_candidate made;
        made.mapping_root = root;
        std::vector<surveyed_device> devices;
        for (const named_root& entry : top.entries) {
            const subtree_summary* const tree = survey_.visit(entry.root);
            ++made.devices;
            made.lost_devices += tree == nullptr ? 1U : 0U;
            made.overwritten_devices += survey_.is_overwritten(entry.root) ? 1U : 0U;
            if (tree != nullptr) {
                // Keys of different devices have nothing to do with each other.
                subtree_summary summary = *tree;
                made.mappings.add(summary);
            }
            devices.push_back({.id = entry.id,
                               .mappings = tree != nullptr ? tree->mappings : 0,
                               .damaged = survey_.has_damage(entry.root)});
        }
        find_details(made, devices);
        // A leaf of other things, taken for one of the top tree, finds hardly any tree.
        if (known_.mapping_root || 2 * made.lost_devices <= made.devices ||
            made.match != details_match::none) {
            candidates_.push_back(made);
        }
    }

    void find_details(root_candidate& made, const std::vector<surveyed_device>& devices) {
        const auto same_ids = details_.find(hash_of_ids(devices));
        if (same_ids == details_.end()) {
            return;
        }
        // Only a made-up image has more of the same devices.
        constexpr std::size_t compared_max = 4096;
        for (const details_candidate& details :
             std::span(same_ids->second).first(std::min(same_ids->second.size(), compared_max))) {
            const auto read = read_details_tree(blocks_, details.root);
            const details_match match = compare(devices, read.entries);
            if (match > made.match) {
                made.match = match;
                made.details_root = details.root;
                made.transaction_id = details.transaction_id;
            }
            if (match == details_match::exact) {
                return;
            }
        }
    }

    [[nodiscard]] bool is_hinted(const details_candidate& details) const {
        return known_.hinted_details_root == details.root;
    }

    using rank_type = std::tuple<bool, details_match, bool, std::uint32_t, std::uint64_t,
                                 std::uint64_t, std::uint64_t>;
    [[nodiscard]] rank_type rank(const root_candidate& of) const {
        return {known_.hinted_mapping_root == of.mapping_root && of.match != details_match::none,
                of.match,
                of.overwritten_devices == 0,
                of.mappings.time_max,
                of.mappings.newest_count,
                of.mappings.mappings,
                of.transaction_id};
    }

    mending_source& blocks_;
    const known_roots& known_;
    mapping_survey survey_;
    std::unordered_map<std::uint64_t, std::vector<details_candidate>> details_;
    std::vector<root_candidate> candidates_;
};

}  // namespace

node_scan scan_nodes(mending_source& blocks) {
    return scanner(blocks).scan();
}

std::vector<root_candidate> find_roots(mending_source& blocks, const node_scan& scan,
                                       const known_roots& known) {
    return root_search(blocks, known).search(scan);
}

}  // namespace uthin::thin_metadata
