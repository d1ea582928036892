// A snapshot of a snapshot was copied by a migration from a larger relative that came later, since
// that "differs by nothing" but what lies behind its end: cutting that off inside a block takes a
// block of its own, which the equal relative does not. (MigrateModel, seed 20261206, found it.)
#include <gtest/gtest.h>

#include "replication/migrator.h"
#include "support/pool_rig.h"
#include "support/replication_rig.h"

namespace uthin {
namespace {

using test::pattern;
using test::replication_side;

constexpr std::uint64_t block_bytes = 64 << 10;

class RelativeThatIsCut : public testing::Test {
protected:
    static void TearDownTestSuite() { replication_side::judge_all(); }
};

TEST_F(RelativeThatIsCut, TakesABlockThatTheEqualOneDoesNot) {
    replication_side source(block_bytes);
    replication_side target(block_bytes);
    const auto write = [&](std::uint64_t block) {
        auto open = source.pool().open_volume("v", false);
        ASSERT_OK(open);
        ASSERT_OK((*open)->write(block * block_bytes, pattern(block, 512)));
    };
    source.create("v", 4 * block_bytes + 512);
    write(4);
    source.snapshot("v", "s1");
    ASSERT_OK(source.pool().resize("v", 8 * block_bytes));
    write(6);
    source.snapshot("v", "s2");
    source.snapshot("s1", "s3");
    const auto wanted = source.content("s3");
    replication::migrate_request request;
    request.name = "v";
    ASSERT_OK(replication::migrate_volume(source.service(), target.pool(), request));
    EXPECT_EQ(target.content("s3"), wanted);
    EXPECT_EQ(target.look().data_used_blocks, source.look().data_used_blocks);
}

}  // namespace
}  // namespace uthin
