// What clients see while a failed commit is being undone.
#include <memory>

#include <gtest/gtest.h>

#include "base/clock.h"
#include "io/fault_device.h"
#include "io/memory_device.h"
#include "support/hooked_device.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "uthin/pool.h"
#include "uthin/thin.h"

namespace uthin {
namespace {

using test::borrowed_device;
using test::pattern;
using test::read_all;

constexpr std::uint64_t block = 64ULL << 10;
constexpr std::uint64_t rewritten = 0;
constexpr std::uint64_t discarded = block;

// MC4. The discarded block is there again as soon as the last commit is what lookups find. Who has
// seen it must not be given, by the mapping cache, what the same abort took away elsewhere.
TEST(AbortBesideReads, NobodyWhoHasSeenTheLastCommitIsGivenWhatWasThrownAway) {
    io::memory_device metadata(4 << 20);
    io::memory_device data(64 * block);
    io::fault_plan faults;
    io::fault_device faulty(metadata, faults);
    test::hooked_device hooked(faulty);
    auto opened = pool::open(
        std::make_unique<borrowed_device>(hooked), std::make_unique<borrowed_device>(data),
        {.format = true, .data_block_size_sectors = block / sector_size_bytes}, system_clock());
    ASSERT_OK(opened);
    pool& tested = **opened;
    ASSERT_OK(tested.create_thin(device_id(0)));
    auto volume = tested.open_volume(device_id(0), 16 * block).value();
    ASSERT_OK(volume->write(0, pattern(1, 2 * block)));
    const snapshot_request shared{device_id(0), device_id(1)};
    ASSERT_OK(tested.create_snapshots({&shared, 1}));
    ASSERT_OK(tested.commit());
    const auto committed = read_all(*volume, 0, 2 * block);
    const std::vector<std::byte> first(committed.begin(), committed.begin() + block);
    const std::vector<std::byte> second(committed.begin() + block, committed.end());

    ASSERT_OK(volume->write(rewritten, pattern(7, block)));
    ASSERT_OK(volume->discard(discarded, block));
    ASSERT_EQ(read_all(*volume, rewritten, block), pattern(7, block));  // by the cache
    std::uint64_t before = 0;
    std::uint64_t after = 0;
    hooked.before_reads([&] {
        const bool is_undone = read_all(*volume, discarded, block) == second;
        ++(is_undone ? after : before);
        EXPECT_EQ(read_all(*volume, rewritten, block), is_undone ? first : pattern(7, block));
    });
    faults.arm({.kinds = {io::operation_kind::write}});
    EXPECT_THAT(tested.commit(), test::HasCode(error_code::io_error));
    hooked.before_reads(nullptr);
    faults.disarm();
    EXPECT_GT(before, 0U);
    EXPECT_GT(after, 0U);
    EXPECT_EQ(read_all(*volume, 0, 2 * block), committed);
    volume.reset();
    ASSERT_OK(tested.close());
}

}  // namespace
}  // namespace uthin
