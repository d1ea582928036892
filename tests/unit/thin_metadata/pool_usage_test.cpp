// Usage against counting block by block, in pools that share leaves and blocks.
#include "thin_metadata/pool_usage.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/random.h"
#include "support/mapping_recorder.h"
#include "support/metadata_fixture.h"
#include "support/seed.h"
#include "thin_metadata/difference.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/leaf_plan.h"
#include "thin_metadata/leaf_runs.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;
using test::mapping_recorder;

class PoolUsage : public test::metadata_fixture {
protected:
    static constexpr std::uint64_t devices = 6;

    // Snapshots of snapshots, each then written to here and there.
    void make_shared_pool() {
        random_generator random(test::seed());
        ASSERT_OK(pool_->create_thin(device_id(1)));
        write(1, 0, 900);
        for (std::uint64_t id = 2; id <= devices; ++id) {
            ASSERT_OK(pool_->create_snap(device_id(id), device_id(1 + random.below(id - 1))));
            for (int write_count = 0; write_count < 3; ++write_count) {
                write(1 + random.below(id), random.below(1500), 1 + random.below(20));
            }
        }
        ASSERT_OK(pool_->create_thin(device_id(devices + 1)));
        ASSERT_OK(pool_->commit());
        view_ = open_offline(*device_, {}).value();
        ASSERT_OK(dump_metadata(*view_, recorder_, {}));
    }
    void write(std::uint64_t id, std::uint64_t begin, std::uint64_t count) {
        ASSERT_OK_AND_ASSIGN(thin_device* const device, pool_->open_device(device_id(id)));
        for (std::uint64_t block = begin; block < begin + count; ++block) {
            ASSERT_OK_AND_ASSIGN(const data_block data, pool_->alloc_data_block());
            ASSERT_OK(pool_->insert_block(*device, virtual_block(block), data));
        }
        pool_->close_device(device);
    }
    // How often each data block is mapped by devices that are not in `without`.
    [[nodiscard]] std::map<std::uint64_t, std::uint64_t> uses(
        const std::set<std::uint64_t>& without = {}) const {
        std::map<std::uint64_t, std::uint64_t> counts;
        for (const auto& [id, device] : recorder_.devices) {
            for (const auto& [at, mapping] : device.mappings) {
                counts[mapping.first] += without.contains(id) ? 0U : 1U;
            }
        }
        return counts;
    }

    std::unique_ptr<metadata_view> view_;
    mapping_recorder recorder_;
};

TEST_F(PoolUsage, IsWhatCountingEachBlockGives) {
    make_shared_pool();
    const auto counts = uses();
    ASSERT_OK_AND_ASSIGN(const pool_usage usage, measure_usage(*view_, {}));
    ASSERT_EQ(usage.devices.size(), devices + 1);
    std::uint64_t shared_in_all = 0;
    for (const device_usage& found : usage.devices) {
        const auto& mappings = recorder_.devices.at(found.info.id.value()).mappings;
        std::uint64_t shared = 0;
        for (const auto& [at, mapping] : mappings) {
            shared += counts.at(mapping.first) > 1 ? 1U : 0U;
        }
        EXPECT_EQ(found.mapped_blocks, mappings.size());
        EXPECT_EQ(found.shared_blocks, shared) << found.info.id.value();
        EXPECT_EQ(found.highest_block.has_value(), !mappings.empty());
        if (!mappings.empty()) {
            EXPECT_EQ(found.highest_block, mappings.rbegin()->first);
        }
        shared_in_all += shared;
    }
    EXPECT_GT(shared_in_all, 0U);
}

TEST_F(PoolUsage, DeletingFreesWhatNobodyElseMaps) {
    make_shared_pool();
    for (const std::set<std::uint64_t>& deleted :
         std::vector<std::set<std::uint64_t>>{{1}, {2, 5}, {1, 2, 3}, {1, 2, 3, 4, 5, 6, 7}}) {
        std::uint64_t freed = 0;
        for (const auto& [block, count] : uses(deleted)) {
            freed += count == 0 ? 1U : 0U;
        }
        usage_options options;
        for (const std::uint64_t id : deleted) {
            options.deleted.emplace_back(id);
        }
        ASSERT_OK_AND_ASSIGN(const pool_usage usage, measure_usage(*view_, options));
        EXPECT_EQ(usage.freed_blocks, freed);
    }
    EXPECT_THAT(measure_usage(*view_, {.deleted = {device_id(99)}}),
                HasCode(error_code::not_found));
}

TEST_F(PoolUsage, DifferencesAreWhatComparingEachBlockGives) {
    make_shared_pool();
    for (std::uint64_t id = 1; id <= devices + 1; ++id) {
        using block_difference = std::tuple<difference_kind, std::uint64_t, std::uint64_t>;
        std::map<std::uint64_t, block_difference> expected;
        const auto& left = recorder_.devices.at(3).mappings;
        const auto& right = recorder_.devices.at(id).mappings;
        for (const auto& [at, mapping] : left) {
            expected[at] = {difference_kind::left_only, mapping.first, 0};
        }
        for (const auto& [at, mapping] : right) {
            const auto other = left.find(at);
            expected[at] = other == left.end()
                               ? block_difference(difference_kind::right_only, 0, mapping.first)
                               : block_difference(other->second.first == mapping.first
                                                      ? difference_kind::same
                                                      : difference_kind::different,
                                                  other->second.first, mapping.first);
        }
        std::map<std::uint64_t, block_difference> found;
        ASSERT_OK_AND_ASSIGN(const auto left_root, mapping_root_of(*view_, device_id(3)));
        ASSERT_OK_AND_ASSIGN(const auto right_root, mapping_root_of(*view_, device_id(id)));
        const auto collect = [&found](const difference_run& run) -> result<void> {
            const bool has_left = run.kind != difference_kind::right_only;
            const bool has_right = run.kind != difference_kind::left_only;
            for (std::uint64_t index = 0; index < run.count; ++index) {
                found[run.begin.value() + index] = {run.kind,
                                                    has_left ? run.left.value() + index : 0,
                                                    has_right ? run.right.value() + index : 0};
            }
            return {};
        };
        ASSERT_OK(find_differences(*view_, left_root, right_root, collect));
        EXPECT_EQ(found, expected) << id;
    }
}

TEST_F(PoolUsage, APlanHasEachLeafOfAllDevicesOnce) {
    make_shared_pool();
    std::set<std::uint64_t> leaves;
    ASSERT_OK_AND_ASSIGN(const auto listed, list_devices(*view_));
    leaf_plan plan(view_->source());
    for (const dump_device& device : listed) {
        std::set<std::uint64_t> of_device;
        ASSERT_OK(
            list_leaves(view_->source(), device.root, nullptr,
                        [&](metadata_block leaf, std::uint64_t, std::uint64_t) -> result<void> {
                            of_device.insert(leaf.value());
                            return {};
                        }));
        // A tree of one leaf is read at once, and not planned.
        if (of_device.size() > 1) {
            leaves.insert(of_device.begin(), of_device.end());
        }
    }
    plan.add_devices(metadata_block(view_->superblock().data_mapping_root));
    EXPECT_EQ(plan.size(), leaves.size());
    EXPECT_GT(leaves.size(), 10U);
}

}  // namespace
}  // namespace uthin::thin_metadata
