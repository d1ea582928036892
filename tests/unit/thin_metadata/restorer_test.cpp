// Streams made into metadata: read back, checked, and broken off at every write.
#include "thin_metadata/restorer.h"

#include "io/memory_device.h"
#include "support/failing_device.h"
#include "support/mapping_model.h"
#include "support/matchers.h"
#include "support/order_device.h"
#include "support/seed.h"
#include "thin_metadata/checker.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;
using test::mapping_model;

constexpr std::uint64_t image_bytes = 512 * metadata_block_size_bytes;

mapping_run run_of(std::uint64_t begin, std::uint64_t data, std::uint64_t count) {
    return {
        .begin = virtual_block(begin), .data_begin = data_block(data), .count = count, .time = 1};
}

thin_device_info device_of(std::uint64_t id) {
    return {.id = device_id(id), .details = {.mapped_blocks = 12345, .transaction_id = 1}};
}

std::uint64_t used_metadata_blocks(block_device& image) {
    const auto view = open_offline(image, {});
    EXPECT_OK(view);
    return view ? std::uint64_t{(*view)->superblock().metadata_sm_root.nr_allocated} : 0;
}

TEST(Restorer, RandomPoolsReadBackAndCheckClean) {
    random_generator random(test::seed());
    for (int round = 0; round < 25; ++round) {
        const mapping_model before = test::random_model(random, {.run_max = round < 5 ? 1U : 40U});
        const auto image = test::image_of(before);
        ASSERT_NE(image, nullptr);
        test::expect_clean(*image);
        const auto after = test::model_of(*image);
        ASSERT_TRUE(after.has_value());
        EXPECT_EQ(after->pool, before.pool);
        EXPECT_EQ(after->devices, before.devices);
    }
}

TEST(Restorer, CountsTheMappingsItself) {
    io::memory_device image(image_bytes);
    restorer target(image, {});
    ASSERT_OK(target.begin_pool(mapping_model().pool));
    ASSERT_OK(target.begin_device(device_of(3)));
    ASSERT_OK(target.run(run_of(0, 10, 7)));
    ASSERT_OK(target.end_device());
    ASSERT_OK(target.end_pool());
    const auto after = test::model_of(image);
    ASSERT_TRUE(after.has_value());
    EXPECT_EQ(after->devices.at(3).details.mapped_blocks, 7U);
}

TEST(Restorer, ThePoolIsNotOlderThanItsMappings) {
    mapping_model model;
    model.devices[1].mappings = {{0, {10, model.pool.time + 5}}};
    model.devices[1].details.mapped_blocks = 1;
    const auto image = test::image_of(model);
    ASSERT_NE(image, nullptr);
    test::expect_clean(*image);
    EXPECT_EQ(test::model_of(*image)->pool.time, model.pool.time + 5);
    EXPECT_EQ(test::model_of(*image)->devices, model.devices);
}

TEST(Restorer, ThePoolIsNotOlderThanItsDevices) {
    mapping_model model;
    model.devices[1].details = {.creation_time = 2, .snapshotted_time = model.pool.time + 3};
    model.devices[2].details = {.creation_time = model.pool.time + 4,
                                .snapshotted_time = model.pool.time + 4};
    const auto image = test::image_of(model);
    ASSERT_NE(image, nullptr);
    test::expect_clean(*image);
    EXPECT_EQ(test::model_of(*image)->pool.time, model.pool.time + 4);
    EXPECT_EQ(test::model_of(*image)->devices, model.devices);
}

