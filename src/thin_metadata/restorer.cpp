#include "thin_metadata/restorer.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

#include "persistent_data/space_map_common.h"

namespace uthin::thin_metadata {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using persistent_data::node_view;

result<pool_header> overridden(const pool_header& given, const restore_overrides& overrides) {
    pool_header pool = given;
    pool.transaction_id = std::max(pool.transaction_id, overrides.transaction_id.value_or(0));
    pool.data_blocks = std::max(pool.data_blocks, overrides.data_blocks.value_or(0));
    pool.data_block_size_sectors =
        overrides.data_block_size_sectors.value_or(pool.data_block_size_sectors);
    UTHIN_TRY(check_data_block_size(pool.data_block_size_sectors));
    if (pool.data_blocks > data_blocks_max) {
        return fail(error_code::invalid_argument,
                    fmt::format("{} data blocks: a pool has at most {}", pool.data_blocks,
                                data_blocks_max));
    }
    return pool;
}

result<void> write_unfinished_mark(block_device& device) {
    // Not zeros: the kernel would take the device for new and format it.
    aligned_buffer block(metadata_block_size_bytes);
    constexpr std::string_view mark = "a restore of thin pool metadata was not finished";
    std::memcpy(block.data() + sizeof(std::uint32_t), mark.data(), mark.size());
    // ORDER: no block of the old pool is written over before the old superblock is gone for good.
    UTHIN_TRY(device.write(0, block.span()));
    return device.flush();
}

result<void> restorer::begin_pool(const pool_header& pool) {
    pool_ = UTHIN_TRY(overridden(pool, overrides_));
    const std::uint64_t blocks =
        std::min(UTHIN_TRY(device_.size_bytes()) / metadata_block_size_bytes, metadata_blocks_max);
    if (persistent_data::bitmaps_for(pool_.data_blocks) >= blocks) {
        return fail(error_code::no_metadata_space,
                    fmt::format("out of metadata space: {} blocks cannot count {} data blocks",
                                blocks, pool_.data_blocks));
    }
    writer_ = std::make_unique<image_writer>(device_, blocks, [](std::uint64_t) { return true; });
    writer_->counts().add(0);
    data_ = std::make_unique<count_array>(pool_.data_blocks);
    packer_ = std::make_unique<leaf_packer>(*writer_, 8);
    keep_ = [this](const packed_node& leaf) { return keep_leaf(leaf); };
    return write_unfinished_mark(device_);
}

result<void> restorer::keep_leaf(const packed_node& leaf) {
    leaves_.push_back(leaf);
    const block_bytes bytes(page_.data(), metadata_block_size_bytes);
    UTHIN_TRY(writer_->read_back(leaf.where, bytes));
    const node_view node(bytes);
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        data_->prefetch(mapping_block(node.value_u64(index)).value());
    }
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        data_->add(mapping_block(node.value_u64(index)).value());
    }
    return {};
}

result<void> restorer::begin_shared(std::string_view name) {
    shared_name_ = name;
    leaves_.clear();
    return {};
}

result<void> restorer::end_shared() {
    UTHIN_TRY(finish_leaves());
    shared_[shared_name_] = std::exchange(leaves_, {});
    return {};
}

result<void> restorer::begin_device(const thin_device_info& device) {
    device_info_ = device;
    device_info_.details.mapped_blocks = 0;
    for (const std::uint32_t at : {device.details.creation_time, device.details.snapshotted_time}) {
        time_max_ = at < time_limit ? std::max(time_max_, at) : time_max_;
    }
    leaves_.clear();
    return {};
}

bool restorer::last_leaf_is_small() const noexcept {
    return !leaves_.empty() && leaves_.back().entries < packer_->entries_min();
}

result<void> restorer::run(const mapping_run& run) {
    if (run.data_begin.value() + run.count > pool_.data_blocks || run.time >= time_limit) {
        return fail(error_code::invalid_argument,
                    fmt::format("data block {}: the pool has {}",
                                run.data_begin.value() + run.count - 1, pool_.data_blocks));
    }
    time_max_ = std::max(time_max_, run.time);
    if (last_leaf_is_small()) {
        UTHIN_TRY(take_back_leaf());
    }
    for (std::uint64_t index = 0; index < run.count; ++index) {
        std::array<std::byte, 8> value{};
        store_le(value.data(), pack_mapping(run.data_begin + index, run.time));
        UTHIN_TRY(packer_->push(run.begin.value() + index, value.data(), keep_));
    }
    device_info_.details.mapped_blocks += run.count;
    return {};
}

result<void> restorer::reference(std::string_view name) {
    const auto piece = shared_.find(name);
    if (piece == shared_.end()) {
        return fail(error_code::invalid_argument,
                    fmt::format("Couldn't find sub tree '{}'.", name));
    }
    for (const packed_node& leaf : piece->second) {
        device_info_.details.mapped_blocks += leaf.entries;
        UTHIN_TRY(add_shared_leaf(leaf));
    }
    return {};
}

result<void> restorer::add_shared_leaf(const packed_node& leaf) {
    const bool alone = leaves_.empty() && packer_->waiting() == 0;
    const bool waiting_is_small =
        packer_->waiting() != 0 && packer_->waiting() < packer_->entries_min();
    if (last_leaf_is_small() || waiting_is_small ||
        (leaf.entries < packer_->entries_min() && !alone)) {
        if (last_leaf_is_small()) {
            UTHIN_TRY(take_back_leaf());
        }
        return append_entries_of(leaf);
    }
    UTHIN_TRY(packer_->flush(keep_));
    writer_->counts().add(leaf.where.value());
    leaves_.push_back(leaf);
    return {};
}

