// Leaks of every kind put right, and the repair broken off at every write.
#include "thin_metadata/leak_repair.h"

#include "io/memory_device.h"
#include "support/failing_device.h"
#include "support/mapping_model.h"
#include "support/matchers.h"
#include "support/metadata_images.h"
#include "support/order_device.h"
#include "support/seed.h"
#include "thin_metadata/checker.h"

namespace uthin::thin_metadata {
namespace {

using persistent_data::block_bytes;
using test::HasCode;

constexpr std::array leaky = {"metadata_leak_1", "metadata_leak_2", "data_leak_1", "data_leak_2"};

check_report report_on(block_device& image) {
    const auto view = open_offline(image, {});
    EXPECT_OK(view);
    if (!view) {
        return {};
    }
    const auto report = check_metadata(**view, {});
    EXPECT_OK(report);
    return report ? *report : check_report();
}

TEST(LeakRepair, MendsEveryLeakAndChangesNoMapping) {
    for (const char* name : leaky) {
        SCOPED_TRACE(name);
        const auto image = test::load_defect_image(name);
        ASSERT_NE(image, nullptr);
        ASSERT_NE(report_on(*image).repairable, 0U);
        const auto before = test::model_of(*image);
        ASSERT_OK(repair_leaks(*image, {}));
        test::expect_clean(*image);
        EXPECT_EQ(test::model_of(*image)->devices, before->devices);
        EXPECT_EQ(report_on(*image).leaked_data_blocks + report_on(*image).leaked_metadata_blocks,
                  0U);
    }
}

TEST(LeakRepair, BrokenOffAtAnyWriteThePoolIsAsItWasOrMended) {
    for (const char* name : leaky) {
        SCOPED_TRACE(name);
        const auto whole = test::load_defect_image(name);
        ASSERT_NE(whole, nullptr);
        const auto before = test::model_of(*whole);
        const check_report damaged = report_on(*whole);
        bool has_ended = false;
        for (std::uint64_t writes = 0; !has_ended; ++writes) {
            const auto image = test::load_defect_image(name);
            test::failing_device device(*image, writes);
            has_ended = repair_leaks(device, {}).has_value();
            const check_report now = report_on(*image);
            EXPECT_EQ(now.fatal, 0U);
            EXPECT_EQ(now.repairable, has_ended ? 0 : damaged.repairable) << writes;
            EXPECT_EQ(test::model_of(*image)->devices, before->devices);
        }
    }
}

TEST(LeakRepair, TheSuperblockIsWrittenLastAfterAFlush) {
    const auto image = test::load_defect_image(leaky[0]);
    ASSERT_NE(image, nullptr);
    std::string log;
    test::order_device device(*image, log);
    ASSERT_OK(repair_leaks(device, {}));
    EXPECT_EQ(log, "wfsf");
}

TEST(LeakRepair, RandomPoolsKeepEveryMappingAndEveryCount) {
    random_generator random(test::seed());
    for (int round = 0; round < 10; ++round) {
        const test::mapping_model before = test::random_model(random, {});
        const auto image = test::image_of(before);
        ASSERT_NE(image, nullptr);
        ASSERT_OK(repair_leaks(*image, {}));
        test::expect_clean(*image);
        EXPECT_EQ(test::model_of(*image)->devices, before.devices);
    }
}

TEST(LeakRepair, ClearingTheFlagChangesTheSuperblockOnly) {
    const auto image = test::image_of(test::mapping_model());
    ASSERT_NE(image, nullptr);
    aligned_buffer page(metadata_block_size_bytes);
    const block_bytes bytes(page.data(), metadata_block_size_bytes);
    ASSERT_OK(image->read(0, bytes));
    disk_superblock superblock = load_superblock(bytes);
    superblock.flags = superblock_flag_needs_check;
    store_superblock(superblock, bytes);
    persistent_data::prepare_block(persistent_data::block_kind::superblock, metadata_block(0),
                                   bytes);
    ASSERT_OK(image->write(0, bytes));
    ASSERT_TRUE(report_on(*image).needs_check);

    std::vector<std::byte> before(512 * metadata_block_size_bytes);
    ASSERT_OK(image->read(0, before));
    ASSERT_OK(repair_leaks(*image, {.rebuild_space_maps = false, .clear_needs_check = true}));
    std::vector<std::byte> after(before.size());
    ASSERT_OK(image->read(0, after));
    EXPECT_FALSE(report_on(*image).needs_check);
    EXPECT_TRUE(std::equal(before.begin() + metadata_block_size_bytes, before.end(),
                           after.begin() + metadata_block_size_bytes));
    test::expect_clean(*image);
}

TEST(LeakRepair, WithoutRoomNothingIsWritten) {
    // Just large enough for the pool itself.
    random_generator random(test::seed());
    const test::mapping_model model = test::random_model(random, {});
    const auto large = test::image_of(model);
    ASSERT_NE(large, nullptr);
    const auto view = open_offline(*large, {});
    ASSERT_OK(view);
    const auto image = test::image_of(model, (*view)->superblock().metadata_sm_root.nr_allocated);
    ASSERT_NE(image, nullptr);
    EXPECT_THAT(repair_leaks(*image, {}), HasCode(error_code::no_metadata_space));
    test::expect_clean(*image);
    EXPECT_EQ(test::model_of(*image)->devices, model.devices);
}

}  // namespace
}  // namespace uthin::thin_metadata