TEST(Restorer, SharedPiecesAreWrittenOnce) {
    io::memory_device image(image_bytes);
    restorer target(image, {});
    pool_header pool = mapping_model().pool;
    pool.data_blocks = 20'000;
    ASSERT_OK(target.begin_pool(pool));
    ASSERT_OK(target.begin_shared("piece"));
    ASSERT_OK(target.run(run_of(1000, 0, 10'000)));
    ASSERT_OK(target.end_shared());
    for (std::uint64_t id = 0; id < 20; ++id) {
        ASSERT_OK(target.begin_device(device_of(id)));
        ASSERT_OK(target.run(run_of(0, 10'000 + 300 * id, 300)));
        ASSERT_OK(target.reference("piece"));
        ASSERT_OK(target.run(run_of(20'000, 16'000 + 100 * id, 100)));
        ASSERT_OK(target.end_device());
    }
    ASSERT_OK(target.end_pool());
    test::expect_clean(image);
    const auto after = test::model_of(image);
    ASSERT_TRUE(after.has_value());
    for (const auto& [id, device] : after->devices) {
        EXPECT_EQ(device.mappings.size(), 10'400U);
        EXPECT_EQ(device.mappings.at(10'999).first, 9999U);
        EXPECT_EQ(device.mappings.at(299).first, 10'299U + 300 * id);
    }
    // 40 leaves for the piece, about 3 more for each device; 20 times the piece would be 800.
    EXPECT_LT(used_metadata_blocks(image), 160U);
}

// Pieces smaller than a third of a leaf, at every place of a device.
TEST(Restorer, NodesAreNeverTooEmpty) {
    random_generator random(test::seed());
    for (int round = 0; round < 60; ++round) {
        io::memory_device image(image_bytes);
        restorer target(image, {});
        pool_header pool = mapping_model().pool;
        pool.data_blocks = 1 << 20;
        ASSERT_OK(target.begin_pool(pool));
        std::vector<std::uint64_t> sizes;
        std::uint64_t at = 0;
        for (int piece = 0; piece < 6; ++piece) {
            sizes.push_back(1 + random.below(random.one_in(2) ? 60 : 700));
            ASSERT_OK(target.begin_shared(std::to_string(piece)));
            ASSERT_OK(target.run(run_of(at, at, sizes.back())));
            ASSERT_OK(target.end_shared());
            at += 2000;
        }
        std::map<std::uint64_t, std::uint64_t> expected;
        for (std::uint64_t id = 0; id < 3; ++id) {
            ASSERT_OK(target.begin_device(device_of(id)));
            for (std::size_t piece = 0; piece < sizes.size(); ++piece) {
                if (!random.one_in(4)) {
                    ASSERT_OK(target.reference(std::to_string(piece)));
                    expected[id] += sizes[piece];
                }
                if (random.one_in(2)) {
                    const std::uint64_t own = 1 + random.below(400);
                    ASSERT_OK(target.run(
                        run_of(2000 * piece + 1000, 100'000 * (id + 1) + 2000 * piece, own)));
                    expected[id] += own;
                }
            }
            ASSERT_OK(target.end_device());
        }
        ASSERT_OK(target.end_pool());
        ASSERT_OK_AND_ASSIGN(const auto view, open_offline(image, {}));
        ASSERT_OK_AND_ASSIGN(const auto report, check_metadata(*view, {}));
        EXPECT_TRUE(report.is_clean());
        for (const auto& finding : report.findings) {
            EXPECT_NE(finding.code, check_code::underfull_node) << finding.text;
        }
        const auto after = test::model_of(image);
        ASSERT_TRUE(after.has_value());
        for (const auto& [id, device] : after->devices) {
            EXPECT_EQ(device.mappings.size(), expected[id]);
            EXPECT_EQ(device.details.mapped_blocks, expected[id]);
        }
    }
}

TEST(Restorer, BrokenOffAtAnyWriteLeavesTheOldPoolOrNone) {
    random_generator random(test::seed());
    const mapping_model old = test::random_model(random, {});
    const mapping_model fresh = test::random_model(random, {});
    for (std::uint64_t writes = 0;; ++writes) {
        const auto image = test::image_of(old);
        ASSERT_NE(image, nullptr);
        test::failing_device device(*image, writes);
        restorer target(device, {});
        if (test::send(fresh, target)) {
            EXPECT_GT(writes, 2U);
            EXPECT_EQ(test::model_of(*image)->devices, fresh.devices);
            break;
        }
        const auto view = open_offline(*image, {});
        if (writes == 0) {
            ASSERT_OK(view);
            EXPECT_EQ(test::model_of(*image)->devices, old.devices);
        } else {
            EXPECT_THAT(view, HasCode(error_code::wrong_block)) << writes;
        }
    }
}

TEST(Restorer, TheSuperblockIsWrittenLastAfterAFlush) {
    random_generator random(test::seed());
    const auto image = test::image_of(test::random_model(random, {}));
    ASSERT_NE(image, nullptr);
    std::string log;
    test::order_device device(*image, log);
    restorer target(device, {});
    ASSERT_OK(test::send(test::random_model(random, {}), target));
    EXPECT_EQ(log, "sfwfsf");
}

TEST(Restorer, RefusesWhatIsNoPool) {
    io::memory_device image(image_bytes);
    const auto begun = [&](auto change) {
        pool_header pool = mapping_model().pool;
        change(pool);
        return restorer(image, {}).begin_pool(pool);
    };
    EXPECT_THAT(begun([](pool_header& pool) { pool.data_block_size_sectors = 100; }),
                HasCode(error_code::invalid_argument));
    EXPECT_THAT(begun([](pool_header& pool) { pool.data_blocks = data_blocks_max + 1; }),
                HasCode(error_code::invalid_argument));
    EXPECT_THAT(begun([](pool_header& pool) { pool.data_blocks = data_blocks_max; }),
                HasCode(error_code::no_metadata_space));
    EXPECT_EQ(image.allocated_bytes(), 0U);

    restorer target(image, {});
    ASSERT_OK(target.begin_pool(mapping_model().pool));
    ASSERT_OK(target.begin_device(device_of(1)));
    EXPECT_THAT(target.run(run_of(0, 995, 6)), HasCode(error_code::invalid_argument));
    mapping_run late = run_of(0, 1, 1);
    late.time = time_limit;
    EXPECT_THAT(target.run(late), HasCode(error_code::invalid_argument));
    EXPECT_THAT(target.reference("none"), HasCode(error_code::invalid_argument));
    ASSERT_OK(target.end_device());
    ASSERT_OK(target.begin_device(device_of(1)));
    EXPECT_THAT(target.end_device(), HasCode(error_code::invalid_argument));
}

TEST(Restorer, OverridesOnlyRaiseTheNumbers) {
    const pool_header given = mapping_model().pool;
    ASSERT_OK_AND_ASSIGN(const auto raised,
                         overridden(given, {.transaction_id = 100, .data_blocks = 5000}));
    EXPECT_EQ(raised.transaction_id, 100U);
    EXPECT_EQ(raised.data_blocks, 5000U);
    ASSERT_OK_AND_ASSIGN(const auto kept,
                         overridden(given, {.transaction_id = 1, .data_blocks = 1}));
    EXPECT_EQ(kept, given);
    EXPECT_THAT(overridden(given, {.data_block_size_sectors = 64}),
                HasCode(error_code::invalid_argument));
}

}  // namespace
}  // namespace uthin::thin_metadata
