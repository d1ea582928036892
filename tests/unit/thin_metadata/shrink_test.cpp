// Shrinking: random pools against what each device read before.
#include "thin_metadata/shrink.h"

#include "io/memory_device.h"
#include "support/failing_device.h"
#include "support/mapping_model.h"
#include "support/matchers.h"
#include "support/order_device.h"
#include "support/seed.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/restorer.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;
using test::mapping_model;
using test::mapping_recorder;

constexpr std::uint64_t block_bytes = 128 * sector_size_bytes;
constexpr auto no_progress = [](std::uint64_t) {};

mapping_model model_with(std::map<std::uint64_t, std::uint64_t> mappings, std::uint64_t blocks) {
    mapping_model model;
    model.pool.data_blocks = blocks;
    for (const auto& [block, data] : mappings) {
        model.devices[1].mappings[block] = {data, 1};
    }
    return model;
}

result<shrink_plan> plan_for(const mapping_model& model, std::uint64_t blocks) {
    shrink_survey survey;
    UTHIN_TRY(test::send(model, survey));
    return survey.plan(blocks);
}

// Each data block begins with its own number.
void stamp(block_device& data, std::uint64_t blocks) {
    for (std::uint64_t block = 0; block < blocks; ++block) {
        std::array<std::byte, 8> number{};
        store_le(number.data(), block);
        ASSERT_OK(data.write(block * block_bytes, number));
    }
}
std::uint64_t stamp_at(block_device& data, std::uint64_t block) {
    std::array<std::byte, 8> number{};
    EXPECT_OK(data.read(block * block_bytes, number));
    return load_le<std::uint64_t>(number.data());
}

TEST(Shrink, MovesTheBlocksBeyondTheEndIntoTheLowestGaps) {
    const auto model = model_with({{0, 0}, {1, 2}, {10, 8}, {11, 9}, {12, 10}}, 11);
    ASSERT_OK_AND_ASSIGN(const shrink_plan plan, plan_for(model, 6));
    EXPECT_EQ(plan.used_end, data_block(11));
    const std::vector<moved_run> expected = {
        {.from = data_block(8), .to = data_block(1), .count = 1},
        {.from = data_block(9), .to = data_block(3), .count = 2}};
    EXPECT_EQ(plan.moves, expected);
}

TEST(Shrink, LeavesAloneWhatLiesBelowTheEnd) {
    ASSERT_OK_AND_ASSIGN(const shrink_plan plan, plan_for(model_with({{0, 3}, {7, 4}}, 100), 5));
    EXPECT_TRUE(plan.moves.empty());
}

TEST(Shrink, RefusesWhatDoesNotFit) {
    const auto model = model_with({{0, 90}, {1, 91}, {2, 5}}, 100);
    EXPECT_OK(plan_for(model, 3));
    EXPECT_THAT(plan_for(model, 2), HasCode(error_code::no_data_space));
    EXPECT_THAT(plan_for(model, 0), HasCode(error_code::invalid_argument));
    EXPECT_THAT(plan_for(model, 101), HasCode(error_code::invalid_argument));
}

TEST(Shrink, RefusesMappingsBeyondThePool) {
    EXPECT_THAT(plan_for(model_with({{0, 100}}, 100), 50), HasCode(error_code::out_of_range));
}

TEST(Shrink, EveryDeviceOfARandomPoolReadsAsBefore) {
    random_generator random(test::seed());
    for (int round = 0; round < 30; ++round) {
        const mapping_model before = test::random_model(random, {});
        const std::uint64_t wanted = 2000 + random.below(1001);
        ASSERT_OK_AND_ASSIGN(const shrink_plan plan, plan_for(before, wanted));
        io::memory_device data(before.pool.data_blocks * block_bytes);
        stamp(data, before.pool.data_blocks);
        ASSERT_OK(move_data(data, plan, no_progress));

        const auto image = test::image_of(before);
        ASSERT_NE(image, nullptr);
        io::memory_device smaller(512 * metadata_block_size_bytes);
        restorer target(smaller, {});
        shrink_filter filter(target, plan);
        ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
        ASSERT_OK(dump_metadata(*view, filter, {.shared_pieces = true}));
        test::expect_clean(smaller);
        const auto after = test::model_of(smaller);
        ASSERT_TRUE(after.has_value());
        EXPECT_EQ(after->pool.data_blocks, wanted);
        ASSERT_EQ(after->devices.size(), before.devices.size());
        for (const auto& [id, device] : before.devices) {
            const auto& moved = after->devices.at(id);
            EXPECT_EQ(moved.details, device.details);
            ASSERT_EQ(moved.mappings.size(), device.mappings.size());
            for (const auto& [block, mapped] : device.mappings) {
                const auto& [where, time] = moved.mappings.at(block);
                EXPECT_LT(where, wanted);
                EXPECT_EQ(time, mapped.second);
                EXPECT_EQ(stamp_at(data, where), mapped.first);
                // SH2: the old pool still reads as it did.
                EXPECT_EQ(stamp_at(data, mapped.first), mapped.first);
            }
        }
    }
}

