#include "thin_metadata/pool_usage.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/paged_array.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/leaf_runs.h"

namespace uthin::thin_metadata {

using persistent_data::block_source;
using persistent_data::node_view;

namespace {

// The devices alone.
class device_list final : public mapping_sink {
public:
    result<void> begin_pool(const pool_header&) override { return {}; }
    result<void> begin_shared(std::string_view) override { return {}; }
    result<void> end_shared() override { return {}; }
    result<void> begin_device(const thin_device_info& device) override {
        devices.push_back({.info = device});
        return {};
    }
    result<void> run(const mapping_run&) override { return {}; }
    result<void> reference(std::string_view) override { return {}; }
    result<void> end_device() override { return {}; }
    result<void> end_pool() override { return {}; }

    std::vector<device_usage> devices;
};

// What is known of a leaf of any mapping tree.
struct leaf_usage {
    std::uint64_t first_key = 0;
    std::uint64_t last_key = 0;
    std::uint32_t trees = 0;
    std::uint16_t entries = 0;
    std::uint16_t shared = 0;
    bool kept = false;  // in the tree of a device that stays
};

// The leaves of all devices, each of them read once however many trees have it.
class pool_leaves {
public:
    explicit pool_leaves(metadata_view& view)
        : source_(view.source()), leaves_(source_.block_count()) {}

    using device_leaf = std::function<result<void>(leaf_usage& leaf, metadata_block where,
                                                   std::uint64_t first, std::uint64_t last)>;
    using leaf_entries =
        std::function<result<void>(leaf_usage& leaf, metadata_block where, const node_view& node)>;

