// trim() of a pool whose last blocks are in use waited for ever: the step that found nothing free
// woke nobody up. And an allocation that only had to wait for a discard revoked read views.
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"
#include "thin_metadata/metadata_view.h"

namespace uthin {
namespace {

using namespace std::chrono_literals;
using io::operation_kind;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t data_blocks = 64;

test::rig_options small_pool() {
    test::rig_options options;
    options.data_blocks = data_blocks;
    options.pool.error_if_no_space = true;
    options.pool.commit_interval = 1h;
    return options;
}

TEST(TrimOfAUsedEnd, Returns) {
    pool_rig rig(small_pool());
    auto volume = rig.make(0, data_blocks * block_bytes);
    ASSERT_OK(volume->write(0, pattern(1, data_blocks * block_bytes)));
    ASSERT_OK(rig->commit());
    for (int i = 0; i < 2000; ++i) {  // the thread must be faster than the one that waits
        EXPECT_EQ(rig->trim().value(), 0U);
    }
    ASSERT_OK(volume->discard(3 * block_bytes, 2 * block_bytes));
    ASSERT_OK(rig->commit());
    ASSERT_OK(rig->trim());
    EXPECT_GE(rig->counters().passed_down_blocks, 2U);
}

TEST(TrimOfAUsedEnd, AnAllocationWaitsForTheDiscardAndKeepsTheViews) {
    pool_rig rig(small_pool());
    auto volume = rig.make(0, 2 * data_blocks * block_bytes);
    ASSERT_OK(volume->write(0, pattern(1, 60 * block_bytes)));
    ASSERT_OK(rig->commit());
    ASSERT_OK_AND_ASSIGN(const auto view, rig->create_view());
    // Two blocks that the view keeps; four that were never used and are at the device now.
    ASSERT_OK(volume->discard(0, 2 * block_bytes));
    ASSERT_OK(rig->commit());
    rig.slow_data.set_delay(operation_kind::discard, 200ms);
    std::thread trimming([&] { EXPECT_OK(rig->trim()); });
    std::this_thread::sleep_for(50ms);
    ASSERT_OK(volume->write(64 * block_bytes, pattern(2, 4 * block_bytes)));
    EXPECT_FALSE(view->expired());
    trimming.join();
    EXPECT_EQ(read_all(*volume, 64 * block_bytes, 4 * block_bytes), pattern(2, 4 * block_bytes));
}

}  // namespace
}  // namespace uthin
