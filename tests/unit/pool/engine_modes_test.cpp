// The pool's modes: what each does to each operation, and what leads from one to another. The table
// is that of docs/modes.md.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/aligned_buffer.h"
#include "persistent_data/validator.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "thin_metadata/superblock.h"

namespace uthin {
namespace {

using io::operation_kind;
using test::all_zero;
using test::borrowed_device;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;
using test::rig_options;
using namespace std::chrono_literals;

constexpr std::uint64_t block = 64ULL << 10;
constexpr std::uint64_t volume_bytes = 16 * block;
constexpr std::uint64_t origin_bytes = 3 * block + 1536;

rig_options quiet(std::uint64_t data_blocks, std::uint64_t metadata_blocks = 1024) {
    rig_options with;
    with.data_blocks = data_blocks;
    with.metadata_bytes = metadata_blocks * metadata_block_size_bytes;
    with.pool.commit_interval = 1h;
    with.pool.error_if_no_space = true;
    return with;
}

void wait_until_held(pool_rig& rig, std::uint64_t count = 1) {
    while (rig->counters().held_requests < count) {
        std::this_thread::sleep_for(1ms);
    }
}

// Maps blocks of a device of its own until no data block is free.
void fill_data(pool_rig& rig, std::uint64_t id) {
    auto filler = rig.make(id, 4096 * block);
    std::uint64_t at = 0;
    while (auto written = filler->write(at * block, pattern(at, 512))) {
        ++at;
        ASSERT_LT(at, 4096U);
    }
    ASSERT_EQ(rig->mode(), pool_mode::out_of_data_space);
}

void fill_metadata(pool_rig& rig, std::uint64_t first_id) {
    for (std::uint64_t id = first_id; rig->mode() == pool_mode::write; ++id) {
        ASSERT_LT(id, first_id + 4096U) << "the metadata does not become full";
        static_cast<void>(rig->create_thin(device_id(id)));
    }
    ASSERT_EQ(rig->mode(), pool_mode::out_of_metadata_space);
}

// ---- the table

enum column : std::size_t { write, space_queue, space_error, metadata_full, read_only, failed };
constexpr std::array<std::string_view, 6> column_names = {
    "Write", "OutOfDataSpaceQueue", "OutOfDataSpaceError", "OutOfMetadataSpace", "ReadOnly",
    "Fail"};

struct row {
    std::string_view operation;
    std::array<std::string_view, 6> outcomes;
};

// Rows in the order in which they are tried: what might change the mode comes last. "held" waits
// for space, "ignored" succeeds without effect.
constexpr std::array<row, 15> table = {{
    {"read mapped", {"data", "data", "data", "data", "data", "EIO"}},
    {"read unmapped", {"zeros", "zeros", "zeros", "zeros", "zeros", "EIO"}},
    {"read unmapped, origin", {"origin", "origin", "origin", "origin", "origin", "EIO"}},
    {"read across the origin's end", {"origin", "origin", "origin", "origin", "origin", "EIO"}},
    {"read beyond the origin", {"zeros", "zeros", "zeros", "zeros", "zeros", "EIO"}},
    {"write mapped, unshared", {"ok", "ok", "ok", "ok", "ok", "EIO"}},
    {"flush, clean", {"ok", "ok", "ok", "ok", "ok", "EIO"}},
    {"flush, changed", {"ok", "ok", "ok", "ok", "EIO", "EIO"}},
    {"fua write, mapped", {"ok", "ok", "ok", "ok", "ok", "EIO"}},
    {"write shared", {"ok", "held", "ENOSPC", "ENOSPC", "EIO", "EIO"}},
    {"write unmapped", {"ok", "held", "ENOSPC", "ENOSPC", "EIO", "EIO"}},
    {"zero unmapped", {"ok", "ok", "ok", "ok", "ok", "EIO"}},
    {"discard of a part of a block", {"ok", "ok", "ok", "ok", "ok", "EIO"}},
    {"create", {"ok", "ok", "ok", "ENOSPC", "EPERM", "EINVAL"}},
    {"discard a whole block", {"unmapped", "unmapped", "unmapped", "unmapped", "ignored", "EIO"}},
}};

std::string word_of(const result<void>& outcome) {
    if (outcome) {
        return "ok";
    }
    const int number = to_io_errno(outcome.error());
    return number == EIO ? "EIO" : number == ENOSPC ? "ENOSPC" : "errno " + std::to_string(number);
}

class OperationTable : public ::testing::TestWithParam<std::size_t> {
protected:
    void SetUp() override {
        volume_ = rig_.make(0, volume_bytes);
        clean_ = rig_.make(1, volume_bytes);
        changed_ = rig_.make(2, volume_bytes);
        ASSERT_OK(origin_.write(0, origin_content_));
        ASSERT_OK(rig_->create_thin(device_id(3)));
        auto opened = rig_->open_volume(device_id(3), volume_bytes, false,
                                        std::make_unique<borrowed_device>(origin_));
        ASSERT_OK(opened);
        based_ = *opened;
        ASSERT_OK(volume_->write(block, pattern(1, block)));
        ASSERT_OK(rig_.snapshot(0, 4));
        ASSERT_OK(volume_->write(0, pattern(2, block)));
        ASSERT_OK(volume_->flush());
        ASSERT_OK(clean_->flush());
        ASSERT_OK(changed_->write(0, pattern(3, block)));
        enter();
    }
    void TearDown() override {
        volume_.reset();
        clean_.reset();
        changed_.reset();
        based_.reset();
        if (GetParam() == failed) {
            static_cast<void>(rig_->close());
            rig_.drop();
            rig_.metadata_faults.disarm();
        }
    }
    void enter() {
        switch (GetParam()) {
            case write: break;
            case space_queue:
                fill_data(rig_, 100);
                rig_->set_error_if_no_space(false);
                break;
            case space_error: fill_data(rig_, 100); break;
            case metadata_full: fill_metadata(rig_, 100); break;
            case read_only:
                rig_.metadata_faults.arm({.kinds = {operation_kind::write}});
                ASSERT_FALSE(rig_->commit());
                ASSERT_EQ(rig_->mode(), pool_mode::read_only);
                break;
            default:
                rig_.metadata_faults.arm({.persistent = true});
                ASSERT_FALSE(rig_->commit());
                ASSERT_EQ(rig_->mode(), pool_mode::fail);
        }
    }
    std::string read(volume& from, std::uint64_t offset, std::span<const std::byte> origin = {}) {
        std::vector<std::byte> bytes(4096, std::byte{0xee});
        if (auto done = from.read(offset, bytes); !done) {
            return word_of(done);
        }
        if (all_zero(bytes)) {
            return "zeros";
        }
        std::vector<std::byte> wanted(bytes.size());
        std::copy_n(origin.begin(), std::min(origin.size(), wanted.size()), wanted.begin());
        return bytes == wanted ? "origin" : "data";
    }
    // A request that may be held; if it is, it is let go with ENOSPC.
    std::string try_write(volume& to, std::uint64_t offset) {
        std::atomic<bool> ended{false};
        std::string word;
        std::thread writer([&] {
            word = word_of(to.write(offset, pattern(9, 512)));
            ended = true;
        });
        while (!ended && rig_->counters().held_requests == 0) {
            std::this_thread::sleep_for(1ms);
        }
        const bool held = !ended;
        if (held) {
            rig_->set_error_if_no_space(true);
        }
        writer.join();
        if (held) {
            rig_->set_error_if_no_space(false);
            EXPECT_EQ(word, "ENOSPC");
            return "held";
        }
        return word;
    }
    std::string create() {
        const auto made = rig_->create_thin(device_id(50));
        const int number = made ? 0 : made.error().to_errno();
        return made               ? "ok"
               : number == ENOSPC ? "ENOSPC"
               : number == EPERM  ? "EPERM"
               : number == EINVAL ? "EINVAL"
                                  : "errno " + std::to_string(number);
    }
    std::string discard() {
        const auto before = volume_->mapped_blocks();
        if (auto done = volume_->discard(0, block); !done) {
            return word_of(done);
        }
        return volume_->mapped_blocks().value() < before.value() ? "unmapped" : "ignored";
    }
    std::string perform(std::string_view operation) {
        const std::span<const std::byte> origin(origin_content_);
        const std::uint64_t tail = origin_bytes - 512;
        if (operation == "read mapped")
            return read(*volume_, 0);
        if (operation == "read unmapped")
            return read(*volume_, 5 * block);
        if (operation == "read unmapped, origin")
            return read(*based_, 100, origin.subspan(100));
        if (operation == "read across the origin's end") {
            return read(*based_, tail, origin.subspan(tail));
        }
        if (operation == "read beyond the origin")
            return read(*based_, 8 * block);
        if (operation == "write mapped, unshared") {
            return word_of(volume_->write(7, pattern(4, 100)));
        }
        if (operation == "flush, clean")
            return word_of(clean_->flush());
        if (operation == "flush, changed")
            return word_of(changed_->flush());
        if (operation == "fua write, mapped") {
            return word_of(volume_->write(0, pattern(2, 512), true));
        }
        if (operation == "write shared")
            return try_write(*volume_, block);
        if (operation == "write unmapped")
            return try_write(*volume_, 5 * block);
        if (operation == "zero unmapped") {
            return word_of(clean_->write_zeroes(6 * block, 2 * block, {}));
        }
        if (operation == "discard of a part of a block") {
            return word_of(volume_->discard(block / 2, block));
        }
        return operation == "create" ? create() : discard();
    }

