#include "io/fault_device.h"

#include <gtest/gtest.h>

#include <vector>

#include "io/memory_device.h"
#include "support/matchers.h"

namespace uthin::test {
namespace {

using io::fault_outcome;
using io::fault_rule;
using io::operation_kind;

class FaultDevice : public ::testing::Test {
protected:
    result<void> write(std::uint64_t offset, std::byte value = std::byte{1}) {
        return device_.write(offset, std::vector<std::byte>(4096, value));
    }
    std::byte byte_at(std::uint64_t offset) {
        std::vector<std::byte> byte(1);
        EXPECT_OK(memory_.read(offset, byte));
        return byte[0];
    }

    io::memory_device memory_{1 << 20};
    io::fault_plan plan_;
    io::fault_device device_{memory_, plan_};
};

TEST_F(FaultDevice, FailsTheNthWriteOnceAndItHasNoEffect) {
    plan_.arm({.kinds = {operation_kind::write}, .nth = 3});
    EXPECT_OK(write(0));
    EXPECT_OK(write(4096));
    const auto failed = write(8192);
    EXPECT_THAT(failed, HasCode(error_code::io_error));
    EXPECT_EQ(failed.error().os_errno(), EIO);
    EXPECT_EQ(byte_at(8192), std::byte{0});
    EXPECT_OK(write(8192));
    EXPECT_EQ(plan_.injected(), 1);
}

TEST_F(FaultDevice, FailsFromTheNthOnUntilDisarmed) {
    plan_.arm({.kinds = {operation_kind::flush}, .nth = 2, .persistent = true});
    EXPECT_OK(device_.flush());
    for (int i = 0; i < 3; ++i) {
        EXPECT_THAT(device_.flush(), HasCode(error_code::io_error));
        EXPECT_OK(write(0)) << "other kinds go on";
    }
    EXPECT_EQ(plan_.injected(), 3);
    plan_.disarm();
    EXPECT_OK(device_.flush());
}

TEST_F(FaultDevice, AShortWriteDoesItsFirstHalfAndFails) {
    plan_.arm({.kinds = {operation_kind::write}, .outcome = fault_outcome::short_transfer});
    EXPECT_THAT(write(0), HasCode(error_code::io_error));
    EXPECT_EQ(byte_at(2047), std::byte{1});
    EXPECT_EQ(byte_at(2048), std::byte{0});
}

TEST_F(FaultDevice, EveryTransferThatIsCutShortDoesItsFirstHalf) {
    const auto arm = [&](operation_kind kind) {
        plan_.arm({.kinds = {kind}, .outcome = fault_outcome::short_transfer});
    };
    EXPECT_OK(write(0));
    std::vector<std::byte> buffer(4096);
    arm(operation_kind::read);
    EXPECT_THAT(device_.read(0, buffer), HasCode(error_code::io_error));
    EXPECT_EQ(buffer[2047], std::byte{1});
    EXPECT_EQ(buffer[2048], std::byte{0});
    arm(operation_kind::discard);
    EXPECT_THAT(device_.discard(0, 4096), HasCode(error_code::io_error));
    EXPECT_EQ(byte_at(2047), std::byte{0});
    EXPECT_EQ(byte_at(2048), std::byte{1});
    EXPECT_OK(write(0));
    arm(operation_kind::write_zeroes);
    EXPECT_THAT(device_.write_zeroes(0, 4096), HasCode(error_code::io_error));
    EXPECT_EQ(byte_at(2047), std::byte{0});
    EXPECT_EQ(byte_at(2048), std::byte{1});
    std::vector<std::byte> twos(4096, std::byte{2});
    arm(operation_kind::write);
    EXPECT_THAT(device_.write_fua(8192, twos), HasCode(error_code::io_error));
    EXPECT_EQ(byte_at(8192 + 2047), std::byte{2});
    EXPECT_EQ(byte_at(8192 + 2048), std::byte{0});
}

TEST_F(FaultDevice, APieceOfABatchThatIsCutShortDoesItsFirstHalf) {
    std::vector<std::byte> ones(4096, std::byte{1});
    const std::vector<io_op> batch = {{io_kind::write, 0, ones}, {io_kind::write, 4096, ones}};
    plan_.arm({.kinds = {operation_kind::write},
               .persistent = true,
               .outcome = fault_outcome::short_transfer});
    const auto ended = device_.run(batch);
    EXPECT_THAT(ended, HasCode(error_code::io_error));
    for (const std::uint64_t begin : {0U, 4096U}) {
        EXPECT_EQ(byte_at(begin + 2047), std::byte{1});
        EXPECT_EQ(byte_at(begin + 2048), std::byte{0});
    }
}

TEST_F(FaultDevice, OutcomesCarryTheirErrno) {
    plan_.arm({.outcome = fault_outcome::no_space});
    EXPECT_EQ(write(0).error().os_errno(), ENOSPC);
    plan_.arm({.outcome = fault_outcome::timed_out});
    EXPECT_EQ(write(0).error().os_errno(), ETIMEDOUT);
}

TEST_F(FaultDevice, ARangeConfinesTheFault) {
    plan_.arm({.kinds = {operation_kind::write, operation_kind::read},
               .persistent = true,
               .range_begin_bytes = 4096,
               .range_end_bytes = 8192});
    EXPECT_OK(write(0));
    EXPECT_OK(write(8192));
    EXPECT_THAT(write(4096), HasCode(error_code::io_error));
    EXPECT_THAT(device_.write(8191, std::vector<std::byte>(1)), HasCode(error_code::io_error));
}

TEST_F(FaultDevice, CountsEveryKind) {
    std::vector<std::byte> bytes(512);
    EXPECT_OK(device_.read(0, bytes));
    EXPECT_OK(write(0));
    EXPECT_OK(device_.write_fua(0, bytes));
    EXPECT_OK(device_.flush());
    EXPECT_OK(device_.discard(0, 4096));
    EXPECT_OK(device_.write_zeroes(0, 4096));
    EXPECT_OK(device_.grow(2 << 20));
    EXPECT_EQ(plan_.count(operation_kind::read), 1);
    EXPECT_EQ(plan_.count(operation_kind::write), 2);
    EXPECT_EQ(plan_.count(operation_kind::flush), 1);
    EXPECT_EQ(plan_.count(operation_kind::discard), 1);
    EXPECT_EQ(plan_.count(operation_kind::write_zeroes), 1);
    EXPECT_EQ(plan_.count(operation_kind::resize), 1);
    EXPECT_EQ(plan_.count(io::operation_kinds::all()), 7);
    plan_.reset_counts();
    EXPECT_EQ(plan_.count(io::operation_kinds::all()), 0);
}

TEST_F(FaultDevice, EveryKindCanFail) {
    std::vector<std::byte> bytes(512);
    plan_.arm({.persistent = true});
    EXPECT_THAT(device_.read(0, bytes), HasCode(error_code::io_error));
    EXPECT_THAT(write(0), HasCode(error_code::io_error));
    EXPECT_THAT(device_.write_fua(0, bytes), HasCode(error_code::io_error));
    EXPECT_THAT(device_.flush(), HasCode(error_code::io_error));
    EXPECT_THAT(device_.discard(0, 512), HasCode(error_code::io_error));
    EXPECT_THAT(device_.write_zeroes(0, 512), HasCode(error_code::io_error));
    EXPECT_THAT(device_.grow(2 << 20), HasCode(error_code::io_error));
    EXPECT_EQ(plan_.injected(), 7);
    EXPECT_EQ(memory_.allocated_bytes(), 0);
}

TEST_F(FaultDevice, OnePieceOfABatchFailsAndTheOthersAreDone) {
    std::vector<std::byte> first(4096, std::byte{1});
    std::vector<std::byte> second(4096, std::byte{2});
    std::vector<std::byte> third(4096, std::byte{3});
    const io_op ops[] = {
        {io_kind::write, 0, first}, {io_kind::write, 4096, second}, {io_kind::write, 8192, third}};
    plan_.arm({.kinds = {operation_kind::write}, .nth = 2});
    EXPECT_THAT(device_.run(ops), HasCode(error_code::io_error));
    EXPECT_EQ(byte_at(0), std::byte{1});
    EXPECT_EQ(byte_at(4096), std::byte{0});
    EXPECT_EQ(byte_at(8192), std::byte{3});
}

// The loop that every fault test uses must end by itself.
TEST_F(FaultDevice, TheNthOperationLoopEndsWhenNothingIsLeftToFail) {
    std::uint64_t n = 1;
    for (;; ++n) {
        plan_.arm({.nth = n});
        const bool done = write(0) && write(4096) && device_.flush();
        if (plan_.injected() == 0) {
            EXPECT_TRUE(done);
            break;
        }
        EXPECT_FALSE(done);
    }
    EXPECT_EQ(n, 4);
}

}  // namespace
}  // namespace uthin::test
