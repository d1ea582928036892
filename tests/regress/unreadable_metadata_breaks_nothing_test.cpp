// A metadata device that could not be read for a moment cost the pool its life: making a volume
// read, failed, undid a transaction in which nothing had changed, could not read for that either,
// and ended in fail mode. The kernel answers EIO and goes on
// (tests/data/scenarios/corpus-needs-check-dust).
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

using io::operation_kind;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;
using test::rig_options;

constexpr std::uint64_t block = 64ULL << 10;
constexpr std::uint64_t volume_bytes = 1024 * block;

constexpr std::uint64_t devices = 400;  // several leaves, of which an open volume reads one
constexpr std::uint64_t mapped_blocks = 600;
constexpr std::uint64_t hole = 1000;
const device_id nobody(1000);

// Volume 0 of a pool that was opened anew, so that hardly anything is cached.
class cold_pool {
public:
    cold_pool() : rig(options()) {
        for (std::uint64_t id = 1; id < devices; ++id) {
            EXPECT_OK(rig->create_thin(device_id(id)));
        }
        const auto filled = rig.make(0, volume_bytes);
        for (std::uint64_t i = 0; i < mapped_blocks; ++i) {
            EXPECT_OK(filled->write(i * block, pattern(i, 512)));
        }
    }
    std::shared_ptr<uthin::volume> open() {
        rig.close();
        rig.open();
        return rig.open_volume(0, volume_bytes);
    }

    pool_rig rig;

private:
    static rig_options options() {
        rig_options with;
        with.pool.commit_interval = std::chrono::hours(1);
        return with;
    }
};

// The directory of a pool looks devices up so; that counted as a change. (Found by reading.)
TEST(UnreadableMetadata, BreaksNothingAfterALookAtTheMetadata) {
    cold_pool pool;
    const auto volume = pool.open();
    ASSERT_OK(pool.rig->with_metadata([](metadata& stored) -> result<void> {
        EXPECT_OK(stored.time());
        return {};
    }));
    pool.rig.metadata_faults.arm({.kinds = {operation_kind::read}, .persistent = true});
    EXPECT_THAT(pool.rig->create_thin(nobody), HasCode(error_code::io_error));
    EXPECT_THAT(volume->write(hole * block, pattern(2, block)), HasCode(error_code::io_error));
    EXPECT_EQ(pool.rig->mode(), pool_mode::write);
    pool.rig.metadata_faults.disarm();
    ASSERT_OK(volume->write(hole * block, pattern(2, block)));
    EXPECT_FALSE(pool.rig->status(true)->needs_check);
}

TEST(UnreadableMetadata, BreaksNothingAsLongAsNothingWasChanged) {
    cold_pool pool;
    const auto volume = pool.open();
    pool.rig.metadata_faults.arm({.kinds = {operation_kind::read}, .persistent = true});
    EXPECT_THAT(pool.rig->create_thin(nobody), HasCode(error_code::io_error));
    EXPECT_THAT(volume->write(hole * block, pattern(2, block)), HasCode(error_code::io_error));
    EXPECT_EQ(pool.rig->mode(), pool_mode::write);
    pool.rig.metadata_faults.disarm();
    ASSERT_OK(pool.rig->create_thin(nobody));
    ASSERT_OK(volume->write(hole * block, pattern(2, block)));
    ASSERT_OK(volume->flush());
    EXPECT_EQ(read_all(*volume, 0, 512), pattern(0, 512));
    EXPECT_EQ(read_all(*volume, hole * block, block), pattern(2, block));
    EXPECT_FALSE(pool.rig->status(true)->needs_check);
}

TEST(UnreadableMetadata, UndoesATransactionThatChangedSomething) {
    cold_pool pool;
    const auto volume = pool.open();
    ASSERT_OK(volume->write(hole * block, pattern(2, block)));
    pool.rig.metadata_faults.arm({.kinds = {operation_kind::read}});
    EXPECT_THAT(pool.rig->create_thin(nobody), HasCode(error_code::io_error));
    EXPECT_EQ(pool.rig->mode(), pool_mode::read_only);
    EXPECT_TRUE(pool.rig->status(false)->needs_check);
    EXPECT_THAT(volume->flush(), HasCode(error_code::io_error));
}

}  // namespace
}  // namespace uthin
