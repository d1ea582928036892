// Targets, and what is remembered of a replica.
#include "frontends/replicate.h"

#include <gtest/gtest.h>

#include "support/matchers.h"

namespace uthin::frontends {
namespace {

using test::HasCode;

TEST(Replicate, ATargetIsADirectoryOrAHostWithOne) {
    ASSERT_OK_AND_ASSIGN(const auto local, parse_replica_target("/pools/b", "v"));
    EXPECT_EQ(local.host, "");
    EXPECT_EQ(local.directory, "/pools/b");
    ASSERT_OK_AND_ASSIGN(const auto remote, parse_replica_target("ssh://me@host/pools/b", "v"));
    EXPECT_EQ(remote.host, "me@host");
    EXPECT_EQ(remote.directory, "/pools/b");
    EXPECT_NE(remote.tag(), local.tag());
    EXPECT_EQ(remote.port, "");
    ASSERT_OK_AND_ASSIGN(const auto other, parse_replica_target("ssh://me@host:2222/pools/b", "v"));
    EXPECT_EQ(other.host, "me@host");
    EXPECT_EQ(other.port, "2222");
    ASSERT_OK_AND_ASSIGN(const auto six, parse_replica_target("ssh://me@[fe80::1]:22/b", "v"));
    EXPECT_EQ(six.host, "me@fe80::1");
    EXPECT_EQ(six.port, "22");
    EXPECT_EQ(remote.tag(), parse_replica_target("ssh://me@host/pools/b", "v")->tag());
    EXPECT_NE(remote.tag(), parse_replica_target("ssh://me@host/pools/b", "w")->tag());
    for (const char* text :
         {"", "ssh://", "ssh://host", "ssh:///pool", "ssh://-oProxyCommand=x/pool"}) {
        EXPECT_THAT(parse_replica_target(text, "v"), HasCode(error_code::invalid_argument)) << text;
    }
}

TEST(Replicate, ItsStateIsReadAsItWasWritten) {
    const replica_state state{"ssh://h/d", 5, "snap", "pending", "r1.x", 7, 2, "said \"no\"\n"};
    ASSERT_OK_AND_ASSIGN(const auto read, parse_replica_state(to_text(state)));
    EXPECT_EQ(read, state);
    volume_info volume;
    volume.labels = {{"replica:1", to_text(state)}, {"replica:2", "{}"}, {"other", "x"}};
    EXPECT_EQ(replicas_of(volume), std::vector{state});
}

}  // namespace
}  // namespace uthin::frontends
