#include "thin_metadata/exclusive_blocks.h"

#include <array>
#include <cstring>
#include <optional>
#include <unordered_map>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "persistent_data/btree.h"
#include "persistent_data/space_map.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/subtree_memo.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::block_ref;
using persistent_data::block_source;
using persistent_data::btree_depth_max;
using persistent_data::disk_index_entry;
using persistent_data::disk_space_map_root;
using persistent_data::entries_per_bitmap;
using persistent_data::node_view;

namespace {

constexpr std::size_t index_entries_offset = 16;

std::unexpected<error> too_deep(metadata_block where) {
    return fail(error_code::corrupt, fmt::format("btree node {}: deeper than {} levels",
                                                 where.value(), btree_depth_max));
}

// Reference counts of one space map of a committed state.
class committed_counts {
public:
    enum class space : std::uint8_t { metadata, data };

    committed_counts(block_source& source, const disk_space_map_root& root, space which)
        : source_(source), root_(root), which_(which) {}

    // Of something that is pointed to, so that 0 is damage: 1, 2, or 3 for that many and more.
    result<std::uint32_t> few(std::uint64_t block) {
        if (block >= root_.nr_blocks) {
            return fail(error_code::corrupt,
                        fmt::format("{} block {} is beyond the {} of the pool", name(), block,
                                    std::uint64_t{root_.nr_blocks}));
        }
        const block_ref* const bitmap = UTHIN_TRY(bitmap_of(block / entries_per_bitmap));
        const std::uint32_t found = persistent_data::bitmap_count(
            bitmap->bytes().data(), static_cast<std::uint32_t>(block % entries_per_bitmap));
        if (found == 0) {
            return counted_as_free(block);
        }
        return found;
    }
    // Whether `dropped` references are all. The exact count is in a tree: with many snapshots
    // looking it up for every shared node would take longer than all the rest, and hardly any loses
    // three references to one device.
    result<bool> all_are(std::uint32_t dropped, std::uint64_t block) {
        const std::uint32_t found = UTHIN_TRY(few(block));
        if (found < 3 || dropped < 3) {
            return dropped >= found;
        }
        std::array<std::byte, sizeof(le32)> value{};
        if (!UTHIN_TRY(persistent_data::btree_lookup(source_, metadata_block(root_.ref_count_root),
                                                     block, value))) {
            return counted_as_free(block);
        }
        return dropped >= load_le<std::uint32_t>(value.data());
    }

private:
    // Bitmaps that are held at a time, 64 MiB: all of 16 TiB in blocks of 64 KiB. Where a volume's
    // blocks are scattered over more each mapping would be another read.
    static constexpr std::size_t held_max = 16384;

    [[nodiscard]] std::string_view name() const {
        return which_ == space::data ? "data" : "metadata";
    }

    [[nodiscard]] std::unexpected<error> counted_as_free(std::uint64_t block) const {
        return fail(error_code::corrupt,
                    fmt::format("{} block {} is in use, but counted as free", name(), block));
    }

    result<const block_ref*> bitmap_of(std::uint64_t bitmap) {
        const auto known = held_.find(bitmap);
        if (known != held_.end()) {
            return &known->second;
        }
        if (held_.size() >= held_max) {
            held_.clear();
        }
        const metadata_block where(UTHIN_TRY(find_entry(bitmap)).blocknr);
        UTHIN_TRY_CTX(persistent_data::check_pointer(where, metadata_block(root_.bitmap_root),
                                                     source_.block_count()),
                      "space map");
        block_ref page = UTHIN_TRY_CTX(source_.read(where, block_kind::bitmap), "space map");
        return &held_.emplace(bitmap, std::move(page)).first->second;
    }

