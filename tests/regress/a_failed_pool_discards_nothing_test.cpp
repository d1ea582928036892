// A pool that had failed, because nobody knew which of two superblocks was durable, went on passing
// discards down: of blocks that are free in the one and a snapshot's in the other. (Found by
// reading.)
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using namespace std::chrono_literals;
using io::operation_kind;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;

constexpr std::uint64_t block = 64ULL << 10;
constexpr std::uint64_t first_blocks = 64;
constexpr std::uint64_t last_blocks = 16;

TEST(FailedPool, PassesNoDiscardDown) {
    test::rig_options with;
    with.pool.discard = discard_mode::passdown;
    with.pool.commit_interval = 1h;
    pool_rig rig(with);
    ASSERT_OK(rig.make(0, first_blocks * block)->write(0, pattern(1, first_blocks * block)));
    ASSERT_OK(rig.make(1, last_blocks * block)->write(0, pattern(2, last_blocks * block)));
    ASSERT_OK(rig->commit());
    // A block every quarter of a second: the trimmer is at the first of them for long.
    rig->set_discard_rate(4 * block);
    ASSERT_OK(rig->delete_thin(device_id(0)));
    std::thread trimming([&] { static_cast<void>(rig->trim()); });
    for (int i = 0; i < 500 && rig->counters().passed_down_blocks == 0; ++i) {
        std::this_thread::sleep_for(5ms);
    }
    ASSERT_LT(rig->counters().passed_down_blocks, first_blocks);

    constexpr std::uint64_t of_the_superblock = 2;
    rig.metadata_faults.arm(
        {.kinds = {operation_kind::flush}, .nth = of_the_superblock, .persistent = true});
    ASSERT_THAT(rig->delete_thin(device_id(1)), HasCode(error_code::io_error));
    ASSERT_EQ(rig->mode(), pool_mode::fail);
    // What the old superblock maps: told of, should anybody touch it.
    rig.data_faults.arm({.kinds = {operation_kind::discard},
                         .persistent = true,
                         .range_begin_bytes = first_blocks * block,
                         .range_end_bytes = (first_blocks + last_blocks) * block});
    rig->set_discard_rate(0);
    trimming.join();
    EXPECT_EQ(rig.data_faults.injected(), 0U);
    rig.metadata_faults.disarm();
    rig.close();
    rig.open();
    ASSERT_OK(rig->repair_leaks());
    EXPECT_EQ(rig->mode(), pool_mode::write);
}

}  // namespace
}  // namespace uthin