TEST(Shrink, ASmallDataDeviceIsRefusedBeforeItIsWritten) {
    ASSERT_OK_AND_ASSIGN(const shrink_plan plan, plan_for(model_with({{0, 1}, {5, 50}}, 100), 10));
    io::memory_device data(50 * block_bytes);
    EXPECT_THAT(move_data(data, plan, no_progress), HasCode(error_code::out_of_range));
    EXPECT_EQ(data.allocated_bytes(), 0U);
}

TEST(Shrink, CopiesAreFlushed) {
    ASSERT_OK_AND_ASSIGN(const shrink_plan plan, plan_for(model_with({{0, 1}, {5, 50}}, 100), 10));
    std::string log;
    io::memory_device memory(100 * block_bytes);
    test::order_device data(memory, log);
    ASSERT_OK(move_data(data, plan, no_progress));
    EXPECT_EQ(log, "sf");  // block 50 goes to block 0
}

TEST(Shrink, AnInstallationBrokenOffLeavesTheOldPoolOrNone) {
    random_generator random(test::seed());
    const mapping_model old = test::random_model(random, {});
    const mapping_model fresh = test::random_model(random, {});
    for (std::uint64_t writes = 0;; ++writes) {
        const auto image = test::image_of(fresh);
        const auto target = test::image_of(old);
        ASSERT_NE(image, nullptr);
        ASSERT_NE(target, nullptr);
        test::failing_device device(*target, writes);
        if (install_image(*image, device)) {
            EXPECT_EQ(writes, 3U);  // the mark, everything else, the superblock
            EXPECT_EQ(test::model_of(*target)->devices, fresh.devices);
            break;
        }
        if (writes == 0) {
            EXPECT_EQ(test::model_of(*target)->devices, old.devices);
        } else {
            EXPECT_THAT(open_offline(*target, {}), HasCode(error_code::wrong_block)) << writes;
        }
    }
}

// A small shared piece that is merged with what stands before it leaves a hole among the blocks.
TEST(Shrink, AnImageWithHolesIsInstalledWhole) {
    io::memory_device image(512 * metadata_block_size_bytes);
    restorer made(image, {});
    ASSERT_OK(made.begin_pool(mapping_model().pool));
    ASSERT_OK(made.begin_shared("piece"));
    ASSERT_OK(made.run({virtual_block(900), data_block(900), 3, 1}));
    ASSERT_OK(made.end_shared());
    for (std::uint64_t id = 0; id < 2; ++id) {
        ASSERT_OK(made.begin_device({.id = device_id(id), .details = {}}));
        ASSERT_OK(made.run({virtual_block(0), data_block(id * 400), 100, 1}));
        ASSERT_OK(made.reference("piece"));
        ASSERT_OK(made.end_device());
    }
    ASSERT_OK(made.end_pool());
    test::expect_clean(image);
    io::memory_device target(512 * metadata_block_size_bytes);
    ASSERT_OK(install_image(image, target));
    test::expect_clean(target);
    EXPECT_EQ(test::model_of(target)->devices, test::model_of(image)->devices);
}

TEST(Shrink, AnImageIsInstalledWithItsSuperblockLast) {
    const auto image = test::image_of(model_with({{0, 1}}, 100));
    ASSERT_NE(image, nullptr);
    std::string log;
    io::memory_device memory(512 * metadata_block_size_bytes);
    test::order_device target(memory, log);
    ASSERT_OK(install_image(*image, target));
    EXPECT_EQ(log, "sfwfsf");
    test::expect_clean(target);
}

}  // namespace
}  // namespace uthin::thin_metadata
