#include <algorithm>

#include <fmt/format.h>

#include "base/aligned_buffer.h"
#include "persistent_data/block_manager.h"
#include "thin_metadata/metadata_view.h"

namespace uthin::thin_metadata {

using persistent_data::block_kind;
using persistent_data::block_manager;

namespace {

class offline_view final : public metadata_view {
public:
    offline_view(block_device& device, std::uint64_t block_count, std::uint64_t cache_blocks)
        : blocks_(device, block_count, cache_blocks) {
        blocks_.set_read_only(true);
    }

    [[nodiscard]] persistent_data::block_source& source() override { return blocks_; }
    [[nodiscard]] const disk_superblock& superblock() const override { return superblock_; }
    [[nodiscard]] bool has_space_maps() const override { return !is_snapshot_; }
    [[nodiscard]] bool expired() const override { return false; }

    void use_superblock(const disk_superblock& superblock) { superblock_ = superblock; }
    [[nodiscard]] result<void> follow_held_root();

private:
    block_manager blocks_;
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
    superblock_ = UTHIN_TRY_CTX(check_superblock(held, page.bytes()), "metadata snapshot");
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
    const std::uint64_t device_blocks = UTHIN_TRY(device.size_bytes()) / metadata_block_size_bytes;
    if (device_blocks == 0) {
        return fail(error_code::corrupt,
                    fmt::format("{}: too small for thin pool metadata", device.name()));
    }
    const std::uint64_t cache_blocks =
        std::max<std::uint64_t>(options.cache_bytes / metadata_block_size_bytes, 64);
    auto view = std::make_unique<offline_view>(device, std::min(device_blocks, metadata_blocks_max),
                                               cache_blocks);
    view->use_superblock(options.superblock_override != nullptr
                             ? *options.superblock_override
                             : UTHIN_TRY(read_superblock(device)));
    if (options.metadata_snapshot) {
        UTHIN_TRY(view->follow_held_root());
    }
    return view;
}

}  // namespace uthin::thin_metadata