    // Finds them. Those of devices that are not `deleted` are kept.
    result<void> find(metadata_view& view, const std::vector<device_id>& deleted);
    // Reads them in the order in which they were found.
    result<void> read_all(bool shared_too, const leaf_entries& each);
    // Those of one device, in order.
    result<void> of_device(std::size_t device, const device_leaf& each);
    [[nodiscard]] const std::vector<dump_device>& devices() const noexcept { return devices_; }

private:
    block_source& source_;
    std::vector<dump_device> devices_;
    std::vector<std::uint32_t> order_;
    paged_array<leaf_usage> leaves_;
};

result<void> pool_leaves::of_device(std::size_t device, const device_leaf& each) {
    prefetch_roots(source_, devices_, device);
    UTHIN_TRY_CTX(list_leaves(source_, devices_[device].root, nullptr,
                              [&](metadata_block leaf, std::uint64_t first, std::uint64_t last) {
                                  return each(leaves_[leaf.value()], leaf, first, last);
                              }),
                  fmt::format("device {}", devices_[device].info.id.value()));
    return {};
}

result<void> pool_leaves::find(metadata_view& view, const std::vector<device_id>& deleted) {
    devices_ = UTHIN_TRY(list_devices(view));
    for (std::size_t device = 0; device < devices_.size(); ++device) {
        const bool is_kept =
            std::find(deleted.begin(), deleted.end(), devices_[device].info.id) == deleted.end();
        UTHIN_TRY(of_device(device,
                            [&](leaf_usage& leaf, metadata_block where, std::uint64_t,
                                std::uint64_t) -> result<void> {
                                if (leaf.trees++ == 0) {
                                    order_.push_back(static_cast<std::uint32_t>(where.value()));
                                }
                                leaf.kept = leaf.kept || is_kept;
                                return {};
                            }));
    }
    return {};
}

result<void> pool_leaves::read_all(bool shared_too, const leaf_entries& each) {
    std::vector<std::uint32_t> wanted;
    for (const std::uint32_t where : order_) {
        if (shared_too || leaves_[where].trees == 1) {
            wanted.push_back(where);
        }
    }
    (void)source_.plan(wanted, persistent_data::block_kind::btree_node);
    for (const std::uint32_t number : wanted) {
        const metadata_block where(number);
        const auto page = UTHIN_TRY(read_mapping_leaf(source_, where, 0, UINT64_MAX));
        const node_view node(page.bytes());
        leaf_usage& leaf = leaves_[number];
        leaf.entries = static_cast<std::uint16_t>(node.nr_entries());
        if (leaf.entries != 0) {
            leaf.first_key = node.key(0);
            leaf.last_key = node.key(node.nr_entries() - 1U);
        }
        UTHIN_TRY(each(leaf, where, node));
    }
    return {};
}

// The keys of a leaf that somebody else has read.
result<void> check_bounds(const leaf_usage& leaf, metadata_block where, std::uint64_t first,
                          std::uint64_t last) {
    if (leaf.entries != 0 && (leaf.first_key < first || leaf.last_key > last)) {
        return fail(error_code::corrupt,
                    fmt::format("mapping tree: block {} holds keys {} to {}, outside {} to {}",
                                where.value(), leaf.first_key, leaf.last_key, first, last));
    }
    return {};
}

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

template <class Each>
result<void> for_each_run(const node_view& node, Each&& each) {
    for (std::uint32_t index = 0; index < node.nr_entries();) {
        const mapping_run run = run_at(node, index);
        UTHIN_TRY(each(run));
        index += static_cast<std::uint32_t>(run.count);
    }
    return {};
}

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
        UTHIN_TRY(
            leaves.of_device(index,
                             [&device](leaf_usage& leaf, metadata_block where, std::uint64_t first,
                                       std::uint64_t last) -> result<void> {
                                 UTHIN_TRY(check_bounds(leaf, where, first, last));
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

// The mappings into the regions, leaf by leaf.
class reverse_mapper {
public:
    explicit reverse_mapper(const std::vector<range<data_block>>& regions, std::uint64_t blocks)
        : regions_(regions), pieces_(blocks) {
        for (const range<data_block>& region : regions) {
            least_ = std::min(least_, region.begin);
            end_ = std::max(end_, region.end);
        }
    }

    void add(metadata_block leaf, const mapping_run& run) {
        if (run.data_begin >= end_ || run.data_begin + run.count <= least_) {
            return;
        }
        for (const range<data_block>& region : regions_) {
            const data_block begin = std::max(run.data_begin, region.begin);
            const data_block end = std::min(run.data_begin + run.count, region.end);
            if (begin < end) {
                piece_range& of_leaf = pieces_[leaf.value()];
                of_leaf.begin = of_leaf.count == 0 ? found_.size() : of_leaf.begin;
                ++of_leaf.count;
                found_.push_back({.data_begin = begin,
                                  .count = end - begin,
                                  .device = device_id(),
                                  .begin = run.begin + (begin - run.data_begin)});
            }
        }
    }
    void begin_device(device_id device) {
        device_ = device;
        first_of_device_ = runs.size();
    }
    void add_leaf(metadata_block leaf) {
        const piece_range* const of_leaf = pieces_.find(leaf.value());
        for (std::uint64_t index = 0; of_leaf != nullptr && index < of_leaf->count; ++index) {
            join(found_[of_leaf->begin + index]);
        }
    }

    std::vector<reverse_run> runs;

private:
    struct piece_range {
        std::uint64_t begin = 0;
        std::uint64_t count = 0;
    };

    // Runs that differ in their time only are one here.
    void join(const reverse_run& next) {
        if (runs.size() > first_of_device_) {
            reverse_run& last = runs.back();
            if (last.data_begin + last.count == next.data_begin &&
                last.begin + last.count == next.begin) {
                last.count += next.count;
                return;
            }
        }
        runs.push_back(next);
        runs.back().device = device_;
    }

    const std::vector<range<data_block>>& regions_;
    data_block least_{UINT64_MAX};
    data_block end_{0};
    std::vector<reverse_run> found_;
    paged_array<piece_range> pieces_;
    std::size_t first_of_device_ = 0;
    device_id device_;
};

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
    pool_usage usage;
    if (options.walk_mappings) {
        usage = UTHIN_TRY(measure_leaves(view, options, UTHIN_TRY(data_blocks_of(view))));
    } else {
        device_list list;
        UTHIN_TRY(dump_metadata(view, list, {.skip_mappings = true}));
        usage.devices = std::move(list.devices);
    }
    for (const device_id id : options.deleted) {
        if (std::none_of(usage.devices.begin(), usage.devices.end(),
                         [id](const device_usage& device) { return device.info.id == id; })) {
            return fail(error_code::not_found, fmt::format("there is no device {}", id.value()));
        }
    }
    return usage;
}

result<std::vector<reverse_run>> reverse_mappings(metadata_view& view,
                                                  const std::vector<range<data_block>>& regions) {
    pool_leaves leaves(view);
    UTHIN_TRY(leaves.find(view, {}));
    reverse_mapper mapper(regions, view.source().block_count());
    UTHIN_TRY(leaves.read_all(
        true, [&](leaf_usage&, metadata_block where, const node_view& node) -> result<void> {
            return for_each_run(node, [&](const mapping_run& run) -> result<void> {
                mapper.add(where, run);
                return {};
            });
        }));
    for (std::size_t index = 0; index < leaves.devices().size(); ++index) {
        mapper.begin_device(leaves.devices()[index].info.id);
        UTHIN_TRY(leaves.of_device(index,
                                   [&](leaf_usage& leaf, metadata_block where, std::uint64_t first,
                                       std::uint64_t last) -> result<void> {
                                       UTHIN_TRY(check_bounds(leaf, where, first, last));
                                       mapper.add_leaf(where);
                                       return {};
                                   }));
    }
    std::sort(mapper.runs.begin(), mapper.runs.end());
    return std::move(mapper.runs);
}

}  // namespace uthin::thin_metadata
