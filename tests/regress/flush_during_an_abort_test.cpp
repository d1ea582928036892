// A flush that came while a failed commit was being undone found the volume unchanged, because
// what had changed it was thrown away already, and said that all was durable: that changes were
// lost was noted a little later.
#include <gtest/gtest.h>

#include <functional>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "io/memory_device.h"
#include "support/forwarding_device.h"
#include "support/matchers.h"
#include "uthin/pool.h"
#include "uthin/thin.h"

namespace uthin {
namespace {

constexpr std::uint64_t block_bytes = 64 << 10;
// Their details fill several leaves, each of which is read while a commit is undone.
constexpr std::uint64_t devices = 300;

// Tells when it is read, and fails writes if it is told to.
class hooked_device final : public test::forwarding_device {
public:
    using forwarding_device::forwarding_device;
    [[nodiscard]] result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        if (on_read) {
            on_read();
        }
        return below().read(offset, buffer);
    }
    [[nodiscard]] result<void> write(std::uint64_t offset,
                                     std::span<const std::byte> buffer) override {
        if (fails_writes) {
            return fail(error_code::io_error, "told to fail");
        }
        return below().write(offset, buffer);
    }

    std::function<void()> on_read;
    bool fails_writes = false;
};

TEST(FlushDuringAnAbort, TellsThatChangesAreLost) {
    io::memory_device metadata(4 << 20);
    io::memory_device data(64 * block_bytes);
    auto below = std::make_unique<hooked_device>(metadata);
    hooked_device& hooked = *below;
    auto opened =
        pool::open(std::move(below), std::make_unique<test::forwarding_device>(data),
                   {.format = true, .data_block_size_sectors = block_bytes / sector_size_bytes},
                   system_clock());
    ASSERT_OK(opened);
    pool& tested = **opened;
    for (std::uint64_t id = 0; id < devices; ++id) {
        ASSERT_OK(tested.create_thin(device_id(id)));
    }
    const auto changed = tested.open_volume(device_id(0), block_bytes).value();
    const auto last = tested.open_volume(device_id(devices - 1), block_bytes).value();
    ASSERT_OK(changed->write(0, std::vector<std::byte>(block_bytes, std::byte{1})));
    ASSERT_TRUE(changed->changed_since_durable());

    std::uint64_t flushes = 0;
    hooked.on_read = [&] {
        // As long as it counts as changed a flush waits for the commit.
        if (!changed->changed_since_durable()) {
            ++flushes;
            EXPECT_THAT(changed->flush(), test::HasCode(error_code::io_error));
        }
    };
    hooked.fails_writes = true;
    EXPECT_THAT(tested.commit(), test::HasCode(error_code::io_error));
    hooked.fails_writes = false;
    hooked.on_read = nullptr;
    EXPECT_GT(flushes, 0U);
    EXPECT_TRUE(changed->lost_changes());
    ASSERT_OK(tested.close());
}

}  // namespace
}  // namespace uthin
