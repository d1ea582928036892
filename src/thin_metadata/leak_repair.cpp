#include "thin_metadata/leak_repair.h"

#include <algorithm>
#include <memory>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "persistent_data/btree.h"
#include "persistent_data/space_map_common.h"
#include "thin_metadata/image_writer.h"
#include "thin_metadata/metadata_view.h"

namespace uthin::thin_metadata {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using persistent_data::block_ref;
using persistent_data::disk_index_entry;
using persistent_data::disk_space_map_root;
using persistent_data::node_view;

namespace {

// What a leaf entry of a tree points to.
enum class leaf_meaning : std::uint8_t { nothing, mappings, device_roots, bitmaps };

class reference_counter {
public:
    reference_counter(metadata_view& view, std::uint64_t metadata_blocks)
        : view_(view),
          source_(view.source()),
          metadata_(metadata_blocks),
          old_maps_(metadata_blocks),
          data_(view.superblock().data_sm_root.nr_blocks) {}

    [[nodiscard]] result<void> count();
    [[nodiscard]] count_array& metadata() noexcept { return metadata_; }
    [[nodiscard]] const count_array& data() const noexcept { return data_; }
    // Neither in use nor part of the space maps that are still in force.
    [[nodiscard]] bool is_free(std::uint64_t block) const {
        return block != 0 && metadata_.get(block) == 0 && old_maps_.get(block) == 0;
    }

private:
    [[nodiscard]] result<void> count_tree(metadata_block where, leaf_meaning meaning,
                                          count_array& into, std::uint32_t depth);
    [[nodiscard]] result<void> count_trees_of(const disk_superblock& superblock);
    [[nodiscard]] result<void> count_old_maps();

    metadata_view& view_;
    persistent_data::block_source& source_;
    count_array metadata_;
    count_array old_maps_;
    count_array data_;
};

// What a block points to is counted once, however often the block itself is pointed to.
result<void> reference_counter::count_tree(metadata_block where, leaf_meaning meaning,
                                           count_array& into, std::uint32_t depth) {
    if (where.value() >= into.block_count() || depth > persistent_data::btree_depth_max) {
        return fail(error_code::corrupt, fmt::format("tree node {}: out of place", where.value()));
    }
    const bool is_known = into.get(where.value()) != 0;
    into.add(where.value());
    if (is_known) {
        return {};
    }
    const block_ref page = UTHIN_TRY(source_.read(where, block_kind::btree_node));
    const node_view node(page.bytes());
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        if (!node.is_leaf()) {
            UTHIN_TRY(count_tree(node.child(index), meaning, into, depth + 1));
        } else if (meaning == leaf_meaning::device_roots) {
            UTHIN_TRY(
                count_tree(metadata_block(node.value_u64(index)), leaf_meaning::mappings, into, 1));
        } else if (meaning == leaf_meaning::mappings || meaning == leaf_meaning::bitmaps) {
            const bool is_mapping = meaning == leaf_meaning::mappings;
            count_array& counts = is_mapping ? data_ : into;
            const std::uint64_t block =
                is_mapping ? mapping_block(node.value_u64(index)).value() : node.value_u64(index);
            if (block >= counts.block_count()) {
                return fail(error_code::corrupt, fmt::format("block {} is out of range", block));
            }
            counts.add(block);
        }
    }
    return {};
}

result<void> reference_counter::count_trees_of(const disk_superblock& superblock) {
    UTHIN_TRY(count_tree(metadata_block(superblock.data_mapping_root), leaf_meaning::device_roots,
                         metadata_, 1));
    return count_tree(metadata_block(superblock.device_details_root), leaf_meaning::nothing,
                      metadata_, 1);
}

result<void> reference_counter::count_old_maps() {
    const disk_superblock& superblock = view_.superblock();
    const disk_space_map_root& data = superblock.data_sm_root;
    const disk_space_map_root& metadata = superblock.metadata_sm_root;
    UTHIN_TRY(count_tree(metadata_block(data.bitmap_root), leaf_meaning::bitmaps, old_maps_, 1));
    UTHIN_TRY(count_tree(metadata_block(data.ref_count_root), leaf_meaning::nothing, old_maps_, 1));
    UTHIN_TRY(
        count_tree(metadata_block(metadata.ref_count_root), leaf_meaning::nothing, old_maps_, 1));
    const metadata_block index_at(metadata.bitmap_root);
    const block_ref index = UTHIN_TRY(source_.read(index_at, block_kind::index));
    old_maps_.add(index_at.value());
    const std::uint64_t bitmaps =
        std::min<std::uint64_t>(persistent_data::bitmaps_for(metadata.nr_blocks),
                                persistent_data::metadata_index_entries_max);
    for (std::uint64_t bitmap = 0; bitmap < bitmaps; ++bitmap) {
        const auto where =
            load_le<std::uint64_t>(index.bytes().data() + persistent_data::bitmap_header_bytes +
                                   bitmap * sizeof(disk_index_entry));
        if (where >= old_maps_.block_count()) {
            return fail(error_code::corrupt, fmt::format("bitmap {} is out of range", where));
        }
        old_maps_.add(where);
    }
    return {};
}

result<void> reference_counter::count() {
    metadata_.add(0);
    const disk_superblock& superblock = view_.superblock();
    UTHIN_TRY(count_trees_of(superblock));
    const metadata_block held(superblock.held_root);
    if (held.value() != 0) {
        if (held.value() >= metadata_.block_count()) {
            return fail(error_code::corrupt, "the metadata snapshot is out of range");
        }
        const block_ref copy = UTHIN_TRY(source_.read(held, block_kind::superblock));
        metadata_.add(held.value());
        UTHIN_TRY(count_trees_of(UTHIN_TRY(check_superblock(held, copy.bytes()))));
    }
    return count_old_maps();
}

}  // namespace

