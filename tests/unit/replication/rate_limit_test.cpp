// Bytes and the time they take.
#include "replication/rate_limit.h"

#include <algorithm>

#include "support/matchers.h"
#include "support/stream_buffers.h"

namespace uthin::replication {
namespace {

TEST(RateLimit, TakesAsLongAsTheRateSays) {
    manual_clock time;
    test::memory_sink sink;
    rate_limit limited(sink, 1000, time);
    const std::vector<std::byte> bytes(100);
    for (int i = 0; i < 50; ++i) {
        ASSERT_OK(limited.write(bytes));
    }
    EXPECT_EQ(sink.bytes.size(), 5000U);
    const double seconds = std::chrono::duration<double>(time.monotonic()).count();
    EXPECT_GE(seconds, 4.7);  // without the last write and one burst
    EXPECT_LE(seconds, 5.0);
}

TEST(RateLimit, SavesNothingUpWhileNothingIsWritten) {
    manual_clock time;
    test::memory_sink sink;
    rate_limit limited(sink, 1000, time);
    time.advance(std::chrono::seconds(60));
    const auto begin = time.monotonic();
    const std::vector<std::byte> bytes(1000);
    for (int i = 0; i < 3; ++i) {
        ASSERT_OK(limited.write(bytes));
    }
    EXPECT_GE(std::chrono::duration<double>(time.monotonic() - begin).count(), 1.8);
}

TEST(RateLimit, PassesALargeWriteOnInTenthsOfASecond) {
    manual_clock time;
    struct timed_sink final : byte_sink {
        explicit timed_sink(manual_clock& now) : clock(now), last(now.monotonic()) {}
        result<void> write(std::span<const std::byte> /*bytes*/) override {
            longest = std::max(longest, clock.monotonic() - last);
            last = clock.monotonic();
            return {};
        }
        manual_clock& clock;
        std::chrono::nanoseconds last;
        std::chrono::nanoseconds longest{0};
    } sink(time);
    rate_limit limited(sink, 10'000, time);
    ASSERT_OK(limited.write(std::vector<std::byte>(1 << 20)));
    EXPECT_GE(time.monotonic(), std::chrono::seconds(100));
    EXPECT_LE(sink.longest, std::chrono::milliseconds(101));
}

}  // namespace
}  // namespace uthin::replication
