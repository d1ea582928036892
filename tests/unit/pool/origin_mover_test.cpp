// Moving content between a volume and its external origin, below names and catalogue.
#include "pool/origin_mover.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "base/random.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/seed.h"

namespace uthin::pool_engine {
namespace {

using io::operation_kind;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t volume_blocks = 40;
constexpr std::uint64_t volume_bytes = volume_blocks * block_bytes;

struct image {
    explicit image(std::uint64_t size_bytes)
        : device(size_bytes, "origin"), content(pattern(7, size_bytes)) {
        EXPECT_OK(device.write(0, content));
    }
    std::shared_ptr<volume> open(pool_rig& rig, std::uint64_t id,
                                 std::uint64_t size_bytes = volume_bytes) {
        auto opened = rig->open_volume(device_id(id), size_bytes, false,
                                       std::make_unique<test::borrowed_device>(device));
        EXPECT_OK(opened);
        return std::move(*opened);
    }
    std::shared_ptr<volume> make(pool_rig& rig, std::uint64_t id,
                                 std::uint64_t size_bytes = volume_bytes) {
        EXPECT_OK(rig->create_thin(device_id(id)));
        return open(rig, id, size_bytes);
    }
    [[nodiscard]] std::vector<std::byte> bytes(std::uint64_t count) {
        std::vector<std::byte> all(count);
        EXPECT_OK(device.read(0, all));
        return all;
    }