result<void> repair_leaks(block_device& device, const leak_repair_options& options,
                          bool* in_doubt) {
    bool none_asks = false;
    bool& doubt = in_doubt != nullptr ? *in_doubt : none_asks;
    return or_out_of_memory([&]() -> result<void> {
        const auto view = UTHIN_TRY(open_offline(device, {}));
        disk_superblock superblock = view->superblock();
        if (options.rebuild_space_maps) {
            const std::uint64_t blocks = std::min<std::uint64_t>(
                superblock.metadata_sm_root.nr_blocks, view->source().block_count());
            if (persistent_data::bitmaps_for(superblock.data_sm_root.nr_blocks) >= blocks) {
                return fail(error_code::corrupt, "the data space map is larger than the metadata");
            }
            reference_counter counter(*view, blocks);
            UTHIN_TRY(counter.count());
            image_writer writer(device, blocks,
                                [&counter](std::uint64_t block) { return counter.is_free(block); });
            for (const auto& [block, count] : counter.metadata().counts_from(1)) {
                for (std::uint32_t times = 0; times < count; ++times) {
                    writer.counts().add(block);
                }
            }
            superblock.data_sm_root = UTHIN_TRY(writer.write_data_space_map(counter.data()));
            superblock.metadata_sm_root = UTHIN_TRY(writer.write_metadata_space_map());
            // ORDER: the new maps are durable before the superblock points to them.
            UTHIN_TRY(writer.flush());
        }
        if (options.clear_needs_check) {
            superblock.flags = superblock.flags & ~superblock_flag_needs_check;
        }
        aligned_buffer block(metadata_block_size_bytes);
        const block_bytes bytes(block.data(), metadata_block_size_bytes);
        UTHIN_TRY(device.read(0, block.span()));
        store_superblock(superblock, bytes);
        persistent_data::prepare_block(block_kind::superblock, metadata_block(0), bytes);
        doubt = true;
        UTHIN_TRY(device.write(0, block.span()));
        UTHIN_TRY(device.flush());
        doubt = false;
        return {};
    });
}

}  // namespace uthin::thin_metadata
