// A deletion that had just begun, in a batch that another request broke, ended and kept its device
// open: after a repair it could not be deleted, and the pool not be closed. (Found by reading.)
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using io::operation_kind;
using test::HasCode;
using test::pattern;
using test::pool_rig;

constexpr std::uint64_t block = 64U << 10;

TEST(DeletionInABrokenBatch, LeavesItsDeviceClosed) {
    test::rig_options with;
    with.pool.commit_interval = std::chrono::hours(1);
    pool_rig rig(with);
    for (std::uint64_t id = 1; id < 400; ++id) {  // several leaves
        ASSERT_OK(rig->create_thin(device_id(id)));
    }
    rig.close();
    rig.open();
    const auto volume = rig.make(0, 64 * block);
    ASSERT_OK(volume->write(0, pattern(1, block)));
    // Somebody holds the executor until both requests wait for it: they are one batch then.
    std::atomic<bool> holds = false;
    std::atomic<bool> go_on = false;
    std::thread holder([&] {
        EXPECT_OK(rig->with_metadata([&](metadata&) -> result<void> {
            holds = true;
            while (!go_on) {
                std::this_thread::yield();
            }
            return {};
        }));
    });
    while (!holds) {
        std::this_thread::yield();
    }
    ASSERT_OK(rig->delete_in_background(device_id(1)));
    std::thread breaker(
        [&] { EXPECT_THAT(rig->create_thin(device_id(1000)), HasCode(error_code::io_error)); });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    rig.metadata_faults.arm({.kinds = {operation_kind::read}});
    go_on = true;
    holder.join();
    breaker.join();
    rig.metadata_faults.disarm();
    ASSERT_EQ(rig->mode(), pool_mode::read_only);
    EXPECT_FALSE(rig->wait_for_deletion(device_id(1)));
    ASSERT_OK(rig->clear_needs_check());
    ASSERT_EQ(rig->mode(), pool_mode::write);
    EXPECT_OK(rig->delete_thin(device_id(1)));
}

}  // namespace
}  // namespace uthin
