#include "thin_metadata/pool_usage.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/paged_array.h"
#include "thin_metadata/dumper.h"

namespace uthin::thin_metadata {
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

constexpr std::uint8_t used_once = 1;
constexpr std::uint8_t used_again = 2;
// By a device that stays.
constexpr std::uint8_t kept = 4;

class usage_meter final : public mapping_sink {
public:
    usage_meter(std::uint64_t data_blocks, const usage_options& options)
        : options_(options), uses_(data_blocks), data_blocks_(data_blocks) {}

    // First pass: marks the blocks. Second: counts.
    void count_now() noexcept { is_counting_ = true; }

    result<void> begin_pool(const pool_header&) override { return {}; }
    result<void> begin_shared(std::string_view) override { return {}; }
    result<void> end_shared() override { return {}; }
    result<void> begin_device(const thin_device_info& device) override {
        is_kept_ = std::find(options_.deleted.begin(), options_.deleted.end(), device.id) ==
                   options_.deleted.end();
        current_ = {.info = device};
        return {};
    }
    result<void> run(const mapping_run& run) override {
        const std::uint64_t first = run.data_begin.value();
        if (first + run.count > data_blocks_) {
            return fail(error_code::corrupt,
                        fmt::format("device {} maps data block {}, but the pool has {}",
                                    current_.info.id.value(), first + run.count - 1, data_blocks_));
        }
        for (std::uint64_t index = 0; index < run.count; ++index) {
            std::uint8_t& use = uses_[first + index];
            if (!is_counting_) {
                use = static_cast<std::uint8_t>(use | (use == 0 ? used_once : used_again) |
                                                (is_kept_ ? kept : 0));
            } else {
                current_.shared_blocks += (use & used_again) != 0 ? 1 : 0;
                freed_ += !is_kept_ && (use & kept) == 0 ? 1 : 0;
                // Counted once, whichever of the deleted devices comes first.
                use = is_kept_ ? use : static_cast<std::uint8_t>(use | kept);
            }
        }
        current_.mapped_blocks += run.count;
        current_.highest_block = run.begin.value() + run.count - 1;
        return {};
    }
    result<void> reference(std::string_view) override { return {}; }
    result<void> end_device() override {
        if (is_counting_) {
            usage_.devices.push_back(current_);
        }
        return {};
    }
    result<void> end_pool() override { return {}; }

    [[nodiscard]] pool_usage take() {
        usage_.freed_blocks = freed_;
        return std::move(usage_);
    }

private:
    const usage_options& options_;
    paged_array<std::uint8_t, 1 << 16> uses_;
    std::uint64_t data_blocks_;
    bool is_counting_ = false;
    bool is_kept_ = true;
    device_usage current_;
    std::uint64_t freed_ = 0;
    pool_usage usage_;
};

class reverse_mapper final : public mapping_sink {
public:
    explicit reverse_mapper(const std::vector<range<data_block>>& regions) : regions_(regions) {}

    result<void> begin_pool(const pool_header&) override { return {}; }
    result<void> begin_shared(std::string_view) override { return {}; }
    result<void> end_shared() override { return {}; }
    result<void> begin_device(const thin_device_info& device) override {
        first_of_device_ = runs.size();
        device_ = device.id;
        return {};
    }
    result<void> run(const mapping_run& run) override {
        for (const range<data_block>& region : regions_) {
            const data_block begin = std::max(run.data_begin, region.begin);
            const data_block end = std::min(run.data_begin + run.count, region.end);
            if (begin < end) {
                add({.data_begin = begin,
                     .count = end - begin,
                     .device = device_,
                     .begin = run.begin + (begin - run.data_begin)});
            }
        }
        return {};
    }
    result<void> reference(std::string_view) override { return {}; }
    result<void> end_device() override { return {}; }
    result<void> end_pool() override { return {}; }

    std::vector<reverse_run> runs;

private:
    // Runs that differ in their time only are one here.
    void add(const reverse_run& next) {
        if (runs.size() > first_of_device_) {
            reverse_run& last = runs.back();
            if (last.data_begin + last.count == next.data_begin &&
                last.begin + last.count == next.begin) {
                last.count += next.count;
                return;
            }
        }
        runs.push_back(next);
    }

    const std::vector<range<data_block>>& regions_;
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
    if (!options.walk_mappings) {
        device_list list;
        UTHIN_TRY(dump_metadata(view, list, {.skip_mappings = true}));
        return pool_usage{.devices = std::move(list.devices)};
    }
    usage_meter meter(UTHIN_TRY(data_blocks_of(view)), options);
    UTHIN_TRY(dump_metadata(view, meter, {}));
    meter.count_now();
    UTHIN_TRY(dump_metadata(view, meter, {}));
    pool_usage usage = meter.take();
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
    reverse_mapper mapper(regions);
    UTHIN_TRY(dump_metadata(view, mapper, {}));
    std::sort(mapper.runs.begin(), mapper.runs.end());
    return std::move(mapper.runs);
}

}  // namespace uthin::thin_metadata
