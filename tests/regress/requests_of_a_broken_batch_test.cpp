// A request in a batch that another request broke was told the error, and what it had done in
// memory stayed: a deletion that had just begun kept its device open, so that after a repair it
// could not be deleted, and the pool not be closed; a volume that could not be made smaller had the
// new size, and a second try did not cut it; a merge could not be begun again. (Found by reading.)
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "pool/origin_mover.h"
#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using io::operation_kind;
using pool_engine::move_direction;
using pool_engine::origin_mover;
using test::HasCode;
using test::pattern;
using test::pool_rig;

constexpr std::uint64_t block = 64U << 10;
constexpr std::uint64_t volume_bytes = 64 * block;

class BrokenBatch : public testing::Test {
protected:
    void SetUp() override {
        for (std::uint64_t id = 1; id < 400; ++id) {  // several leaves
            ASSERT_OK(rig_->create_thin(device_id(id)));
        }
        rig_.close();
        rig_.open();
        ASSERT_OK(rig_->create_thin(device_id(0)));
        ASSERT_OK_AND_ASSIGN(volume_,
                             rig_->open_volume(device_id(0), volume_bytes, false,
                                               std::make_unique<test::borrowed_device>(image_)));
        ASSERT_OK(volume_->write(volume_bytes - block, pattern(1, block)));
        ASSERT_OK(volume_->flush());
        other_ = rig_.open_volume(1, volume_bytes);
        ASSERT_OK(other_->write(0, pattern(2, block)));  // what the abort undoes
    }

    // Runs `request` in one batch with one that breaks it, and repairs the pool.
    void run_in_broken_batch(const std::function<void()>& request) {
        std::atomic<bool> holds = false;
        std::atomic<bool> go_on = false;
        std::thread holder([&] {
            EXPECT_OK(rig_->with_metadata([&](metadata&) -> result<void> {
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
        std::thread requester(request);
        std::thread breaker([&] {
            EXPECT_THAT(rig_->create_thin(device_id(1000)), HasCode(error_code::io_error));
        });
        std::this_thread::sleep_for(std::chrono::milliseconds(100));  // both wait by then
        rig_.metadata_faults.arm({.kinds = {operation_kind::read}});
        go_on = true;
        holder.join();
        breaker.join();
        requester.join();
        rig_.metadata_faults.disarm();
        ASSERT_EQ(rig_->mode(), pool_mode::read_only);
        ASSERT_OK(rig_->clear_needs_check());
        ASSERT_EQ(rig_->mode(), pool_mode::write);
    }

    static test::rig_options quiet() {
        test::rig_options with;
        with.pool.commit_interval = std::chrono::hours(1);
        return with;
    }

    io::memory_device image_{volume_bytes, "image"};
    pool_rig rig_{quiet()};
    std::shared_ptr<volume> volume_;
    std::shared_ptr<volume> other_;
};

TEST_F(BrokenBatch, LeavesTheDeviceOfADeletionClosed) {
    run_in_broken_batch([&] { EXPECT_OK(rig_->delete_in_background(device_id(2))); });
    EXPECT_FALSE(rig_->wait_for_deletion(device_id(2)));
    EXPECT_OK(rig_->delete_thin(device_id(2)));
}

TEST_F(BrokenBatch, LeavesAVolumeItsSize) {
    constexpr std::uint64_t small_bytes = 2 * block;
    run_in_broken_batch([&] { EXPECT_FALSE(volume_->set_size(small_bytes)); });
    EXPECT_EQ(volume_->size_bytes(), volume_bytes);
    ASSERT_OK(volume_->set_size(small_bytes));
    ASSERT_OK(volume_->set_size(volume_bytes));
    EXPECT_TRUE(test::all_zero(test::read_all(*volume_, volume_bytes - block, block)));
}

TEST_F(BrokenBatch, LeavesTheGatesOfAMergeShutOff) {
    run_in_broken_batch(
        [&] { EXPECT_FALSE(origin_mover::begin(move_direction::down, volume_, {}, &image_)); });
    ASSERT_OK_AND_ASSIGN(const auto mover,
                         origin_mover::begin(move_direction::down, volume_, {}, &image_));
    for (bool done = false; !done;) {
        ASSERT_OK_AND_ASSIGN(done, mover->step([] { return result<void>(); }));
    }
    EXPECT_EQ(test::read_all(*volume_, volume_bytes - block, block), pattern(1, block));
}

}  // namespace
}  // namespace uthin
