// While a volume was merged into its image, who had found a hole of another volume on that image,
// and was still reading there, read what the merge wrote; and who had been given a place on the
// data device by map() wrote to a block that had been merged already. (Found by reading.)
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "pool/origin_mover.h"
#include "support/hooked_device.h"
#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin::pool_engine {
namespace {

using test::pattern;
using test::pool_rig;
using test::read_all;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t volume_bytes = 8 * block_bytes;

class MergingBesideOthers : public testing::Test {
protected:
    void SetUp() override { ASSERT_OK(image_.write(0, pattern(7, volume_bytes))); }

    std::shared_ptr<volume> make(std::uint64_t id, block_device& origin) {
        EXPECT_OK(rig_->create_thin(device_id(id)));
        auto opened = rig_->open_volume(device_id(id), volume_bytes, false,
                                        std::make_unique<test::borrowed_device>(origin));
        EXPECT_OK(opened);
        return std::move(*opened);
    }

    io::memory_device image_{volume_bytes, "image"};
    test::hooked_device slow_image_{image_};
    pool_rig rig_;
};

TEST_F(MergingBesideOthers, WhoReadsTheImageGetsWhatItWas) {
    const auto target = make(0, image_);
    const auto other = make(1, slow_image_);
    ASSERT_OK(target->write(0, pattern(1, block_bytes)));
    ASSERT_OK(target->flush());
    ASSERT_OK_AND_ASSIGN(const auto mover,
                         origin_mover::begin(move_direction::down, target, {other}, &image_));
    std::atomic<bool> is_reading = false;
    std::atomic<bool> may_read = false;
    slow_image_.before_reads([&] {
        if (is_reading.exchange(true)) {
            return;  // the merge reads, too
        }
        while (!may_read) {
            std::this_thread::yield();
        }
    });
    std::vector<std::byte> read(block_bytes);
    std::thread reader([&] { EXPECT_OK(other->read(0, read)); });
    while (!is_reading) {
        std::this_thread::yield();
    }
    std::thread merger([&] {
        bool done = false;
        while (!done) {
            ASSERT_OK_AND_ASSIGN(done, mover->step([] { return result<void>(); }));
        }
    });
    // Long enough for a merge that does not wait.
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    may_read = true;
    reader.join();
    merger.join();
    EXPECT_EQ(read, pattern(7, block_bytes));
    EXPECT_EQ(read_all(*other, 0, block_bytes), pattern(7, block_bytes));
    EXPECT_EQ(read_all(*target, 0, block_bytes), pattern(1, block_bytes));
}

TEST_F(MergingBesideOthers, WhoMapsToWriteIsSentToTheEngine) {
    const auto target = make(0, image_);
    ASSERT_OK(target->write(0, pattern(1, block_bytes)));
    const auto where = [&](io_kind kind) {
        const auto ticket = target->begin(kind);
        EXPECT_OK(ticket);
        const auto extent = target->map(*ticket, 0, block_bytes);
        EXPECT_OK(extent);
        return extent->where;
    };
    EXPECT_EQ(where(io_kind::write), mapped_extent::place::data_device);
    {
        ASSERT_OK_AND_ASSIGN(const auto mover,
                             origin_mover::begin(move_direction::down, target, {}, &image_));
        EXPECT_EQ(where(io_kind::write), mapped_extent::place::engine);
        EXPECT_EQ(where(io_kind::read), mapped_extent::place::data_device);
    }
    EXPECT_EQ(where(io_kind::write), mapped_extent::place::data_device);
}

}  // namespace
}  // namespace uthin::pool_engine
