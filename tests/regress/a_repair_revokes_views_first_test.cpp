// A repair in service wrote over blocks that only read views needed, and revoked the views after
// it: who read meanwhile was told of damage, or read another block's bytes. (Found by reading.)
#include <atomic>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"
#include "thin_metadata/metadata_view.h"

namespace uthin {
namespace {

using namespace std::chrono_literals;
using io::operation_kind;
using test::IsOk;
using test::pattern;
using test::pool_rig;

constexpr std::uint64_t block = 64ULL << 10;

TEST(RepairBesideViews, RevokesThemFirst) {
    test::rig_options with;
    with.pool.commit_interval = 1h;
    pool_rig rig(with);
    const auto volume = rig.make(0, 64 * block);
    ASSERT_OK(volume->write(0, pattern(1, 16 * block)));
    ASSERT_OK(rig->commit());
    ASSERT_OK_AND_ASSIGN(const auto view, rig->create_view());
    ASSERT_OK(volume->write(16 * block, pattern(2, 16 * block)));
    ASSERT_OK(rig->commit());  // what it replaced is the view's alone
    ASSERT_FALSE(view->expired());

    rig.slow_metadata.set_delay(operation_kind::write, 100ms);
    const std::uint64_t before = rig.metadata_faults.count(operation_kind::write);
    std::thread repairing([&] { EXPECT_OK(rig->repair_leaks()); });
    while (rig.metadata_faults.count(operation_kind::write) == before && !view->expired()) {
        std::this_thread::sleep_for(1ms);
    }
    EXPECT_TRUE(view->expired()) << "something is written already";
    repairing.join();
    rig.slow_metadata.set_delay(operation_kind::write, 0ms);
    EXPECT_TRUE(view->expired());
    EXPECT_EQ(test::read_all(*volume, 0, 16 * block), pattern(1, 16 * block));
}

}  // namespace
}  // namespace uthin
