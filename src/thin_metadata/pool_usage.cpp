#include "thin_metadata/pool_usage.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "thin_metadata/pool_leaves.h"

namespace uthin::thin_metadata {

using persistent_data::node_view;

namespace {

constexpr std::uint8_t used_once = 1;
constexpr std::uint8_t used_again = 2;
// By a device that stays.
constexpr std::uint8_t kept = 4;

// How the data blocks are used.
class block_uses {
public:
    explicit block_uses(std::uint64_t data_blocks) : uses_(data_blocks), blocks_(data_blocks) {}

    result<void> mark(const mapping_run& run, const leaf_usage& leaf) {
        const std::uint64_t first = run.data_begin.value();
        if (first + run.count > blocks_) {
            return fail(error_code::corrupt,
                        fmt::format("virtual block {} is mapped to data block {}, but the pool "
                                    "has {}",
                                    run.begin.value(), first, blocks_));
        }
        const auto added = static_cast<std::uint8_t>((leaf.trees > 1 ? used_once | used_again : 0) |
                                                     (leaf.kept ? kept : 0));
        for (std::uint64_t block = first; block < first + run.count; ++block) {
            std::uint8_t& use = uses_[block];
            used_twice_ = used_twice_ || use != 0;
            use = static_cast<std::uint8_t>(use | added | (use == 0 ? used_once : used_again));
        }
        return {};
    }
    [[nodiscard]] std::uint64_t shared_blocks(const mapping_run& run) {
        std::uint64_t shared = 0;
        for (std::uint64_t index = 0; index < run.count; ++index) {
            shared += (uses_[run.data_begin.value() + index] & used_again) != 0 ? 1U : 0U;
        }
        return shared;
    }
    // Some leaf maps what another one maps.
    [[nodiscard]] bool used_twice() const noexcept { return used_twice_; }
    // Used, but by no device that stays.
    [[nodiscard]] std::uint64_t count_freed() const {
        std::uint64_t freed = 0;
        for (std::uint64_t begin = 0; begin < blocks_; begin += page_blocks) {
            const std::uint8_t* const page = uses_.find(begin);
            const std::uint64_t count =
                page == nullptr ? 0 : std::min<std::uint64_t>(page_blocks, blocks_ - begin);
            for (std::uint64_t index = 0; index < count; ++index) {
                freed += page[index] != 0 && (page[index] & kept) == 0 ? 1 : 0;
            }
        }
        return freed;
    }

private:
    static constexpr std::size_t page_blocks = 1 << 16;
    paged_array<std::uint8_t, page_blocks> uses_;
    std::uint64_t blocks_;
    bool used_twice_ = false;
};

result<pool_usage> measure_leaves(metadata_view& view, const usage_options& options,
                                  std::uint64_t data_blocks) {
    pool_leaves leaves(view);
    UTHIN_TRY(leaves.find(view, options.deleted));
    block_uses uses(data_blocks);
    UTHIN_TRY(leaves.read_all(
        true, [&uses](leaf_usage& leaf, metadata_block, const node_view& node) -> result<void> {
            leaf.shared = leaf.trees > 1 ? leaf.entries : std::uint16_t{0};
            return for_each_run(node, [&](const mapping_run& run) { return uses.mark(run, leaf); });
        }));
    if (uses.used_twice()) {
        UTHIN_TRY(leaves.read_all(
            false,
            [&uses](leaf_usage& leaf, metadata_block, const node_view& node) -> result<void> {
                return for_each_run(node, [&](const mapping_run& run) -> result<void> {
                    leaf.shared = static_cast<std::uint16_t>(leaf.shared + uses.shared_blocks(run));
                    return {};
                });
            }));
    }
    pool_usage usage;
    for (std::size_t index = 0; index < leaves.devices().size(); ++index) {
        device_usage& device = usage.devices.emplace_back();
        device.info = leaves.devices()[index].info;
        UTHIN_TRY(leaves.of_device(index,
                                   [&device](const leaf_usage& leaf, metadata_block, std::uint64_t,
                                             std::uint64_t) -> result<void> {
                                       device.mapped_blocks += leaf.entries;
                                       device.shared_blocks += leaf.shared;
                                       if (leaf.entries != 0) {
                                           device.highest_block = leaf.last_key;
                                       }
                                       return {};
                                   }));
    }
    usage.freed_blocks = options.deleted.empty() ? 0 : uses.count_freed();
    return usage;
}

// One byte for each data block is asked for: the number is bounded by what bitmaps can be there.
result<std::uint64_t> data_blocks_of(metadata_view& view) {
    // The snapshot of a live pool does not say.
    constexpr std::uint64_t blocks_per_bitmap = 16320;
    const std::uint64_t most = view.source().block_count() * blocks_per_bitmap;
    const std::uint64_t blocks =
        view.has_space_maps() ? std::uint64_t{view.superblock().data_sm_root.nr_blocks} : most;
    if (blocks > most) {
        return fail(error_code::corrupt,
                    fmt::format("{} data blocks cannot be counted in {} metadata blocks", blocks,
                                view.source().block_count()));
    }
    return blocks;
}

}  // namespace

result<pool_usage> measure_usage(metadata_view& view, const usage_options& options) {
    return or_out_of_memory([&]() -> result<pool_usage> {
        pool_usage usage;
        if (options.walk_mappings) {
            usage = UTHIN_TRY(measure_leaves(view, options, UTHIN_TRY(data_blocks_of(view))));
        } else {
            for (const dump_device& device : UTHIN_TRY(list_devices(view))) {
                usage.devices.push_back({.info = device.info});
            }
        }
        for (const device_id id : options.deleted) {
            if (std::none_of(usage.devices.begin(), usage.devices.end(),
                             [id](const device_usage& device) { return device.info.id == id; })) {
                return fail(error_code::not_found,
                            fmt::format("there is no device {}", id.value()));
            }
        }
        return usage;
    });
}

}  // namespace uthin::thin_metadata
