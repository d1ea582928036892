// A repair whose last flush failed left the pool writing on beside a superblock that might not be
// durable: what the next transactions wrote over was still in use in the old one.
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using io::operation_kind;
using test::HasCode;
using test::pattern;
using test::pool_rig;
using test::rig_options;

constexpr std::uint64_t block = 64ULL << 10;
constexpr std::uint64_t volume_bytes = 64 * block;

TEST(RepairInDoubt, ChangesNothingUntilThePoolIsOpenedAgain) {
    rig_options with;
    with.pool.commit_interval = std::chrono::hours(1);
    pool_rig rig(with);
    auto volume = rig.make(0, volume_bytes);
    ASSERT_OK(volume->write(0, pattern(1, block)));
    ASSERT_OK(rig->commit());
    constexpr std::uint64_t of_the_superblock = 2;
    rig.metadata_faults.arm({.kinds = {operation_kind::flush}, .nth = of_the_superblock});
    EXPECT_THAT(rig->repair_leaks(), HasCode(error_code::io_error));
    EXPECT_EQ(rig.metadata_faults.injected(), 1U);
    rig.metadata_faults.disarm();

    EXPECT_EQ(rig->mode(), pool_mode::fail);
    rig.metadata_faults.reset_counts();
    EXPECT_THAT(volume->write(5 * block, pattern(2, block)), HasCode(error_code::failed));
    EXPECT_FALSE(rig->create_thin(device_id(7)));
    EXPECT_FALSE(rig->commit());
    EXPECT_FALSE(rig->repair_leaks());
    EXPECT_FALSE(rig->clear_needs_check());
    volume.reset();
    rig.close();
    EXPECT_EQ(rig.metadata_faults.count(operation_kind::write), 0U);

    rig.open();
    EXPECT_EQ(rig->mode(), pool_mode::write);
    volume = rig.open_volume(0, volume_bytes);
    EXPECT_EQ(test::read_all(*volume, 0, block), pattern(1, block));
    rig.expect_clean();
}

}  // namespace
}  // namespace uthin
