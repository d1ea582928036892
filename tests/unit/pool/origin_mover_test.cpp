// Moving content between a volume and its external origin, below names and catalogue.
#include "pool/origin_mover.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <numeric>
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

// Every word says which block it belongs to: its number, and a count that is never 0.
class words_of_a_block {
public:
    static std::vector<std::byte> make(std::uint64_t block, std::uint64_t count,
                                       std::uint64_t length_bytes) {
        std::vector<std::uint64_t> words(length_bytes / sizeof(std::uint64_t),
                                         (block << 32U) | count);
        std::vector<std::byte> bytes(length_bytes);
        std::memcpy(bytes.data(), words.data(), bytes.size());
        return bytes;
    }
    // Nothing but words of this block, and zeros.
    static bool hold(std::span<const std::byte> bytes, std::uint64_t block) {
        for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
            std::uint64_t word = 0;
            std::memcpy(&word, bytes.data() + at, sizeof word);
            if (word != 0 && word >> 32U != block) {
                return false;
            }
        }
        return true;
    }
};

constexpr std::uint64_t part_bytes = 4096;

// A writer of some blocks that discards them in pieces, too. After a discard its content is what it
// was, or what the origin shows: an earlier content of the same block.
class piecewise_writer {
public:
    piecewise_writer(volume& of, std::uint64_t first, std::uint64_t apart, std::uint64_t seed)
        : volume_(of), first_(first), apart_(apart), random_(seed) {}

    void step() {
        const std::uint64_t block =
            first_ + random_.below((volume_blocks - first_ - 1) / apart_ + 1) * apart_;
        const std::uint64_t begin = block * block_bytes;
        auto& known = known_[block];
        if (known.empty()) {
            known = read_all(volume_, begin, block_bytes);
        }
        ASSERT_TRUE(read_all(volume_, begin, block_bytes) == known) << "block " << block;
        if (random_.one_in(3)) {
            discard_parts(begin);
            known = read_all(volume_, begin, block_bytes);
            ASSERT_TRUE(words_of_a_block::hold(known, block)) << "block " << block;
        } else {
            const std::uint64_t at = random_.below(15) * part_bytes + random_.below(256) * 8;
            const auto bytes = words_of_a_block::make(block, ++count_, 4096);
            ASSERT_OK(volume_.write(begin + at, bytes));
            std::memcpy(known.data() + at, bytes.data(), bytes.size());
        }
    }
    void expect_content() {
        for (const auto& [block, known] : known_) {
            EXPECT_TRUE(read_all(volume_, block * block_bytes, block_bytes) == known) << block;
        }
    }

private:
    // Of the whole block, in any order; sometimes not all.
    void discard_parts(std::uint64_t begin) {
        constexpr std::uint64_t parts = block_bytes / part_bytes;
        std::vector<std::uint64_t> order(parts);
        std::iota(order.begin(), order.end(), 0);
        for (std::uint64_t i = parts; i > 1; --i) {
            std::swap(order[i - 1], order[random_.below(i)]);
        }
        const std::uint64_t count = random_.one_in(3) ? random_.below(parts) : parts;
        for (std::uint64_t i = 0; i < count; ++i) {
            ASSERT_OK(volume_.discard(begin + order[i] * part_bytes, part_bytes));
        }
    }

    volume& volume_;
    const std::uint64_t first_;
    const std::uint64_t apart_;
    random_generator random_;
    std::uint64_t count_ = 0;
    std::map<std::uint64_t, std::vector<std::byte>> known_;
};

TEST(OriginMover, AMergeBesideDiscardsInPiecesMixesUpNoBlocks) {
    pool_rig rig;
    image origin(volume_bytes);
    for (std::uint64_t block = 0; block < volume_blocks; ++block) {
        ASSERT_OK(origin.device.write(block * block_bytes,
                                      words_of_a_block::make(block, UINT32_MAX, block_bytes)));
    }
    const auto volume = origin.make(rig, 0);
    constexpr std::uint64_t writers = 3;
    std::vector<piecewise_writer> all;
    for (std::uint64_t w = 0; w < writers; ++w) {
        all.emplace_back(*volume, w, writers, test::seed() + w);
    }
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (piecewise_writer& one : all) {
        threads.emplace_back([&] {
            while (!stop && !testing::Test::HasFatalFailure()) {
                one.step();
            }
        });
    }
    // What was freed is used at once, so that a block that is moved too late is somebody else's.
    const auto other = rig.make(1, volume_bytes);
    threads.emplace_back([&] {
        for (std::uint64_t i = 0; !stop; ++i) {
            const std::uint64_t at = i % volume_blocks * block_bytes;
            ASSERT_OK(other->write(at, pattern(i, block_bytes)));
            ASSERT_OK(other->discard(at, block_bytes));
        }
    });
    std::uint64_t pieced = 0;
    // On a slow machine the writers are not through with a block as soon.
    for (int round = 0; round < 40 || (pieced == 0 && round < 400); ++round) {
        EXPECT_OK(run(move_direction::down, volume, {}, &origin.faulty));
        ASSERT_OK(rig->commit());
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        pieced = rig->counters().pieced_blocks;
    }
    stop = true;
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_GT(pieced, 0U) << "no block was unmapped in pieces";
    for (piecewise_writer& one : all) {
        one.expect_content();
    }
    EXPECT_OK(run(move_direction::down, volume, {}, &origin.faulty));
    EXPECT_EQ(volume->mapped_blocks().value(), 0U);
    EXPECT_TRUE(origin.bytes(volume_bytes) == read_all(*volume, 0, volume_bytes));
    for (piecewise_writer& one : all) {
        one.expect_content();
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
