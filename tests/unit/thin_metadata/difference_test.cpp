// Differences between trees against plain tables, block by block.
#include "thin_metadata/difference.h"

#include "support/mapping_model.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;
using test::mapping_model;
using table = mapping_model::table;

// What the runs say of each block: kind, left, right.
struct block_difference {
    difference_kind kind = difference_kind::same;
    std::uint64_t left = 0;
    std::uint64_t right = 0;
    bool operator==(const block_difference&) const = default;
};
using block_differences = std::map<std::uint64_t, block_difference>;

block_differences expected_of(const table& left, const table& right) {
    block_differences expected;
    for (const auto& [block, mapped] : left) {
        expected[block] = {difference_kind::left_only, mapped.first, 0};
    }
    for (const auto& [block, mapped] : right) {
        const auto at = left.find(block);
        if (at == left.end()) {
            expected[block] = {difference_kind::right_only, 0, mapped.first};
        } else {
            expected[block] = {at->second.first == mapped.first ? difference_kind::same
                                                                : difference_kind::different,
                               at->second.first, mapped.first};
        }
    }
    return expected;
}

result<std::vector<difference_run>> runs_between(metadata_view& view, std::uint64_t left,
                                                 std::uint64_t right) {
    const metadata_block left_root = UTHIN_TRY(mapping_root_of(view, device_id(left)));
    const metadata_block right_root = UTHIN_TRY(mapping_root_of(view, device_id(right)));
    std::vector<difference_run> runs;
    UTHIN_TRY(find_differences(view, left_root, right_root,
                               [&runs](const difference_run& run) -> result<void> {
                                   runs.push_back(run);
                                   return {};
                               }));
    return runs;
}

block_differences expanded(const std::vector<difference_run>& runs) {
    block_differences blocks;
    for (const difference_run& run : runs) {
        for (std::uint64_t index = 0; index < run.count; ++index) {
            const bool has_left = run.kind != difference_kind::right_only;
            const bool has_right = run.kind != difference_kind::left_only;
            blocks[run.begin.value() + index] = {run.kind, has_left ? run.left.value() + index : 0,
                                                 has_right ? run.right.value() + index : 0};
        }
    }
    return blocks;
}

TEST(Difference, RandomDevicesDifferAsTheirTablesDo) {
    random_generator random(test::seed());
    for (int round = 0; round < 25; ++round) {
        const mapping_model model = test::random_model(random, {});
        const auto image = test::image_of(model);
        ASSERT_NE(image, nullptr);
        ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
        for (const auto& [left, left_device] : model.devices) {
            for (const auto& [right, right_device] : model.devices) {
                ASSERT_OK_AND_ASSIGN(const auto runs, runs_between(*view, left, right));
                EXPECT_EQ(expanded(runs), expected_of(left_device.mappings, right_device.mappings));
                virtual_block behind(0);
                for (const difference_run& run : runs) {
                    EXPECT_NE(run.count, 0U);
                    EXPECT_GE(run.begin, behind);
                    behind = run.begin + run.count;
                }
            }
        }
    }
}

TEST(Difference, OnlyDataBlocksCountNotTimes) {
    mapping_model model;
    model.devices[1].mappings = {{5, {7, 1}}, {6, {8, 1}}};
    model.devices[2].mappings = {{5, {7, 2}}, {6, {9, 1}}};
    const auto image = test::image_of(model);
    ASSERT_NE(image, nullptr);
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
    ASSERT_OK_AND_ASSIGN(const auto runs, runs_between(*view, 1, 2));
    ASSERT_EQ(runs.size(), 2U);
    EXPECT_EQ(runs[0].kind, difference_kind::same);
    EXPECT_EQ(runs[1].kind, difference_kind::different);
}

TEST(Difference, ARunEndsWhereEitherSideJumps) {
    mapping_model model;
    model.devices[1].mappings = {{0, {10, 1}}, {1, {11, 1}}, {2, {12, 1}}, {3, {40, 1}}};
    model.devices[2].mappings = {{0, {20, 1}}, {1, {21, 1}}, {2, {30, 1}}, {3, {31, 1}}};
    const auto image = test::image_of(model);
    ASSERT_NE(image, nullptr);
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
    ASSERT_OK_AND_ASSIGN(const auto runs, runs_between(*view, 1, 2));
    std::vector<std::uint64_t> counts;
    for (const difference_run& run : runs) {
        counts.push_back(run.count);
    }
    EXPECT_EQ(counts, (std::vector<std::uint64_t>{2, 1, 1}));
}

TEST(Difference, AnErrorOfTheCallerEndsTheWalk) {
    mapping_model model;
    model.devices[1].mappings = {{0, {10, 1}}, {5, {11, 1}}};
    model.devices[2];
    const auto image = test::image_of(model);
    ASSERT_NE(image, nullptr);
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
    ASSERT_OK_AND_ASSIGN(const metadata_block left, mapping_root_of(*view, device_id(1)));
    ASSERT_OK_AND_ASSIGN(const metadata_block right, mapping_root_of(*view, device_id(2)));
    int calls = 0;
    EXPECT_THAT(find_differences(*view, left, right,
                                 [&calls](const difference_run&) -> result<void> {
                                     ++calls;
                                     return fail(error_code::cancelled, "enough");
                                 }),
                HasCode(error_code::cancelled));
    EXPECT_EQ(calls, 1);
}

TEST(Difference, ADeviceThatIsNotThereIsNotFound) {
    const auto image = test::image_of(mapping_model());
    ASSERT_NE(image, nullptr);
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
    EXPECT_THAT(mapping_root_of(*view, device_id(1)), HasCode(error_code::not_found));
}

}  // namespace
}  // namespace uthin::thin_metadata
