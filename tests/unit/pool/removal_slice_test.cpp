// What a request has to wait for while a device with many mappings is deleted or discarded.
#include "pool/removal_slice.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "io/memory_device.h"
#include "pool/engine.h"
#include "support/matchers.h"
#include "uthin/pool.h"

namespace uthin::pool_engine {
namespace {

constexpr std::uint64_t mappings = 100'000;
constexpr std::uint64_t leaf_mappings = 252;
// A step visits four leaves; one more may be under way when the request arrives.
constexpr std::uint64_t wait_max = 2 * 5 * leaf_mappings;

// Stands still and calls back whenever it is looked at.
class watched_clock final : public clock {
public:
    std::chrono::nanoseconds monotonic() const override {
        if (looked) {
            looked();
        }
        return std::chrono::nanoseconds(0);
    }
    std::int64_t unix_seconds() const override { return 0; }
    void sleep_for(std::chrono::nanoseconds) override {}

    std::function<void()> looked;
};

// Says how much was left of a device when it arrived and when it was served.
class request final : public work {
public:
    explicit request(std::function<std::uint64_t()> left) : left_(std::move(left)) {
        arrived = left_();
    }
    next run() override {
        served = left_();
        return next::done;
    }

    std::uint64_t arrived = 0;
    std::uint64_t served = 0;

private:
    const std::function<std::uint64_t()> left_;
};

class RemovalSlice : public ::testing::Test {
protected:
    void SetUp() override {
        pool_options options;
        options.format = true;
        options.data_block_size_sectors = 128;
        engine_ = std::make_shared<engine>(
            std::make_unique<io::memory_device>(64ULL << 20),
            std::make_unique<io::memory_device>(2 * mappings * 65536), options, time_);
        ASSERT_OK(engine_->open());
        std::uint64_t next = 0;
        ASSERT_OK(engine_->run(
            [&] {
                return engine_->metadata().build_device(
                    device_id(1), {}, [&]() -> result<std::optional<mapping_run>> {
                        if (next == mappings) {
                            return std::optional<mapping_run>();
                        }
                        const mapping_run one{virtual_block(next), data_block(next), 1, 0};
                        ++next;
                        return std::optional(one);
                    });
            },
            {.alone = true}));
        ASSERT_OK(engine_->commit_all());
    }
    void TearDown() override {
        time_.looked = nullptr;
        EXPECT_OK(engine_->close());
    }

    // From now on a request arrives at every `nth` look at the clock.
    void send_requests(std::uint64_t nth) {
        time_.looked = [this, nth] {
            if (++looks_ % nth == 0 && mapped() != 0) {
                requests_.push_back(std::make_unique<request>([this] { return mapped(); }));
                engine_->worker().submit(queue_, *requests_.back());
            }
        };
    }
    std::uint64_t mapped() const {
        return device_ == nullptr ? 0 : engine_->metadata().mapped_count(*device_).value();
    }
    void expect_served_soon() {
        ASSERT_GT(requests_.size(), 10U);
        for (const auto& one : requests_) {
            engine_->worker().wait_for(*one);
            EXPECT_LE(one->arrived - one->served, wait_max)
                << one->arrived << " were left when it arrived";
        }
    }

    watched_clock time_;
    std::shared_ptr<engine> engine_;
    work_queue queue_;
    thin_device* device_ = nullptr;
    std::vector<std::unique_ptr<request>> requests_;
    std::uint64_t looks_ = 0;
};

TEST_F(RemovalSlice, ARequestBesideADeletionWaitsForOneStep) {
    ASSERT_OK(engine_->run(
        [&]() -> result<void> {
            device_ = UTHIN_TRY(engine_->metadata().open_device(device_id(1)));
            return {};
        },
        {}));
    send_requests(7);
    // Emptied, but not gone: we have it open to count.
    EXPECT_FALSE(engine_->delete_in_background(device_id(1)) &&
                 engine_->wait_for_deletion(device_id(1)));
    EXPECT_EQ(mapped(), 0U);
    expect_served_soon();
    EXPECT_OK(engine_->run(
        [&]() -> result<void> {
            engine_->metadata().close_device(std::exchange(device_, nullptr));
            return {};
        },
        {}));
}

TEST_F(RemovalSlice, ARequestBesideADiscardWaitsForOneStep) {
    const auto volume = engine_->open_volume(device_id(1), mappings * 65536, false, nullptr);
    ASSERT_OK(volume);
    device_ = engine_->find_open(device_id(1))->device;
    send_requests(7);
    EXPECT_OK((*volume)->discard(0, mappings * 65536));
    EXPECT_EQ(mapped(), 0U);
    expect_served_soon();
    device_ = nullptr;
}

// A leaf whose blocks lie in all bitmaps copies them all: what a step may visit has to fit.
TEST(RemovalSliceRoom, AStepVisitsNoMoreLeavesThanThereIsRoomFor) {
    constexpr std::uint64_t data_blocks = 200'000;
    constexpr std::uint64_t leaf_and_bitmaps = 1 + 13;
    constexpr std::uint64_t commit = 12;
    pool_options options;
    options.format = true;
    options.data_block_size_sectors = 128;
    watched_clock time;
    const auto pool = std::make_shared<engine>(
        std::make_unique<io::memory_device>(256 * metadata_block_size_bytes),
        std::make_unique<io::memory_device>(data_blocks * 65536), options, time);
    ASSERT_OK(pool->open());
    std::uint64_t free = 0;
    std::uint64_t leaves = 0;
    const auto look = [&]() -> result<void> {
        free = UTHIN_TRY(pool->metadata().metadata_space()).raw_free_blocks;
        leaves = removal_slice(*pool).step_blocks();
        return {};
    };
    std::set<std::uint64_t> seen;
    for (std::uint64_t id = 0; pool->mode() == pool_mode::write; ++id) {
        static_cast<void>(pool->create_thin(device_id(id)));
        ASSERT_OK(pool->run(look, {.needs = engine::need::nothing, .counts_as_change = false}));
        if (pool->mode() == pool_mode::write) {
            const std::uint64_t room = free < commit ? 0 : (free - commit) / leaf_and_bitmaps;
            EXPECT_EQ(leaves, std::clamp<std::uint64_t>(room, 1, 4)) << free << " blocks are free";
            seen.insert(leaves);
        }
    }
    EXPECT_THAT(seen, testing::IsSupersetOf({3U, 4U})) << "four leaves at first, then fewer";
    EXPECT_OK(pool->close());
}

}  // namespace
}  // namespace uthin::pool_engine
