#include "base/clock.h"

#include <gtest/gtest.h>

#include <ctime>

#include "base/aligned_buffer.h"
#include "uthin/log.h"

namespace uthin::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(Clock, TheManualOneMovesOnlyWhenTold) {
    manual_clock time;
    EXPECT_EQ(time.monotonic().count(), 0);
    time.sleep_for(milliseconds(1500));
    EXPECT_EQ(time.monotonic(), milliseconds(1500));
    EXPECT_EQ(time.unix_seconds(), 1);
    time.advance(seconds(2));
    EXPECT_EQ(time.unix_seconds(), 3);
}

TEST(Clock, TheSystemsOneRunsForwards) {
    clock& time = system_clock();
    const auto before = time.monotonic();
    time.sleep_for(milliseconds(5));
    EXPECT_GE(time.monotonic() - before, milliseconds(5));
    EXPECT_NEAR(static_cast<double>(time.unix_seconds()), static_cast<double>(std::time(nullptr)),
                2.0);
}

TEST(AlignedBuffer, IsAlignedAndZeroed) {
    for (const std::size_t size_bytes : {1U, 511U, 4096U, 4097U, 1000000U}) {
        aligned_buffer buffer(size_bytes);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 4096, 0U);
        EXPECT_EQ(buffer.size(), size_bytes);
        for (const std::byte byte : buffer.span()) {
            ASSERT_EQ(byte, std::byte{0});
        }
    }
    EXPECT_EQ(aligned_buffer().size(), 0U);
    EXPECT_TRUE(aligned_buffer(0).span().empty());
}

int messages = 0;

TEST(Log, ReachesTheSinkAndNothingWithoutOne) {
    log(log_level::error, "base", "nobody hears this");
    set_log_sink([](log_level level, std::string_view component, std::string_view message) {
        EXPECT_EQ(level, log_level::warning);
        EXPECT_EQ(component, "base");
        EXPECT_EQ(message, "hello");
        ++messages;
    });
    log(log_level::warning, "base", "hello");
    set_log_sink(nullptr);
    log(log_level::warning, "base", "hello");
    EXPECT_EQ(messages, 1);
}

}  // namespace
}  // namespace uthin::test