result<void> restorer::append_entries_of(const packed_node& leaf) {
    aligned_buffer page(metadata_block_size_bytes);
    const block_bytes bytes(page.data(), metadata_block_size_bytes);
    UTHIN_TRY(writer_->read_back(leaf.where, bytes));
    const node_view node(bytes);
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        UTHIN_TRY(packer_->push(node.key(index), node.value(index), keep_));
    }
    return {};
}

result<void> restorer::take_back_leaf() {
    const packed_node leaf = leaves_.back();
    leaves_.pop_back();
    aligned_buffer page(metadata_block_size_bytes);
    const block_bytes bytes(page.data(), metadata_block_size_bytes);
    UTHIN_TRY(writer_->read_back(leaf.where, bytes));
    packer_->push_front(node_view(bytes));
    return release_leaf(leaf);
}

result<void> restorer::release_leaf(const packed_node& leaf) {
    if (writer_->counts().subtract(leaf.where.value()) != 0) {
        return {};
    }
    const block_bytes bytes(page_.data(), metadata_block_size_bytes);
    UTHIN_TRY(writer_->read_back(leaf.where, bytes));
    const node_view node(bytes);
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        (void)data_->subtract(mapping_block(node.value_u64(index)).value());
    }
    return {};
}

result<void> restorer::finish_leaves() {
    while (packer_->waiting() != 0 && packer_->waiting() < packer_->entries_min() &&
           !leaves_.empty()) {
        UTHIN_TRY(take_back_leaf());
    }
    return packer_->flush(keep_);
}

result<void> restorer::end_device() {
    UTHIN_TRY(finish_leaves());
    const std::uint64_t id = device_info_.id.value();
    if (devices_.contains(id)) {
        return fail(error_code::invalid_argument, fmt::format("there are two devices {}", id));
    }
    metadata_block root;
    if (leaves_.size() == 1) {
        root = leaves_.front().where;
    } else {
        root = UTHIN_TRY(write_tree_above(*writer_, 8, std::exchange(leaves_, {})));
    }
    const device_details& details = device_info_.details;
    devices_[id] = {.details = {.mapped_blocks = details.mapped_blocks,
                                .transaction_id = details.transaction_id,
                                .creation_time = details.creation_time,
                                .snapshotted_time = details.snapshotted_time},
                    .root = root};
    return {};
}

result<disk_superblock> restorer::write_trees() {
    for (const auto& [name, leaves] : shared_) {
        for (const packed_node& leaf : leaves) {
            UTHIN_TRY(release_leaf(leaf));
        }
    }
    disk_superblock superblock{};
    std::vector<packed_node> details_leaves;
    std::vector<packed_node> top_leaves;
    leaf_packer details(*writer_, sizeof(disk_device_details));
    leaf_packer top(*writer_, 8);
    const auto keep_in = [](std::vector<packed_node>& nodes) {
        return [&nodes](const packed_node& leaf) -> result<void> {
            nodes.push_back(leaf);
            return {};
        };
    };
    const leaf_packer::node_function keep_details = keep_in(details_leaves);
    const leaf_packer::node_function keep_top = keep_in(top_leaves);
    for (const auto& [id, device] : devices_) {
        std::array<std::byte, sizeof device.details> value{};
        std::memcpy(value.data(), &device.details, sizeof device.details);
        UTHIN_TRY(details.push(id, value.data(), keep_details));
        std::array<std::byte, 8> root{};
        store_le(root.data(), device.root.value());
        UTHIN_TRY(top.push(id, root.data(), keep_top));
    }
    UTHIN_TRY(details.flush(keep_details));
    UTHIN_TRY(top.flush(keep_top));
    superblock.device_details_root =
        UTHIN_TRY(write_tree_above(*writer_, sizeof(disk_device_details), details_leaves)).value();
    superblock.data_mapping_root = UTHIN_TRY(write_tree_above(*writer_, 8, top_leaves)).value();
    superblock.data_sm_root = UTHIN_TRY(writer_->write_data_space_map(*data_));
    superblock.metadata_sm_root = UTHIN_TRY(writer_->write_metadata_space_map());
    return superblock;
}

result<void> restorer::end_pool() {
    disk_superblock superblock = UTHIN_TRY(write_trees());
    superblock.magic = superblock_magic;
    superblock.version = superblock_version;
    superblock.time = std::max(pool_.time, time_max_);
    superblock.trans_id = pool_.transaction_id;
    superblock.data_block_size_sectors = pool_.data_block_size_sectors;
    superblock.metadata_block_size_sectors = metadata_block_size_bytes / sector_size_bytes;
    superblock.metadata_nr_blocks = writer_->block_count();
    return write_superblock(superblock);
}

result<void> restorer::write_superblock(const disk_superblock& superblock) {
    aligned_buffer block(metadata_block_size_bytes);
    const block_bytes bytes(block.data(), metadata_block_size_bytes);
    store_superblock(superblock, bytes);
    persistent_data::prepare_block(block_kind::superblock, metadata_block(0), bytes);
    // ORDER: everything that the superblock points to is durable before it is written.
    UTHIN_TRY(writer_->flush());
    UTHIN_TRY(device_.write(0, block.span()));
    return device_.flush();
}

}  // namespace uthin::thin_metadata
