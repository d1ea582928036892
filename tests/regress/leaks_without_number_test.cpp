// Metadata with more leaks than a report lists was not mended as one that has nothing but leaks:
// the ones that are listed were compared with all that were found. (Found by reading.)
#include <gtest/gtest.h>

#include <fmt/format.h>

#include "support/matchers.h"
#include "support/metadata_fixture.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/leak_repair.h"
#include "thin_metadata/metadata_view.h"

namespace uthin {
namespace {

class LeaksWithoutNumber : public test::metadata_fixture {};

TEST_F(LeaksWithoutNumber, AreLeaksAndNothingElse) {
    constexpr std::uint64_t leaks = 250;
    for (std::uint64_t i = 0; i < leaks; ++i) {  // every second block
        ASSERT_OK(pool_->inc_data_range({data_block(2 * i), data_block(2 * i + 1)}));
    }
    ASSERT_OK(pool_->create_thin(device_id(0)));
    ASSERT_OK(pool_->commit());
    pool_.reset();
    const auto report = [&] {
        const auto view = thin_metadata::open_offline(*device_, {}).value();
        return thin_metadata::check_metadata(*view, {}).value();
    };
    const auto before = report();
    EXPECT_EQ(before.repairable, leaks);
    EXPECT_LT(before.findings.size(), leaks);
    ASSERT_TRUE(before.has_only_leaks());
    ASSERT_OK(thin_metadata::repair_leaks(
        *device_, {.rebuild_space_maps = true, .clear_needs_check = false}));
    EXPECT_TRUE(report().is_clean());
    open({});
}

}  // namespace
}  // namespace uthin
