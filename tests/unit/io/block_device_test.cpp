#include "uthin/block_device.h"

#include <gtest/gtest.h>

#include <vector>

#include "io/fault_device.h"
#include "io/memory_device.h"
#include "support/matchers.h"

namespace uthin::test {
namespace {

// A device that brings only what every device must.
class plain_device final : public block_device {
public:
    explicit plain_device(block_device& below) : below_(below) {}
    [[nodiscard]] std::string name() const override { return "plain"; }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override { return below_.size_bytes(); }
    [[nodiscard]] device_capabilities capabilities() const override {
        return below_.capabilities();
    }
    [[nodiscard]] result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        return below_.read(offset, buffer);
    }
    [[nodiscard]] result<void> write(std::uint64_t offset,
                                     std::span<const std::byte> buffer) override {
        return below_.write(offset, buffer);
    }
    [[nodiscard]] result<void> flush() override { return below_.flush(); }
    [[nodiscard]] result<void> discard(std::uint64_t offset, std::uint64_t length) override {
        return below_.discard(offset, length);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset, std::uint64_t length) override {
        return below_.write_zeroes(offset, length);
    }

private:
    block_device& below_;
};

class PlainDevice : public ::testing::Test {
protected:
    io::memory_device memory_{64 << 10};
    io::fault_plan plan_;
    io::fault_device faulty_{memory_, plan_};
    plain_device device_{faulty_};
    std::vector<std::byte> ones_ = std::vector<std::byte>(512, std::byte{1});
};

TEST_F(PlainDevice, DoesEveryPieceOfABatchAndTellsTheFirstFailure) {
    std::vector<std::byte> read(512);
    const std::vector<io_op> batch = {{io_kind::write, 0, ones_},
                                      {io_kind::write, 512, ones_},
                                      {io_kind::write, 1024, ones_},
                                      {io_kind::read, 1024, read}};
    plan_.arm({.kinds = {io::operation_kind::write},
               .nth = 1,
               .outcome = io::fault_outcome::no_space,
               .range_begin_bytes = 512,
               .range_end_bytes = 1024});
    EXPECT_EQ(device_.run(batch).error().os_errno(), ENOSPC);
    EXPECT_EQ(read, ones_);
    EXPECT_OK(device_.run(batch));
}

TEST_F(PlainDevice, AWriteThatMustBeDurableIsAWriteAndAFlush) {
    EXPECT_OK(device_.write_fua(0, ones_));
    EXPECT_EQ(plan_.count(io::operation_kind::flush), 1U);
    plan_.arm({.kinds = {io::operation_kind::flush}});
    EXPECT_THAT(device_.write_fua(0, ones_), HasCode(error_code::io_error));
    plan_.arm({.kinds = {io::operation_kind::write}});
    plan_.reset_counts();
    EXPECT_THAT(device_.write_fua(0, ones_), HasCode(error_code::io_error));
    EXPECT_EQ(plan_.count(io::operation_kind::flush), 0U);
}

TEST_F(PlainDevice, HasTheSizeThatItHas) {
    EXPECT_OK(device_.grow(64 << 10));
    const auto grown = device_.grow((64 << 10) + 1);
    EXPECT_THAT(grown, HasCode(error_code::unsupported));
    EXPECT_NE(grown.error().to_string().find("plain"), std::string::npos);
}

}  // namespace
}  // namespace uthin::test