    const std::vector<std::byte> origin_content_ = pattern(5, origin_bytes);
    io::memory_device origin_{origin_bytes, "origin"};
    pool_rig rig_{GetParam() == metadata_full ? quiet(64, 128) : quiet(16)};
    std::shared_ptr<volume> volume_;   // block 0 its own, block 1 shared
    std::shared_ptr<volume> clean_;    // nothing mapped
    std::shared_ptr<volume> changed_;  // block 0 mapped by the open transaction
    std::shared_ptr<volume> based_;    // on the external origin, nothing mapped
};

TEST_P(OperationTable, IsAsDocumented) {
    const pool_mode mode = rig_->mode();
    for (const row& one : table) {
        EXPECT_EQ(perform(one.operation), one.outcomes.at(GetParam())) << one.operation;
        if (one.operation != "discard a whole block") {
            EXPECT_EQ(rig_->mode(), mode) << one.operation;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Modes, OperationTable, ::testing::Range<std::size_t>(0, 6),
                         [](const auto& column) {
                             return std::string(column_names.at(column.param));
                         });

// ---- out of data space

TEST(ModeTransition, ToOutOfDataSpaceComesOnlyWhenACommitFreesNothing) {
    pool_rig rig(quiet(8));
    auto volume = rig.make(0, volume_bytes);
    ASSERT_OK(volume->write(0, pattern(1, 8 * block)));
    ASSERT_OK(volume->discard(0, block));  // free after the next commit
    ASSERT_OK(volume->write(10 * block, pattern(1, 512)));
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_THAT(volume->write(11 * block, pattern(1, 512)), HasCode(error_code::no_data_space));
    EXPECT_EQ(rig->mode(), pool_mode::out_of_data_space);
}

// A held write goes on whichever way space comes.
class HeldWrites : public ::testing::Test {
protected:
    void SetUp() override {
        volume_ = rig_.make(0, volume_bytes);
        ASSERT_OK(rig_.make(1, volume_bytes)->write(0, pattern(1, 2 * block)));
        ASSERT_OK(volume_->write(0, pattern(2, 6 * block)));
        for (std::uint64_t i = 0; i < 2; ++i) {
            writers_.emplace_back(
                [this, i] { EXPECT_OK(volume_->write((8 + i) * block, pattern(10 + i, block))); });
        }
        wait_until_held(rig_, 2);
        ASSERT_EQ(rig_->mode(), pool_mode::out_of_data_space);
    }
    void TearDown() override {
        for (std::thread& writer : writers_) {
            writer.join();
        }
        EXPECT_EQ(rig_->mode(), pool_mode::write);
        for (std::uint64_t i = 0; i < 2; ++i) {
            EXPECT_EQ(read_all(*volume_, (8 + i) * block, block), pattern(10 + i, block));
        }
    }
    static rig_options queueing() {
        rig_options with = quiet(8);
        with.pool.error_if_no_space = false;
        with.pool.no_space_timeout = 0s;
        return with;
    }
    pool_rig rig_{queueing()};
    std::shared_ptr<volume> volume_;
    std::vector<std::thread> writers_;
};

TEST_F(HeldWrites, GoOnAfterADiscard) {
    ASSERT_OK(volume_->discard(0, 2 * block));
}

TEST_F(HeldWrites, GoOnAfterADeletion) {
    ASSERT_OK(rig_->delete_in_background(device_id(1)));
}

TEST_F(HeldWrites, GoOnAfterGrowth) {
    ASSERT_OK(rig_.data.grow(10 * block));
    ASSERT_OK(rig_->grow_data());
}

TEST(HoldLimit, LetsSoManyWaitAndFailsTheRest) {
    rig_options with = quiet(4);
    with.pool.error_if_no_space = false;
    with.pool.no_space_timeout = 0s;
    pool_rig rig(with);
    auto volume = rig.make(0, 64 * block);
    ASSERT_OK(volume->write(0, pattern(1, 4 * block)));
    // All of them begin before the pool is known to be full.
    hold_limit limit(3);
    std::atomic<int> refused{0};
    std::vector<std::thread> writers;
    for (std::uint64_t i = 0; i < 10; ++i) {
        writers.emplace_back([&, i] {
            const bool zeros = i % 2 == 1;
            const auto done =
                zeros ? volume->write_zeroes((10 + i) * block, block,
                                             {.may_unmap = false, .holds = &limit})
                      : volume->write((10 + i) * block, pattern(i, block), false, &limit);
            if (!done) {
                EXPECT_THAT(done, HasCode(error_code::no_data_space));
                ++refused;
            }
        });
    }
    while (refused < 7) {
        std::this_thread::sleep_for(1ms);
    }
    wait_until_held(rig, 3);
    ASSERT_OK(volume->discard(0, 4 * block));
    for (std::thread& writer : writers) {
        writer.join();
    }
    EXPECT_EQ(refused, 7);
    EXPECT_TRUE(limit.take());
    limit.leave();
}

TEST(ModeTransition, TheTimeoutComesWhetherOrNotAnybodyWaits) {
    rig_options with = quiet(4);
    with.pool.error_if_no_space = false;
    with.pool.no_space_timeout = 150ms;
    pool_rig rig(with);
    auto volume = rig.make(0, volume_bytes);
    EXPECT_THAT(volume->write(0, pattern(1, 5 * block)), HasCode(error_code::no_data_space));
    EXPECT_EQ(rig->mode(), pool_mode::out_of_data_space);
    EXPECT_TRUE(rig->status()->error_if_no_space);
    // The event comes after what it tells.
    std::uint64_t before = 0;
    for (bool told = false; !told;) {
        const pool_events seen = rig->events(before, 10s);
        ASSERT_FALSE(seen.events.empty());
        told = std::ranges::any_of(
            seen.events, [](const auto& one) { return one.event == pool_event::no_space_timeout; });
        before = seen.last;
    }
    // Back to waiting, with the time begun anew; nobody writes.
    rig->set_error_if_no_space(false);
    EXPECT_FALSE(rig->status()->error_if_no_space);
    const pool_events events = rig->events(before, 10s);
    ASSERT_EQ(events.events.size(), 1U);
    EXPECT_EQ(events.events[0].event, pool_event::no_space_timeout);
    EXPECT_EQ(events.events[0].mode, pool_mode::out_of_data_space);
    EXPECT_TRUE(rig->status()->error_if_no_space);
    // The setting returns with the write mode.
    rig->set_no_space_timeout(0s);
    ASSERT_OK(volume->discard(0, block));
    ASSERT_OK(rig->commit());
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_FALSE(rig->status()->error_if_no_space);
    std::thread writer([&] { EXPECT_OK(volume->write(8 * block, pattern(1, 2 * block))); });
    wait_until_held(rig);
    ASSERT_OK(volume->discard(block, block));
    writer.join();
}

TEST(ModeTransition, ATimeoutThatIsSetLaterCountsFromTheBeginningOfTheShortage) {
    rig_options with = quiet(4);
    with.pool.error_if_no_space = false;
    with.pool.no_space_timeout = 0s;
    pool_rig rig(with);
    auto volume = rig.make(0, volume_bytes);
    std::thread writer([&] {
        EXPECT_THAT(volume->write(0, pattern(1, 5 * block)), HasCode(error_code::no_data_space));
    });
    wait_until_held(rig);
    rig->set_no_space_timeout(1ms);
    writer.join();
}

// ---- out of metadata space

TEST(ModeTransition, ToOutOfMetadataSpaceNeedsNoCheckAndGrowthEndsIt) {
    pool_rig rig(quiet(64, 128));
    fill_metadata(rig, 0);
    EXPECT_FALSE(rig->status()->needs_check);
    ASSERT_OK(rig.metadata.grow(256 * metadata_block_size_bytes));
    ASSERT_OK(rig->grow_metadata());
    EXPECT_EQ(rig->mode(), pool_mode::write);
    ASSERT_OK(rig->create_thin(device_id(9000)));
}

TEST(ModeTransition, OutOfDataSpaceToOutOfMetadataSpaceAndBack) {
    pool_rig rig(quiet(4, 128));
    fill_data(rig, 5000);
    std::uint64_t id = 0;
    for (; rig->mode() == pool_mode::out_of_data_space; ++id) {
        ASSERT_LT(id, 4096U);
        static_cast<void>(rig->create_thin(device_id(id)));
    }
    EXPECT_EQ(rig->mode(), pool_mode::out_of_metadata_space);
    auto filler = rig.open_volume(5000, 4096 * block);
    EXPECT_THAT(filler->write(100 * block, pattern(1, 1)), HasCode(error_code::no_metadata_space));
    for (; id > 0 && rig->mode() != pool_mode::write; --id) {
        static_cast<void>(rig->delete_thin(device_id(id - 1)));
    }
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_THAT(filler->write(100 * block, pattern(1, 1)), HasCode(error_code::no_data_space));
    EXPECT_EQ(rig->mode(), pool_mode::out_of_data_space);
}

TEST(ModeTransition, WithoutZeroingAFullMetadataDeviceIsNoFailure) {
    rig_options with = quiet(512, 128);
    with.pool.zero_new_blocks = false;
    pool_rig rig(with);
    result<void> done;
    for (std::uint64_t id = 0; done; ++id) {
        ASSERT_LT(id, 256U);
        done = rig->create_thin(device_id(id));
        if (done) {
            done = rig.open_volume(id, volume_bytes)->write(0, pattern(id, 512));
        }
    }
    EXPECT_THAT(done, HasCode(error_code::no_metadata_space));
    EXPECT_EQ(rig->mode(), pool_mode::out_of_metadata_space);
    EXPECT_FALSE(rig->status()->needs_check);
    ASSERT_OK(rig.metadata.grow(256 * metadata_block_size_bytes));
    ASSERT_OK(rig->grow_metadata());
    EXPECT_OK(rig.open_volume(0, volume_bytes)->write(8 * block, pattern(1, 512)));
}

// ---- failures

void expect_read_only_over_a_reopening(pool_rig& rig) {
    EXPECT_EQ(rig->mode(), pool_mode::read_only);
    EXPECT_TRUE(rig->status()->needs_check);
    rig.close();
    rig.open();
    EXPECT_EQ(rig->mode(), pool_mode::read_only);
    EXPECT_TRUE(rig->status()->needs_check);
    EXPECT_THAT(rig->grow_data(), HasCode(error_code::needs_check));
    EXPECT_THAT(rig->grow_metadata(), HasCode(error_code::needs_check));
}

TEST(ModeTransition, AFailedCommitEndsEveryWritableModeInReadOnly) {
    for (const bool space : {false, true}) {
        pool_rig rig(quiet(8));
        auto volume = rig.make(0, volume_bytes);
        ASSERT_OK(volume->write(0, pattern(1, block)));
        ASSERT_OK(rig->commit());
        if (space) {
            fill_data(rig, 1);
        }
        // A full pool commits of its own accord.
        rig.metadata_faults.arm({.kinds = {operation_kind::write}});
        ASSERT_OK(
            rig->with_metadata([](metadata& stored) { return stored.set_transaction_id(0, 5); }));
        EXPECT_FALSE(rig->commit());
        EXPECT_EQ(read_all(*volume, 0, block), pattern(1, block));
        volume.reset();
        expect_read_only_over_a_reopening(rig);
        EXPECT_EQ(rig->status()->transaction_id, 0U);
    }
}

TEST(ModeTransition, AFailedCommitOfAFullMetadataDeviceEndsInReadOnly) {
    pool_rig rig(quiet(8, 128));
    fill_metadata(rig, 0);
    rig.metadata_faults.arm({.kinds = {operation_kind::write}});
    EXPECT_THAT(rig->delete_thin(device_id(0)), HasCode(error_code::io_error));
    expect_read_only_over_a_reopening(rig);
    EXPECT_OK(rig->open_volume(device_id(0), block));  // it was not deleted
}

TEST(ModeTransition, AFailedReadWithinAChangeEndsInReadOnly) {
    pool_rig rig(quiet(64));
    {
        auto volume = rig.make(0, 64 * block);
        ASSERT_OK(volume->write(0, pattern(1, 40 * block)));
    }
    rig.close();
    rig.open();
    // Without a change there would be nothing to undo: tests/regress/unreadable_metadata_*.
    ASSERT_OK(rig.make(1, block)->write(0, pattern(2, block)));
    rig.metadata_faults.arm({.kinds = {operation_kind::read}});
    EXPECT_FALSE(rig->delete_thin(device_id(0)));
    expect_read_only_over_a_reopening(rig);
    EXPECT_EQ(rig->status()->data_used_blocks, 40U);
}

TEST(ModeTransition, ToFailIsFinalAndAnotherOpeningBeginsAtTheLastCommit) {
    pool_rig rig(quiet(8));
    auto volume = rig.make(0, volume_bytes);
    ASSERT_OK(volume->write(0, pattern(1, block)));
    ASSERT_OK(volume->flush());
    ASSERT_OK(volume->write(block, pattern(2, block)));
    rig.metadata_faults.arm({.persistent = true});
    EXPECT_FALSE(rig->commit());
    EXPECT_EQ(rig->mode(), pool_mode::fail);
    rig.metadata_faults.disarm();
    EXPECT_FALSE(rig->commit());
    EXPECT_FALSE(rig->grow_data());
    EXPECT_EQ(rig->mode(), pool_mode::fail);
    volume.reset();
    static_cast<void>(rig->close());
    rig.drop();
    rig.open();
    // That a check is needed could not be written.
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_FALSE(rig->status()->needs_check);
    volume = rig.open_volume(0, volume_bytes);
    EXPECT_EQ(read_all(*volume, 0, block), pattern(1, block));
    EXPECT_TRUE(all_zero(read_all(*volume, block, block)));
}

// Everything that an abort reads anew, as another opening sees it.
struct pool_figures {
    std::uint64_t transaction_id;
    std::uint32_t time;
    std::uint64_t data_blocks;
    std::uint64_t data_used;
    std::uint64_t metadata_blocks;
    std::uint64_t metadata_used;
    std::vector<std::pair<std::uint64_t, device_details>> devices;
    bool operator==(const pool_figures&) const = default;
};

pool_figures figures_of(pool_rig& rig) {
    const pool_status now = *rig->status();
    pool_figures figures{now.transaction_id,
                         now.time,
                         now.data_total_blocks,
                         now.data_used_blocks,
                         now.metadata_total_blocks,
                         now.metadata_used_blocks,
                         {}};
    const auto devices = rig->list_devices();
    for (const thin_device_info& device : *devices) {
        figures.devices.emplace_back(device.id.value(), device.details);
    }
    return figures;
}

TEST(ModeTransition, AnAbortLeavesWhatAnotherOpeningFinds) {
    pool_rig rig(quiet(64));
    auto volume = rig.make(0, volume_bytes);
    auto other = rig.make(1, volume_bytes);
    ASSERT_OK(volume->write(0, pattern(1, 4 * block)));
    ASSERT_OK(rig.snapshot(0, 2));
    const pool_figures before = figures_of(rig);
    // One of each kind of change, none of them durable.
    ASSERT_OK(volume->write(0, pattern(2, 6 * block)));
    ASSERT_OK(volume->discard(3 * block, block));
    ASSERT_OK(other->write(0, pattern(3, block)));
    ASSERT_OK(rig->with_metadata([](metadata& stored) -> result<void> {
        UTHIN_TRY(stored.set_transaction_id(0, 77));
        UTHIN_TRY(stored.create_thin(device_id(8)));
        UTHIN_TRY(stored.create_snap(device_id(9), device_id(0)));
        return stored.delete_thin(device_id(2));
    }));
    EXPECT_NE(figures_of(rig), before);
    // The growth is the last change, and its commit fails.
    ASSERT_OK(rig.data.grow(100 * block));
    rig.metadata_faults.arm({.kinds = {operation_kind::write}});
    EXPECT_FALSE(rig->grow_data());
    ASSERT_EQ(rig->mode(), pool_mode::read_only);
    EXPECT_EQ(figures_of(rig), before);
    EXPECT_EQ(*volume->mapped_blocks(), 4U);
    EXPECT_EQ(*other->mapped_blocks(), 0U);
    EXPECT_EQ(read_all(*volume, 0, 4 * block), pattern(1, 4 * block));
    EXPECT_THAT(volume->flush(), HasCode(error_code::io_error));
    EXPECT_THAT(other->flush(), HasCode(error_code::io_error));
    volume.reset();
    other.reset();
    rig.close();
    rig.open();
    EXPECT_EQ(figures_of(rig), before);
}

TEST(ModeTransition, HeldWritesFailWhenThePoolBecomesReadOnly) {
    rig_options with = quiet(4);
    with.pool.error_if_no_space = false;
    with.pool.no_space_timeout = 0s;
    pool_rig rig(with);
    auto volume = rig.make(0, volume_bytes);
    ASSERT_OK(volume->write(0, pattern(1, 4 * block)));
    std::thread writer([&] {
        const auto done = volume->write(8 * block, pattern(1, block));
        ASSERT_FALSE(done);
        EXPECT_EQ(to_io_errno(done.error()), EIO);
    });
    wait_until_held(rig);
    rig.metadata_faults.arm({.kinds = {operation_kind::write}});
    ASSERT_OK(rig->with_metadata([](metadata& stored) { return stored.set_transaction_id(0, 5); }));
    EXPECT_FALSE(rig->commit());
    writer.join();
    EXPECT_EQ(rig->mode(), pool_mode::read_only);
}

TEST(ModeTransition, HeldWritesFailWhenThePoolIsClosed) {
    rig_options with = quiet(4);
    with.pool.error_if_no_space = false;
    with.pool.no_space_timeout = 0s;
    pool_rig rig(with);
    auto volume = rig.make(0, volume_bytes);
    ASSERT_OK(volume->write(0, pattern(1, 4 * block)));
    std::thread writer([&] { EXPECT_FALSE(volume->write(8 * block, pattern(1, block))); });
    wait_until_held(rig);
    ASSERT_OK(rig->close());
    writer.join();
    volume.reset();
    rig.drop();
}

// ---- the counter of snapshots

void set_stored_time(block_device& device, std::uint32_t time) {
    aligned_buffer raw(metadata_block_size_bytes);
    ASSERT_OK(device.read(0, raw.span()));
    const persistent_data::block_bytes bytes(raw.data(), metadata_block_size_bytes);
    ASSERT_OK_AND_ASSIGN(auto superblock,
                         thin_metadata::check_superblock(metadata_block(0), bytes));
    superblock.time = time;
    thin_metadata::store_superblock(superblock, bytes);
    persistent_data::prepare_block(persistent_data::block_kind::superblock, metadata_block(0),
                                   bytes);
    ASSERT_OK(device.write(0, raw.span()));
}

TEST(ModeTransition, AUsedUpCounterRefusesSnapshotsAndNothingElse) {
    constexpr std::uint32_t time_max = (1U << 24) - 1;
    pool_rig rig(quiet(64));
    ASSERT_OK(rig.make(0, volume_bytes)->write(0, pattern(1, block)));
    rig.close();
    set_stored_time(rig.metadata, time_max - 1);
    rig.open();
    auto volume = rig.open_volume(0, volume_bytes);
    ASSERT_OK(rig.snapshot(0, 1));
    EXPECT_EQ(rig->status()->time, time_max);
    const auto refused = rig.snapshot(0, 2);
    ASSERT_THAT(refused, HasCode(error_code::out_of_range));
    EXPECT_NE(refused.error().message().find("snapshot"), std::string::npos)
        << refused.error().message();
    EXPECT_THAT(rig->rollback(device_id(0), device_id(1), device_id(2)),
                HasCode(error_code::out_of_range));
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_OK(volume->write(0, pattern(2, block)));
    EXPECT_OK(rig->create_thin(device_id(2)));
    EXPECT_EQ(read_all(*rig.open_volume(1, volume_bytes), 0, block), pattern(1, block));
}

}  // namespace
}  // namespace uthin
