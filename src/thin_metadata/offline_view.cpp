#include <algorithm>

#include <fmt/format.h>

#include "base/aligned_buffer.h"
#include "base/mutex.h"
#include "base/out_of_memory.h"
#include "persistent_data/block_manager.h"
#include "persistent_data/read_ahead.h"
#include "thin_metadata/metadata_view.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::block_manager;
using persistent_data::block_ref;

namespace {

// A small cache, and the one plan of blocks to read ahead that was announced last.
class image_source final : public persistent_data::block_source {
public:
    image_source(block_device& device, std::uint64_t block_count, std::uint64_t cache_blocks)
        : device_(device), blocks_(device, block_count, cache_blocks) {
        blocks_.set_read_only(true);
    }

    [[nodiscard]] result<block_ref> read(metadata_block where, block_kind kind) override {
        if (can_be_planned(kind)) {
            const lock_guard held(lock_);
            if (ahead_ != nullptr && kind == planned_kind_) {
                if (block_ref found = ahead_->take(where)) {
                    return found;
                }
            }
        }
        return blocks_.read(where, kind);
    }
    [[nodiscard]] result<block_ref> read_uncached(metadata_block where, block_kind kind) {
        return blocks_.read_uncached(where, kind);
    }
    [[nodiscard]] std::uint64_t block_count() const override { return blocks_.block_count(); }
    void prefetch(std::span<const metadata_block> blocks, block_kind kind) override {
        blocks_.prefetch(blocks, kind);
    }
    bool plan(std::vector<std::uint32_t> order, block_kind kind) override {
        if (!can_be_planned(kind)) {
            return false;
        }
        const lock_guard held(lock_);
        ahead_.reset();
        planned_kind_ = kind;
        ahead_ = std::make_unique<persistent_data::read_ahead>(device_, block_count(),
                                                               std::move(order), kind);
        return true;
    }

private:
    static constexpr bool can_be_planned(block_kind kind) {
        return kind == block_kind::btree_node || kind == block_kind::bitmap;
    }

    block_device& device_;
    block_manager blocks_;
    mutex lock_;
    std::unique_ptr<persistent_data::read_ahead> ahead_ GUARDED_BY(lock_);
    block_kind planned_kind_ GUARDED_BY(lock_) = block_kind::btree_node;
};

class offline_view final : public metadata_view {
public:
    offline_view(block_device& device, std::uint64_t block_count, std::uint64_t cache_blocks)
        : blocks_(device, block_count, cache_blocks) {}

    [[nodiscard]] persistent_data::block_source& source() override { return blocks_; }
    [[nodiscard]] const disk_superblock& superblock() const override { return superblock_; }
    [[nodiscard]] bool has_space_maps() const override { return !is_snapshot_; }
    [[nodiscard]] bool expired() const override { return false; }

    void use_superblock(const disk_superblock& superblock) { superblock_ = superblock; }
    [[nodiscard]] result<void> follow_held_root();
    void use_roots(const offline_options& options) {
        superblock_.data_mapping_root =
            options.mapping_root.value_or(superblock_.data_mapping_root);
        superblock_.device_details_root =
            options.details_root.value_or(superblock_.device_details_root);
    }

private:
    image_source blocks_;
    disk_superblock superblock_;
    bool is_snapshot_ = false;
};

result<void> offline_view::follow_held_root() {
    const metadata_block held(superblock_.held_root);
    if (held.value() == 0) {
        return fail(error_code::not_found, "this pool holds no metadata snapshot");
    }
    if (held.value() >= blocks_.block_count()) {
        return fail(error_code::corrupt,
                    fmt::format("the metadata snapshot is said to be at block {}, but the device "
                                "has {} blocks",
                                held.value(), blocks_.block_count()));
    }
    const auto page =
        UTHIN_TRY_CTX(blocks_.read_uncached(held, block_kind::superblock), "metadata snapshot");
    disk_superblock snapshot =
        UTHIN_TRY_CTX(check_superblock(held, page.bytes()), "metadata snapshot");
    // It has no space maps, and says that there are no blocks; the pool knows how many there are.
    snapshot.data_sm_root.nr_blocks = superblock_.data_sm_root.nr_blocks;
    snapshot.metadata_sm_root.nr_blocks = superblock_.metadata_sm_root.nr_blocks;
    snapshot.metadata_sm_root.nr_allocated = superblock_.metadata_sm_root.nr_allocated;
    superblock_ = snapshot;
    is_snapshot_ = true;
    return {};
}

result<disk_superblock> read_superblock(block_device& device) {
    aligned_buffer buffer(metadata_block_size_bytes);
    UTHIN_TRY_CTX(device.read(0, buffer.span()), "superblock");
    const persistent_data::const_block_bytes bytes(buffer.data(), metadata_block_size_bytes);
    if (is_blank(bytes)) {
        return fail(error_code::corrupt,
                    fmt::format("{}: the superblock is all zeros; there is no thin pool here",
                                device.name()));
    }
    return check_superblock(metadata_block(0), bytes);
}

}  // namespace

result<std::unique_ptr<metadata_view>> open_offline(block_device& device,
                                                    const offline_options& options) {
    return or_out_of_memory([&]() -> result<std::unique_ptr<metadata_view>> {
        const std::uint64_t device_blocks =
            UTHIN_TRY(device.size_bytes()) / metadata_block_size_bytes;
        if (device_blocks == 0) {
            return fail(error_code::corrupt,
                        fmt::format("{}: too small for thin pool metadata", device.name()));
        }
        const std::uint64_t cache_blocks =
            std::max<std::uint64_t>(options.cache_bytes / metadata_block_size_bytes, 64);
        auto view = std::make_unique<offline_view>(
            device, std::min(device_blocks, metadata_blocks_max), cache_blocks);
        view->use_superblock(options.superblock_override != nullptr
                                 ? *options.superblock_override
                                 : UTHIN_TRY(read_superblock(device)));
        if (options.metadata_snapshot) {
            UTHIN_TRY(view->follow_held_root());
        }
        view->use_roots(options);
        return view;
    });
}

}  // namespace uthin::thin_metadata
