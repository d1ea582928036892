// A flush took no ticket, so close() did not wait for it: it went on in a closed pool, whose
// volumes had lost their devices and whose executor had ended.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "io/memory_device.h"
#include "support/forwarding_device.h"
#include "support/matchers.h"
#include "uthin/pool.h"
#include "uthin/thin.h"

namespace uthin {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t block_bytes = 64 << 10;

// Holds one flush up.
class held_device final : public test::forwarding_device {
public:
    using forwarding_device::forwarding_device;
    [[nodiscard]] result<void> flush() override {
        if (holds.exchange(false)) {
            arrived.count_down();
            may_end.wait();
        }
        return below().flush();
    }

    std::atomic<bool> holds{false};
    std::latch arrived{1};
    std::latch may_end{1};
};

TEST(FlushBesideClose, IsWaitedFor) {
    io::memory_device metadata(4 << 20);
    io::memory_device data(64 * block_bytes);
    auto below = std::make_unique<held_device>(data);
    held_device& held = *below;
    auto opened =
        pool::open(std::make_unique<test::forwarding_device>(metadata), std::move(below),
                   {.format = true, .data_block_size_sectors = block_bytes / sector_size_bytes},
                   system_clock());
    ASSERT_OK(opened);
    pool& tested = **opened;
    ASSERT_OK(tested.start());
    ASSERT_OK(tested.create_thin(device_id(0)));
    const auto flushed = tested.open_volume(device_id(0), block_bytes).value();
    ASSERT_OK(flushed->write(0, std::vector<std::byte>(block_bytes, std::byte{1})));
    ASSERT_OK(flushed->flush());

    held.holds.store(true);
    std::thread flusher([&] { EXPECT_OK(flushed->flush()); });
    held.arrived.wait();
    std::atomic<bool> closed{false};
    std::thread closer([&] {
        EXPECT_OK(tested.close());
        closed.store(true);
    });
    // A close that waits for nothing takes a few milliseconds.
    const auto end = system_clock().monotonic() + 300ms;
    while (!closed.load() && system_clock().monotonic() < end) {
        system_clock().sleep_for(1ms);
    }
    EXPECT_FALSE(closed.load());
    held.may_end.count_down();
    flusher.join();
    closer.join();
    EXPECT_THAT(flushed->flush(), test::HasCode(error_code::failed));
}

}  // namespace
}  // namespace uthin
