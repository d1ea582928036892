// Three ways in which a device was handled as if nothing could go wrong: a list of devices whose
// last one has the greatest number began anew and never ended; building a device kept half of it
// when its runs did not ascend; and a block that was freed twice while a view kept it was looked
// for after it had gone. (Found by reading.)
#include <gtest/gtest.h>

#include <memory>

#include "persistent_data/view_quarantine.h"
#include "support/matchers.h"
#include "support/metadata_fixture.h"
#include "thin_metadata/metadata_view.h"

namespace uthin {
namespace {

using test::HasCode;

class DevicesOfDamagedTrees : public test::metadata_fixture {
protected:
    result<void> build(std::uint64_t id, std::vector<mapping_run> runs) {
        std::size_t given = 0;
        return pool_->build_device(device_id(id), {}, [&]() -> result<std::optional<mapping_run>> {
            return given == runs.size() ? std::nullopt : std::optional(runs[given++]);
        });
    }
};

TEST_F(DevicesOfDamagedTrees, ListsEndAtTheGreatestNumber) {
    for (std::uint64_t id = 0; id < 511; ++id) {
        ASSERT_OK(pool_->create_thin(device_id(id)));
    }
    ASSERT_OK(build(UINT64_MAX, {}));
    const auto devices = pool_->list_devices().value();
    EXPECT_EQ(devices.size(), 512U);
    EXPECT_EQ(devices.back().id, device_id(UINT64_MAX));
    check_at_end_ = false;
}

TEST_F(DevicesOfDamagedTrees, ADeviceThatCouldNotBeBuiltIsAborted) {
    const auto space = pool_->data_space().value();
    const mapping_run high{virtual_block(9), data_block(0), 1, 0};
    const mapping_run low{virtual_block(3), data_block(1), 1, 0};
    EXPECT_FALSE(build(0, {high, low}));
    EXPECT_FALSE(pool_->commit()) << "there is something to abort";
    ASSERT_OK(pool_->abort());
    EXPECT_EQ(pool_->data_space().value().free_blocks, space.free_blocks);
    EXPECT_TRUE(pool_->list_devices().value().empty());
    ASSERT_OK(build(0, {low, high}));
    EXPECT_THAT(build(0, {}), HasCode(error_code::already_exists));
    ASSERT_OK(pool_->commit());
}

TEST(FreedTwice, IsKeptUntilBothAreReleased) {
    persistent_data::view_quarantine kept;
    kept.freed(7);
    kept.freed(5);
    kept.freed(7);
    kept.committed(1, true);
    kept.freed(7);
    kept.committed(2, true);
    EXPECT_EQ(kept.kept_blocks(), 4U);
    kept.release_before(1);
    EXPECT_TRUE(kept.contains(7));
    EXPECT_FALSE(kept.contains(5));
    kept.release_before(UINT64_MAX);
    EXPECT_FALSE(kept.contains(7));
    EXPECT_EQ(kept.kept_blocks(), 0U);
}

}  // namespace
}  // namespace uthin
