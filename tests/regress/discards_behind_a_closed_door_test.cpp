// While a snapshot waited for a write at a slow device, commits were put off, and discards of what
// another snapshot shares used the metadata's reserve up to the last block: the pool ended in
// read_only, with the changes since the last commit lost. (Found by reading.)
#include <chrono>
#include <optional>
#include <thread>

#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

using namespace std::chrono_literals;
using io::operation_kind;
using test::IsOk;
using test::pattern;
using test::pool_rig;

constexpr std::uint64_t block = 64ULL << 10;
constexpr std::uint64_t leaf_blocks = 252;
constexpr std::uint64_t leaves = 190;
constexpr std::uint64_t shared_blocks = leaf_blocks * leaves;

TEST(DiscardsBehindAClosedDoor, LeaveTheReserve) {
    test::rig_options with;
    with.metadata_bytes = 256 * metadata_block_size_bytes;
    with.data_blocks = shared_blocks + 64;
    with.pool.commit_interval = 1h;
    with.pool.error_if_no_space = true;
    pool_rig rig(with);
    bool given = false;
    ASSERT_OK(rig->with_metadata([&](metadata& of) {
        return of.build_device(device_id(1), {}, [&]() -> result<std::optional<mapping_run>> {
            if (std::exchange(given, true)) {
                return std::optional<mapping_run>();
            }
            return std::optional(mapping_run{virtual_block(0), data_block(64), shared_blocks, 0});
        });
    }));
    ASSERT_OK(rig->commit());
    ASSERT_OK(rig.snapshot(1, 2));
    const auto slow = rig.make(0, 16 * block);
    ASSERT_OK(slow->write(0, pattern(1, block)));
    ASSERT_OK(slow->flush());
    const auto shared = rig.open_volume(1, shared_blocks * block);
    ASSERT_EQ(rig->mode(), pool_mode::write);

    rig.slow_data.set_delay(operation_kind::write, 1500ms);
    std::thread writing([&] { EXPECT_OK(slow->write(0, pattern(2, block))); });
    std::this_thread::sleep_for(100ms);
    std::thread snapshotting([&] {
        const auto made = rig.snapshot(0, 3);
        EXPECT_TRUE(made || made.error().code() == error_code::no_metadata_space);
    });
    std::this_thread::sleep_for(100ms);
    std::uint64_t refused = 0;
    for (std::uint64_t i = 0; i < leaves; ++i) {
        const auto discarded = shared->discard(i * leaf_blocks * block, block);
        if (!discarded) {
            ASSERT_EQ(discarded.error().code(), error_code::no_metadata_space);
            ++refused;
        }
    }
    EXPECT_GT(refused, 0U);
    writing.join();
    snapshotting.join();
    rig.slow_data.set_delay(operation_kind::write, 0ms);
    EXPECT_TRUE(rig->mode() == pool_mode::write || rig->mode() == pool_mode::out_of_metadata_space)
        << to_string(rig->mode());
    EXPECT_FALSE(rig->status(false)->needs_check);
    EXPECT_OK(rig->delete_thin(device_id(2)));  // the other half is for this
    EXPECT_EQ(test::read_all(*slow, 0, block), pattern(2, block));
}

}  // namespace
}  // namespace uthin
