// Free runs are exactly what no mapping uses.
#include "thin_metadata/free_space.h"

#include "support/mapping_model.h"
#include "support/matchers.h"
#include "support/metadata_images.h"
#include "support/seed.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;

result<std::vector<range<data_block>>> free_runs(metadata_view& view) {
    std::vector<range<data_block>> runs;
    UTHIN_TRY(list_free_data(view, [&runs](const range<data_block>& free) -> result<void> {
        runs.push_back(free);
        return {};
    }));
    return runs;
}

TEST(FreeSpace, NamesEveryUnusedBlockInTheLongestRuns) {
    random_generator random(test::seed());
    for (const std::uint64_t data_blocks : {1U, 3000U, 16320U, 16321U, 40000U}) {
        for (int round = 0; round < 5; ++round) {
            const test::mapping_model model =
                test::random_model(random, {.data_blocks = data_blocks});
            std::vector<bool> expected(data_blocks, true);
            for (const auto& [id, device] : model.devices) {
                for (const auto& [block, mapped] : device.mappings) {
                    expected[mapped.first] = false;
                }
            }
            const auto image = test::image_of(model);
            ASSERT_NE(image, nullptr);
            ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
            ASSERT_OK_AND_ASSIGN(const auto runs, free_runs(*view));
            std::vector<bool> found(data_blocks, false);
            std::optional<data_block> behind;
            for (const auto& run : runs) {
                EXPECT_FALSE(run.empty());
                EXPECT_TRUE(!behind || *behind < run.begin);
                behind = run.end;
                for (data_block block = run.begin; block < run.end; ++block) {
                    found.at(block.value()) = true;
                }
            }
            EXPECT_EQ(found, expected);
        }
    }
}

TEST(FreeSpace, AMetadataSnapshotHasNoSpaceMap) {
    const auto image = test::load_defect_image("clean_held");
    ASSERT_NE(image, nullptr);
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {.metadata_snapshot = true}));
    EXPECT_THAT(free_runs(*view), HasCode(error_code::unsupported));
}

TEST(FreeSpace, AMissingBitmapIsNoFreeSpace) {
    test::mapping_model model;
    model.pool.data_blocks = 16320 * 3;
    const auto image = test::image_of(model);
    ASSERT_NE(image, nullptr);
    ASSERT_OK_AND_ASSIGN(const auto before, open_offline(*image, {}));
    disk_superblock larger = before->superblock();
    larger.data_sm_root.nr_blocks = 16320 * 4;
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {.superblock_override = &larger}));
    EXPECT_THAT(free_runs(*view), HasCode(error_code::corrupt));
}

}  // namespace
}  // namespace uthin::thin_metadata