    result<disk_index_entry> find_entry(std::uint64_t bitmap) {
        disk_index_entry entry{};
        const metadata_block root(root_.bitmap_root);
        if (which_ == space::data) {
            std::array<std::byte, sizeof entry> value{};
            if (!UTHIN_TRY(persistent_data::btree_lookup(source_, root, bitmap, value))) {
                return fail(error_code::corrupt,
                            fmt::format("data space map: bitmap {} is missing", bitmap));
            }
            std::memcpy(&entry, value.data(), sizeof entry);
            return entry;
        }
        if (bitmap >= persistent_data::metadata_index_entries_max) {
            return fail(error_code::corrupt,
                        fmt::format("metadata space map: there is no bitmap {}", bitmap));
        }
        const block_ref index = UTHIN_TRY_CTX(source_.read(root, block_kind::index), "space map");
        std::memcpy(&entry, index.bytes().data() + index_entries_offset + bitmap * sizeof entry,
                    sizeof entry);
        return entry;
    }

    block_source& source_;
    const disk_space_map_root root_;
    const space which_;
    std::unordered_map<std::uint64_t, block_ref> held_;
};

struct device_root {
    metadata_block where;
    bool is_shared = false;  // a node above it is
};

// What falls to nobody when references to roots are dropped, as the counts will do it.
class drop_simulation {
public:
    explicit drop_simulation(metadata_view& view)
        : source_(view.source()),
          memo_(view.memo()),
          transaction_(view.transaction()),
          nodes_(source_, view.superblock().metadata_sm_root, committed_counts::space::metadata),
          data_(source_, view.superblock().data_sm_root, committed_counts::space::data),
          top_root_(view.superblock().data_mapping_root) {}

    // Where each device's tree is.
    result<std::unordered_map<std::uint64_t, device_root>> find_roots() {
        std::unordered_map<std::uint64_t, device_root> roots;
        UTHIN_TRY(walk_top(top_root_, top_root_, false, 0, roots));
        visited_ = 0;
        return roots;
    }

    // One reference to the root goes. What nothing else leads to then is counted as freed.
    result<void> drop(const device_root& root) {
        if (!root.is_shared) {
            UTHIN_TRY(drop_node(root.where, root.where, 0));
        }
        return {};
    }
    [[nodiscard]] std::uint64_t freed_blocks() const noexcept { return freed_; }
    // Forgets what was dropped.
    void restart() {
        freed_ = 0;
        visited_ = 0;
        dropped_nodes_.clear();
        dropped_data_.clear();
    }

private:
    result<block_ref> read_node(metadata_block where, metadata_block parent, std::uint32_t depth) {
        if (depth > btree_depth_max) {
            return too_deep(where);
        }
        // Each block is read once at most: it is below one node only, or dropped once in the end.
        if (++visited_ > source_.block_count()) {
            return fail(error_code::corrupt,
                        fmt::format("btree node {}: reached again and again", where.value()));
        }
        UTHIN_TRY(persistent_data::check_pointer(where, parent, source_.block_count()));
        block_ref page = UTHIN_TRY(source_.read(where, block_kind::btree_node));
        UTHIN_TRY(persistent_data::check_tree_node(node_view(page.bytes()), where, 8));
        return page;
    }

    result<void> walk_top(metadata_block where, metadata_block parent, bool is_shared,
                          std::uint32_t depth,
                          std::unordered_map<std::uint64_t, device_root>& roots) {
        const block_ref page = UTHIN_TRY_CTX(read_node(where, parent, depth), "top tree");
        is_shared = is_shared || UTHIN_TRY(nodes_.few(where.value())) > 1;
        const node_view node(page.bytes());
        for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
            if (node.is_leaf()) {
                roots[node.key(index)] = {node.child(index), is_shared};
            } else {
                UTHIN_TRY(walk_top(node.child(index), where, is_shared, depth + 1, roots));
            }
        }
        return {};
    }

    // True when the node had no other reference, and nothing below it has.
    result<bool> drop_node(metadata_block where, metadata_block parent, std::uint32_t depth) {
        UTHIN_TRY(persistent_data::check_pointer(where, parent, source_.block_count()));
        const bool is_shared = UTHIN_TRY(nodes_.few(where.value())) > 1;
        if (is_shared &&
            !UTHIN_TRY(nodes_.all_are(++dropped_nodes_[where.value()], where.value()))) {
            return false;
        }
        if (memo_ != nullptr) {
            if (const auto known = memo_->find(where)) {
                freed_ += *known;
                return !is_shared;
            }
        }
        const std::uint64_t freed_before = freed_;
        const block_ref page = UTHIN_TRY(read_node(where, parent, depth));
        const node_view node(page.bytes());
        const bool owns_all = node.is_leaf() ? UTHIN_TRY(drop_mappings(node))
                                             : UTHIN_TRY(drop_children(node, where, depth));
        if (owns_all && memo_ != nullptr) {
            memo_->remember(where, freed_ - freed_before, transaction_);
        }
        return owns_all && !is_shared;
    }

