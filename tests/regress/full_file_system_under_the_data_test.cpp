// A sparse data file on a full file system: writes failed with EIO, the pool's mode stayed "write"
// and its status said nothing. Now the pool has no data space, with the cause: writes wait or get
// ENOSPC, everything else goes on, and so do writes when there is space again.
#include <atomic>
#include <chrono>
#include <thread>

#include <fmt/format.h>

#include "io/memory_device.h"
#include "support/forwarding_device.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "uthin/pool.h"

namespace uthin {
namespace {

using namespace std::chrono_literals;
using test::all_zero;
using test::HasCode;
using test::pattern;

constexpr std::uint64_t block = 64 << 10;

// Bytes can be changed where some are, unless there is space for more.
class sparse_device final : public test::forwarding_device {
public:
    using forwarding_device::forwarding_device;
    [[nodiscard]] result<void> write(std::uint64_t offset,
                                     std::span<const std::byte> buffer) override {
        if (const int os_errno = full_.load(); os_errno != 0 && offset >= end_.load()) {
            return fail(error_code::io_error, "disk: write failed", os_errno);
        }
        end_.store(std::max(end_.load(), offset + buffer.size()));
        return below().write(offset, buffer);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset, std::uint64_t length) override {
        return write(offset, std::vector<std::byte>(length));
    }
    void fill(int os_errno) { full_.store(os_errno); }
    void make_space() { full_.store(0); }

private:
    std::atomic<int> full_{0};
    std::atomic<std::uint64_t> end_{0};
};

class FullFileSystemUnderTheData : public ::testing::TestWithParam<int> {
protected:
    void open(bool error_if_no_space) {
        pool_options with;
        with.format = true;
        with.data_block_size_sectors = block / sector_size_bytes;
        with.error_if_no_space = error_if_no_space;
        auto opened = pool::open(std::make_unique<test::borrowed_device>(metadata_),
                                 std::make_unique<test::borrowed_device>(disk_), std::move(with),
                                 system_clock());
        ASSERT_OK(opened);
        pool_ = std::move(*opened);
        ASSERT_OK(pool_->start());
        ASSERT_OK(pool_->create_thin(device_id(0)));
        auto volume = pool_->open_volume(device_id(0), 64 * block);
        ASSERT_OK(volume);
        volume_ = std::move(*volume);
        ASSERT_OK(volume_->write(0, pattern(1, 4 * block)));
        ASSERT_OK(volume_->flush());
        disk_.fill(GetParam());
    }
    // What needs no new bytes.
    void expect_the_rest_goes_on() {
        EXPECT_EQ(test::read_all(*volume_, 0, block), pattern(1, block));
        EXPECT_EQ(all_zero(test::read_all(*volume_, 10 * block, block)), true);
        EXPECT_OK(volume_->write(2 * block, pattern(2, block)));
        EXPECT_OK(volume_->flush());
        EXPECT_OK(pool_->create_thin(device_id(1)));
        EXPECT_OK(pool_->delete_thin(device_id(1)));
    }

    io::memory_device metadata_{256 * metadata_block_size_bytes};
    io::memory_device below_{64 * block};
    sparse_device disk_{below_};
    std::unique_ptr<pool> pool_;
    std::shared_ptr<volume> volume_;
};

TEST_P(FullFileSystemUnderTheData, WritesWaitUntilThereIsSpace) {
    open(false);
    std::atomic<bool> ended = false;
    result<void> written;
    std::thread client([&] {
        written = volume_->write(10 * block, pattern(3, block));
        ended = true;
    });
    while (pool_->mode() == pool_mode::write && !ended) {
        std::this_thread::sleep_for(1ms);
    }
    EXPECT_EQ(pool_->mode(), pool_mode::out_of_data_space);
    EXPECT_NE(pool_->mode_cause().find("the data device has no space left: disk: write failed"),
              std::string::npos)
        << pool_->mode_cause();
    expect_the_rest_goes_on();
    EXPECT_EQ(pool_->mode(), pool_mode::out_of_data_space);
    EXPECT_FALSE(ended);

    disk_.make_space();
    client.join();
    ASSERT_OK(written);
    EXPECT_EQ(pool_->mode(), pool_mode::write);
    EXPECT_EQ(test::read_all(*volume_, 10 * block, block), pattern(3, block));
    volume_.reset();
    ASSERT_OK(pool_->close());
}

TEST_P(FullFileSystemUnderTheData, WritesFailWithNoSpaceWhereTheyAreToldTo) {
    open(true);
    const auto refused = volume_->write(10 * block, pattern(3, block));
    ASSERT_THAT(refused, HasCode(error_code::no_data_space));
    EXPECT_EQ(to_io_errno(refused.error()), ENOSPC);
    EXPECT_EQ(pool_->mode(), pool_mode::out_of_data_space);
    expect_the_rest_goes_on();
    EXPECT_EQ(all_zero(test::read_all(*volume_, 10 * block, block)), true);

    disk_.make_space();
    ASSERT_OK(volume_->write(10 * block, pattern(3, block)));
    EXPECT_EQ(pool_->mode(), pool_mode::write);
    volume_.reset();
    ASSERT_OK(pool_->close());
}

INSTANTIATE_TEST_SUITE_P(Of, FullFileSystemUnderTheData, ::testing::Values(ENOSPC, EDQUOT, EFBIG),
                         [](const ::testing::TestParamInfo<int>& of) {
                             return of.param == ENOSPC   ? std::string("ENOSPC")
                                    : of.param == EDQUOT ? std::string("EDQUOT")
                                                         : std::string("EFBIG");
                         });

}  // namespace
}  // namespace uthin