    io::memory_device device;
    std::vector<std::byte> content;
    io::fault_plan plan;
    io::fault_device faulty{device, plan};
};

result<void> finish_with_nothing() {
    return {};
}

result<void> run(move_direction direction, const std::shared_ptr<volume>& target,
                 std::vector<std::shared_ptr<volume>> others, block_device* origin) {
    const auto mover = UTHIN_TRY(origin_mover::begin(direction, target, std::move(others), origin));
    while (!UTHIN_TRY(mover->step(finish_with_nothing))) {
    }
    return {};
}

TEST(OriginMover, AMergeLeavesTheBytesInTheOriginAndNothingMapped) {
    pool_rig rig;
    image origin(volume_bytes);
    const auto volume = origin.make(rig, 0);
    ASSERT_OK(volume->write(3 * block_bytes + 100, pattern(1, 9 * block_bytes)));
    ASSERT_OK(volume->write(30 * block_bytes, pattern(2, block_bytes)));
    const auto wanted = read_all(*volume, 0, volume_bytes);
    ASSERT_OK(run(move_direction::down, volume, {}, &origin.faulty));
    EXPECT_EQ(volume->mapped_blocks().value(), 0U);
    EXPECT_EQ(read_all(*volume, 0, volume_bytes), wanted);
    EXPECT_EQ(origin.bytes(volume_bytes), wanted);
    EXPECT_GT(origin.plan.count(operation_kind::flush), 0U);
}

TEST(OriginMover, ABlockIsUnmappedOnlyAfterTheOriginsFlush) {
    pool_rig rig;
    image origin(volume_bytes);
    const auto volume = origin.make(rig, 0);
    ASSERT_OK(volume->write(0, pattern(1, 2 * block_bytes)));
    io::fault_rule rule;
    rule.kinds = {operation_kind::flush};
    rule.persistent = true;
    origin.plan.arm(rule);
    EXPECT_THAT(run(move_direction::down, volume, {}, &origin.faulty),
                HasCode(error_code::io_error));
    EXPECT_EQ(volume->mapped_blocks().value(), 2U);
    origin.plan.disarm();
    ASSERT_OK(run(move_direction::down, volume, {}, &origin.faulty));
    EXPECT_EQ(volume->mapped_blocks().value(), 0U);
}

TEST(OriginMover, WhatHasNoPlaceInTheOriginStays) {
    pool_rig rig;
    image origin(5 * block_bytes + 1000);
    const auto volume = origin.make(rig, 0);
    ASSERT_OK(volume->write(4 * block_bytes, pattern(1, block_bytes + 500)));
    auto wanted = read_all(*volume, 0, volume_bytes);
    // Zeros behind the end need no place.
    ASSERT_OK(run(move_direction::down, volume, {}, &origin.faulty));
    EXPECT_EQ(volume->mapped_blocks().value(), 0U);
    EXPECT_EQ(read_all(*volume, 0, volume_bytes), wanted);
    ASSERT_OK(volume->write(5 * block_bytes + 900, pattern(2, 200)));
    ASSERT_OK(volume->write(block_bytes, pattern(2, 200)));
    wanted = read_all(*volume, 0, volume_bytes);
    EXPECT_THAT(run(move_direction::down, volume, {}, &origin.faulty),
                HasCode(error_code::out_of_range));
    EXPECT_EQ(volume->mapped_blocks().value(), 1U);
    EXPECT_EQ(read_all(*volume, 0, volume_bytes), wanted);
}

TEST(OriginMover, NeighboursKeepTheirBytes) {
    test::rig_options options;
    options.pool.zero_new_blocks = false;
    pool_rig rig(options);
    image origin(volume_bytes / 2);
    const auto volume = origin.make(rig, 0);
    const auto bare = origin.make(rig, 1, volume_bytes / 2 - 512);
    ASSERT_OK(volume->write(block_bytes, pattern(1, 4 * block_bytes)));
    ASSERT_OK(rig.snapshot(0, 2));
    const auto sharing = origin.open(rig, 2);
    ASSERT_OK(volume->write(19 * block_bytes, pattern(2, 2000)));
    ASSERT_OK(bare->write(2 * block_bytes + 7, pattern(3, 20)));
    const auto wanted = read_all(*volume, 0, volume_bytes);
    const auto wanted_bare = read_all(*bare, 0, bare->size_bytes());
    const auto wanted_sharing = read_all(*sharing, 0, volume_bytes);
    ASSERT_OK(run(move_direction::down, volume, {bare, sharing}, &origin.faulty));
    EXPECT_EQ(read_all(*volume, 0, volume_bytes), wanted);
    EXPECT_EQ(read_all(*bare, 0, bare->size_bytes()), wanted_bare);
    EXPECT_EQ(read_all(*sharing, 0, volume_bytes), wanted_sharing);
    EXPECT_EQ(volume->mapped_blocks().value(), 0U);
    // Four that changed and one that it had, the last block of the origin.
    EXPECT_EQ(bare->mapped_blocks().value(), 5U);
    EXPECT_EQ(sharing->mapped_blocks().value(), 5U);
}

TEST(OriginMover, AFlattenedVolumeNeedsTheOriginNoMore) {
    for (const std::uint32_t block_sectors : {128U, 384U, 4096U}) {
        test::rig_options options;
        options.block_size_sectors = block_sectors;
        options.data_blocks = 256;
        pool_rig rig(options);
        image origin(volume_bytes - 3 * block_bytes + 512);
        // Not worth a block.
        ASSERT_OK(origin.device.write_zeroes(8 * block_bytes, 8 * block_bytes));
        const auto volume = origin.make(rig, 0, volume_bytes - 512);
        ASSERT_OK(volume->write(3 * block_bytes + 100, pattern(1, 1000)));
        const auto wanted = read_all(*volume, 0, volume->size_bytes());
        ASSERT_OK(run(move_direction::up, volume, {}, nullptr));
        ASSERT_OK(origin.device.write(0, pattern(99, origin.content.size())));
        EXPECT_EQ(read_all(*volume, 0, volume->size_bytes()) == wanted, true) << block_sectors;
        if (block_sectors == 128) {
            EXPECT_EQ(volume->mapped_blocks().value(), 30U);
        }
        EXPECT_THAT(origin_mover::begin(move_direction::up, volume, {}, nullptr),
                    HasCode(error_code::invalid_argument));
    }
}

TEST(OriginMover, WhatIsDiscardedWhileFlatteningStillReadsAsTheOrigin) {
    pool_rig rig;
    image origin(volume_bytes);
    const auto volume = origin.make(rig, 0);
    ASSERT_OK(volume->write(0, pattern(1, volume_bytes)));
    ASSERT_OK_AND_ASSIGN(const auto mover,
                         origin_mover::begin(move_direction::up, volume, {}, nullptr));
    ASSERT_OK(mover->step(finish_with_nothing));
    ASSERT_OK(volume->discard(block_bytes, 2 * block_bytes));
    while (!mover->step(finish_with_nothing).value()) {
    }
    auto wanted = pattern(1, volume_bytes);
    std::copy_n(origin.content.begin() + block_bytes, 2 * block_bytes,
                wanted.begin() + block_bytes);
    EXPECT_EQ(read_all(*volume, 0, volume_bytes), wanted);
}

TEST(OriginMover, AFailingEndKeepsTheOrigin) {
    pool_rig rig;
    image origin(volume_bytes);
    const auto volume = origin.make(rig, 0);
    ASSERT_OK_AND_ASSIGN(const auto mover,
                         origin_mover::begin(move_direction::up, volume, {}, nullptr));
    const auto refuse = []() -> result<void> { return fail(error_code::io_error, "no"); };
    result<bool> done = false;
    while (done && !*done) {
        done = mover->step(refuse);
    }
    EXPECT_THAT(done, HasCode(error_code::io_error));
    ASSERT_OK(volume->discard(0, block_bytes));
    EXPECT_EQ(read_all(*volume, 0, volume_bytes), origin.content);
    while (!mover->step(finish_with_nothing).value()) {
    }
    EXPECT_EQ(read_all(*volume, 0, volume_bytes), origin.content);
}

TEST(OriginMover, APoolThatIsNearlyFullIsLeftAlone) {
    test::rig_options options;
    options.data_blocks = 16;
    pool_rig rig(options);
    image origin(volume_bytes);
    const auto volume = origin.make(rig, 0);
    EXPECT_THAT(run(move_direction::up, volume, {}, nullptr), HasCode(error_code::no_data_space));
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_EQ(read_all(*volume, 0, volume_bytes), origin.content);
}

TEST(OriginMover, TwoAtATimeAreRefused) {
    pool_rig rig;
    image origin(volume_bytes);
    const auto volume = origin.make(rig, 0);
    ASSERT_OK_AND_ASSIGN(const auto first,
                         origin_mover::begin(move_direction::up, volume, {}, nullptr));
    EXPECT_THAT(origin_mover::begin(move_direction::down, volume, {}, &origin.faulty),
                HasCode(error_code::busy));
    // The first one still works.
    while (!first->step(finish_with_nothing).value()) {
    }
}

// Every writer owns its own blocks and knows what they hold; snapshots go on meanwhile for the
// barrier's sake (of another volume: they would be neighbours).
void move_under_load(move_direction direction) {
    pool_rig rig;
    image origin(volume_bytes);
    const auto volume = origin.make(rig, 0);
    const auto other = rig.make(1, volume_bytes);
    constexpr std::uint64_t writers = 3;
    std::vector<std::vector<std::byte>> models(writers, origin.content);
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (std::uint64_t w = 0; w < writers; ++w) {
        threads.emplace_back([&, w] {
            random_generator random(test::seed() + w);
            for (std::uint64_t i = 0; !stop; ++i) {
                const std::uint64_t block = random.below(volume_blocks / writers) * writers + w;
                const std::uint64_t at = block * block_bytes + random.below(block_bytes - 700);
                auto& model = models[w];
                if (random.one_in(8)) {
                    ASSERT_OK(volume->write_zeroes(at, 600));
                    std::memset(model.data() + at, 0, 600);
                } else {
                    const auto bytes = pattern(i * writers + w, 600);
                    ASSERT_OK(volume->write(at, bytes, random.one_in(16)));
                    std::memcpy(model.data() + at, bytes.data(), bytes.size());
                }
                const std::uint64_t look = block * block_bytes;
                EXPECT_EQ(std::memcmp(read_all(*volume, look, block_bytes).data(),
                                      model.data() + look, block_bytes),
                          0);
            }
        });
    }
    threads.emplace_back([&] {
        for (std::uint64_t id = 2; !stop; ++id) {
            ASSERT_OK(other->write(0, pattern(id, 4096)));
            ASSERT_OK(rig.snapshot(1, id));
            ASSERT_OK(rig->delete_thin(device_id(id)));
        }
    });
    const int rounds = direction == move_direction::down ? 6 : 1;
    for (int round = 0; round < rounds; ++round) {
        EXPECT_OK(run(direction, volume, {},
                      direction == move_direction::down ? &origin.faulty : nullptr));
    }
    stop = true;
    for (std::thread& thread : threads) {
        thread.join();
    }
    if (direction == move_direction::down) {
        EXPECT_OK(run(direction, volume, {}, &origin.faulty));
    }
    std::vector<std::byte> wanted = origin.content;
    for (std::uint64_t block = 0; block < volume_blocks; ++block) {
        std::memcpy(wanted.data() + block * block_bytes,
                    models[block % writers].data() + block * block_bytes, block_bytes);
    }
    EXPECT_EQ(read_all(*volume, 0, volume_bytes) == wanted, true);
    if (direction == move_direction::down) {
        EXPECT_EQ(origin.bytes(volume_bytes) == wanted, true);
        EXPECT_EQ(volume->mapped_blocks().value(), 0U);
    }
}

TEST(OriginMover, AMergeUnderConcurrentWritersLosesNothing) {
    move_under_load(move_direction::down);
}

TEST(OriginMover, FlatteningUnderConcurrentWritersLosesNothing) {
    move_under_load(move_direction::up);
}

}  // namespace
}  // namespace uthin::pool_engine