    result<bool> drop_children(const node_view& node, metadata_block where, std::uint32_t depth) {
        UTHIN_TRY(prefetch(node));
        bool owns_all = true;
        for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
            const bool owned = UTHIN_TRY(drop_node(node.child(index), where, depth + 1));
            owns_all = owns_all && owned;
        }
        return owns_all;
    }

    // Those that are going to be read.
    result<void> prefetch(const node_view& node) {
        std::vector<metadata_block> wanted;
        for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
            const metadata_block child = node.child(index);
            const bool known = memo_ != nullptr && memo_->find(child).has_value();
            if (!known && child.value() < source_.block_count() &&
                UTHIN_TRY(nodes_.few(child.value())) == 1) {
                wanted.push_back(child);
            }
        }
        source_.prefetch(wanted, block_kind::btree_node);
        return {};
    }

    result<bool> drop_mappings(const node_view& leaf) {
        bool owns_all = true;
        for (std::uint32_t index = 0; index < leaf.nr_entries(); ++index) {
            const data_block block = mapping_block(leaf.value_u64(index));
            const bool is_shared = UTHIN_TRY(data_.few(block.value())) > 1;
            owns_all = owns_all && !is_shared;
            freed_ += !is_shared || UTHIN_TRY(data_.all_are(++dropped_data_[block.value()],
                                                            block.value()))
                          ? 1U
                          : 0U;
        }
        return owns_all;
    }

    block_source& source_;
    subtree_memo* const memo_;
    const std::uint64_t transaction_;
    committed_counts nodes_;
    committed_counts data_;
    const metadata_block top_root_;
    std::uint64_t freed_ = 0;
    std::uint64_t visited_ = 0;
    // References dropped so far, of what has several.
    std::unordered_map<std::uint64_t, std::uint32_t> dropped_nodes_;
    std::unordered_map<std::uint64_t, std::uint32_t> dropped_data_;
};

result<void> has_counts(const metadata_view& view) {
    if (!view.has_space_maps()) {
        return fail(error_code::unsupported, "a metadata snapshot has no reference counts");
    }
    return {};
}

}  // namespace

result<std::vector<device_exclusive>> measure_exclusive(metadata_view& view) {
    return or_out_of_memory([&]() -> result<std::vector<device_exclusive>> {
        UTHIN_TRY(has_counts(view));
        std::vector<device_exclusive> measured;
        drop_simulation drops(view);
        const auto roots = UTHIN_TRY(drops.find_roots());
        for (const dump_device& device : UTHIN_TRY(list_devices(view))) {
            const std::uint64_t id = device.info.id.value();
            const auto root = roots.find(id);
            if (root == roots.end()) {
                return fail(error_code::corrupt, fmt::format("device {} has no mapping tree", id));
            }
            drops.restart();
            UTHIN_TRY_CTX(drops.drop(root->second), fmt::format("device {}", id));
            measured.push_back({.id = device.info.id,
                                .mapped_blocks = device.info.details.mapped_blocks,
                                .exclusive_blocks = drops.freed_blocks()});
        }
        return measured;
    });
}

result<std::uint64_t> blocks_freed_by_deleting(metadata_view& view,
                                               std::span<const device_id> devices) {
    UTHIN_TRY(has_counts(view));
    drop_simulation drops(view);
    auto roots = UTHIN_TRY(drops.find_roots());
    for (const device_id id : devices) {
        const auto root = roots.find(id.value());
        if (root == roots.end()) {
            return fail(error_code::not_found,
                        fmt::format("there is no device {}, or it is named twice", id.value()));
        }
        UTHIN_TRY_CTX(drops.drop(root->second), fmt::format("device {}", id.value()));
        roots.erase(root);
    }
    return drops.freed_blocks();
}

}  // namespace uthin::thin_metadata
