// A metadata device that could not be written took the whole pool out of service, readers too,
// because needs_check could not be recorded. The kernel stays read-only and records it when it can.
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using io::operation_kind;
using test::all_zero;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;
using test::rig_options;

constexpr std::uint64_t block = 64ULL << 10;
constexpr std::uint64_t volume_bytes = 1024 * block;

// Volume 0 with two blocks, the second one not committed; then a commit fails.
class unwritable {
public:
    explicit unwritable(operation_kind failing, std::uint64_t nth = 1)
        : rig(options()), volume(rig.make(0, volume_bytes)) {
        EXPECT_OK(volume->write(0, pattern(1, block)));
        EXPECT_OK(volume->flush());
        EXPECT_OK(volume->write(5 * block, pattern(2, block)));
        rig.metadata_faults.arm({.kinds = {failing}, .nth = nth, .persistent = true});
        EXPECT_THAT(volume->flush(), HasCode(error_code::io_error));
    }

    pool_rig rig;
    std::shared_ptr<uthin::volume> volume;

private:
    static rig_options options() {
        rig_options with;
        with.pool.commit_interval = std::chrono::hours(1);
        return with;
    }
};

TEST(UnwritableMetadata, StaysReadableAndIsOverwritten) {
    unwritable pool(operation_kind::write);
    EXPECT_EQ(pool.rig->mode(), pool_mode::read_only);
    EXPECT_TRUE(pool.rig->status(false)->needs_check);
    EXPECT_EQ(read_all(*pool.volume, 0, block), pattern(1, block));
    EXPECT_TRUE(all_zero(read_all(*pool.volume, 5 * block, block)));
    EXPECT_OK(pool.volume->write(0, pattern(3, block)));
    EXPECT_THAT(pool.volume->write(9 * block, pattern(3, block)), HasCode(error_code::read_only));
    EXPECT_THAT(pool.volume->flush(), HasCode(error_code::io_error));
    EXPECT_EQ(read_all(*pool.volume, 0, block), pattern(3, block));
}

TEST(UnwritableMetadata, GetsItsNeedsCheckWhenItCanBeWrittenAgain) {
    unwritable pool(operation_kind::write);
    pool.rig.metadata_faults.disarm();
    pool.volume.reset();
    pool.rig.close();
    pool.rig.open();
    EXPECT_EQ(pool.rig->mode(), pool_mode::read_only);
    EXPECT_TRUE(pool.rig->status(false)->needs_check);
    ASSERT_OK(pool.rig->repair_leaks());
    EXPECT_EQ(pool.rig->mode(), pool_mode::write);
}

TEST(UnwritableMetadata, IsRepairedInService) {
    unwritable pool(operation_kind::write);
    EXPECT_FALSE(pool.rig->repair_leaks());
    pool.rig.metadata_faults.disarm();
    ASSERT_OK(pool.rig->repair_leaks());
    EXPECT_EQ(pool.rig->mode(), pool_mode::write);
    EXPECT_FALSE(pool.rig->status(true)->needs_check);
}

TEST(UnwritableMetadata, StaysReadableWhenItCannotBeFlushed) {
    unwritable pool(operation_kind::flush);
    EXPECT_EQ(pool.rig->mode(), pool_mode::read_only);
    EXPECT_EQ(read_all(*pool.volume, 0, block), pattern(1, block));
}

// Which of the two states a restart would find is not known: what one of them overwrites can belong
// to a snapshot in the other one.
TEST(UnwritableMetadata, FailsWhenTheSuperblockWasWrittenAndNotFlushed) {
    constexpr std::uint64_t of_the_superblock = 2;
    unwritable pool(operation_kind::flush, of_the_superblock);
    EXPECT_EQ(pool.rig->mode(), pool_mode::fail);
}

}  // namespace
}  // namespace uthin
