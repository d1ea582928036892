#include "io/delay_device.h"

#include <gtest/gtest.h>

#include <vector>

#include "io/memory_device.h"
#include "support/matchers.h"

namespace uthin::test {
namespace {

using io::operation_kind;
using std::chrono::milliseconds;

class DelayDevice : public ::testing::Test {
protected:
    void SetUp() override {
        device_.set_delay(operation_kind::read, milliseconds(1));
        device_.set_delay(operation_kind::write, milliseconds(2));
        device_.set_delay(operation_kind::flush, milliseconds(50));
        device_.set_delay(operation_kind::discard, milliseconds(300));
        device_.set_delay(operation_kind::write_zeroes, milliseconds(400));
    }
    // Virtual time that `call` took.
    template <class Call>
    std::chrono::nanoseconds time_of(Call call) {
        const auto before = time_.monotonic();
        EXPECT_OK(call());
        return time_.monotonic() - before;
    }

    io::memory_device memory_{1 << 20};
    manual_clock time_;
    io::delay_device device_{memory_, time_};
    std::vector<std::byte> bytes_ = std::vector<std::byte>(4096, std::byte{5});
};

TEST_F(DelayDevice, EachKindTakesItsOwnTime) {
    EXPECT_EQ(time_of([&] { return device_.read(0, bytes_); }), milliseconds(1));
    EXPECT_EQ(time_of([&] { return device_.write(0, bytes_); }), milliseconds(2));
    EXPECT_EQ(time_of([&] { return device_.flush(); }), milliseconds(50));
    EXPECT_EQ(time_of([&] { return device_.discard(0, 4096); }), milliseconds(300));
    EXPECT_EQ(time_of([&] { return device_.write_zeroes(0, 4096); }), milliseconds(400));
    EXPECT_EQ(time_of([&] { return device_.write_fua(0, bytes_); }), milliseconds(52));
    EXPECT_EQ(time_of([&] { return device_.grow(2 << 20); }), milliseconds(0));
}

TEST_F(DelayDevice, ABatchTakesTheTimeOfItsSlowestPiece) {
    const std::vector<io_op> reads(100, io_op{io_kind::read, 0, bytes_});
    EXPECT_EQ(time_of([&] { return device_.run(reads); }), milliseconds(1));
    std::vector<io_op> mixed = reads;
    mixed.push_back({io_kind::write, 8192, bytes_});
    EXPECT_EQ(time_of([&] { return device_.run(mixed); }), milliseconds(2));
}

TEST_F(DelayDevice, PassesEverythingOn) {
    EXPECT_OK(device_.write(4096, bytes_));
    std::vector<std::byte> seen(4096);
    EXPECT_OK(memory_.read(4096, seen));
    EXPECT_EQ(seen, bytes_);
    EXPECT_EQ(device_.name(), memory_.name());
}

TEST_F(DelayDevice, DelaysCanBeChangedWhileRunning) {
    device_.set_delay(operation_kind::flush, milliseconds(0));
    EXPECT_EQ(time_of([&] { return device_.flush(); }), milliseconds(0));
}

}  // namespace
}  // namespace uthin::test
