// A client who came back while the last handle of before an abort was still being closed got a
// volume whose flushes failed for good: "changes were lost; open it again". (Found by reading.)
#include <chrono>
#include <memory>
#include <thread>

#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using namespace std::chrono_literals;
using io::operation_kind;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;

constexpr std::uint64_t block = 64ULL << 10;

TEST(VolumeOpenedBesideItsLastEnd, HasLostNothing) {
    test::rig_options with;
    with.pool.commit_interval = 1h;
    pool_rig rig(with);
    auto before = rig.make(0, 16 * block);
    ASSERT_OK(before->write(0, pattern(1, block)));
    rig.metadata_faults.arm({.kinds = {operation_kind::write}});
    ASSERT_THAT(before->flush(), HasCode(error_code::io_error));
    ASSERT_OK(rig->clear_needs_check());
    ASSERT_THAT(before->flush(), HasCode(error_code::io_error));

    rig.slow_metadata.set_delay(operation_kind::flush, 300ms);
    std::thread committing([&] { EXPECT_OK(rig->create_thin(device_id(1))); });
    std::this_thread::sleep_for(50ms);
    std::shared_ptr<volume> after;
    std::thread opening([&] { after = rig.open_volume(0, 16 * block); });
    std::this_thread::sleep_for(50ms);
    before.reset();  // both wait for the executor, the opening in front
    committing.join();
    opening.join();
    rig.slow_metadata.set_delay(operation_kind::flush, 0ms);
    ASSERT_NE(after, nullptr);
    ASSERT_OK(after->write(0, pattern(2, block)));
    EXPECT_OK(after->flush());
    EXPECT_FALSE(after->lost_changes());
    EXPECT_EQ(test::read_all(*after, 0, block), pattern(2, block));
}

}  // namespace
}  // namespace uthin
