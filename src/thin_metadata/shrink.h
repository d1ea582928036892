// Making a pool's data device smaller: what lies beyond the new end moves into free blocks below.
//
// Use: the mappings go into a shrink_survey, which makes the plan; move_data copies; the mappings
// go once more, through a shrink_filter, to where the new metadata is made.
//
// Invariants
//   SH1  A plan moves every used block at or beyond the new end, each once, to blocks below it that
//        no mapping uses; blocks below the end stay where they are.
//   SH2  Nothing that the old metadata maps is written over: until the new metadata is taken into
//        use, the old pool reads as before.
//   SH3  What several devices share stays shared.
//   SH4  Memory: two words for each run of used blocks.
// Threads   One.
// Failures  no_data_space (the mappings do not fit below the new end), invalid_argument (the new
//           size is none), out_of_range (a mapping beyond the pool, a data device too small), those
//           of the device.
#pragma once

#include <functional>
#include <vector>

#include "thin_metadata/mapping_stream.h"
#include "uthin/block_device.h"

namespace uthin::thin_metadata {

struct moved_run {
    data_block from;
    data_block to;
    std::uint64_t count = 0;
    bool operator==(const moved_run&) const = default;
};

struct shrink_plan {
    std::uint32_t data_block_size_sectors = 0;
    std::uint64_t data_blocks = 0;  // afterwards
    data_block used_end;            // behind the last used block, before
    std::vector<moved_run> moves;   // ascending on both sides
    [[nodiscard]] std::uint64_t moved_blocks() const noexcept;
};

// Collects which data blocks are used.
class shrink_survey final : public mapping_sink {
public:
    [[nodiscard]] result<void> begin_pool(const pool_header& pool) override;
    [[nodiscard]] result<void> begin_shared(std::string_view) override { return {}; }
    [[nodiscard]] result<void> end_shared() override { return {}; }
    [[nodiscard]] result<void> begin_device(const thin_device_info&) override { return {}; }
    [[nodiscard]] result<void> run(const mapping_run& run) override;
    [[nodiscard]] result<void> reference(std::string_view) override { return {}; }
    [[nodiscard]] result<void> end_device() override { return {}; }
    [[nodiscard]] result<void> end_pool() override;

    // After the whole stream.
    [[nodiscard]] result<shrink_plan> plan(std::uint64_t data_blocks) const;

private:
    void join_runs();

    pool_header pool_;
    std::vector<range<data_block>> used_;
    // used_ is sorted and joined when it has grown to this.
    std::size_t join_at_ = 1 << 16;
};

// Passes a stream on with its mappings as they are after the plan.
class shrink_filter final : public mapping_sink {
public:
    // Both outlive it.
    shrink_filter(mapping_sink& target, const shrink_plan& plan)
        : target_(target), plan_(plan), joiner_(target) {}

    [[nodiscard]] result<void> begin_pool(const pool_header& pool) override;
    [[nodiscard]] result<void> begin_shared(std::string_view name) override;
    [[nodiscard]] result<void> end_shared() override;
    [[nodiscard]] result<void> begin_device(const thin_device_info& device) override;
    [[nodiscard]] result<void> run(const mapping_run& run) override;
    [[nodiscard]] result<void> reference(std::string_view name) override;
    [[nodiscard]] result<void> end_device() override;
    [[nodiscard]] result<void> end_pool() override;

private:
    mapping_sink& target_;
    const shrink_plan& plan_;
    run_joiner joiner_;
};

// The copies of a plan, durable on return. Tests the size of the device before it writes.
[[nodiscard]] result<void> move_data(block_device& data, const shrink_plan& plan,
                                     const std::function<void(std::uint64_t bytes)>& progress);

// Puts a freshly restored image (nothing of it lies behind its metadata index block) on a device of
// at least its size: the device holds what it held, no pool, or the new one.
[[nodiscard]] result<void> install_image(block_device& image, block_device& target);

}  // namespace uthin::thin_metadata
