// Leases and holds.
#include "pool/labels.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

namespace uthin {
namespace {

TEST(Labels, ALeaseEndsWithItsTimeOrItsOwner) {
    label_map lease = make_lease(1000);
    EXPECT_FALSE(lease_is_over(lease, 1000));
    EXPECT_TRUE(lease_is_over(lease, 1001));
    lease.erase(std::string(lease_owner_label));
    EXPECT_FALSE(lease_is_over(lease, 1000));
    EXPECT_TRUE(lease_is_over(lease, 1001));
}

TEST(Labels, AnOwnerThatHasEndedIsNoticed) {
    int channel[2];
    ASSERT_EQ(::pipe(channel), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        const std::string tag = this_process_tag();
        ::_exit(::write(channel[1], tag.data(), tag.size()) > 0 ? 0 : 1);
    }
    char buffer[256];
    const ssize_t count = ::read(channel[0], buffer, sizeof buffer);
    ASSERT_GT(count, 0);
    const std::string tag(buffer, static_cast<std::size_t>(count));
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    ::close(channel[0]);
    ::close(channel[1]);
    EXPECT_FALSE(may_be_running(tag));
    EXPECT_TRUE(may_be_running(this_process_tag()));
    // The same number, given to another process later.
    std::string other = this_process_tag();
    other.replace(other.find(' ') + 1, 1, "x");
    EXPECT_FALSE(may_be_running(other));
}

TEST(Labels, WhatCannotBeReadIsKept) {
    EXPECT_TRUE(may_be_running(""));
    EXPECT_TRUE(may_be_running("12"));
    EXPECT_TRUE(may_be_running("x y z"));
    EXPECT_FALSE(lease_is_over({}, 5));
    EXPECT_FALSE(lease_is_over({{std::string(lease_until_label), "soon"}}, 5));
    EXPECT_FALSE(lease_is_over({{std::string(lease_owner_label), "1 2 3/4"}}, 5));
}

TEST(Labels, AHoldNamesItsHolder) {
    EXPECT_EQ(holder_of({{"held", "x"}, {"zoo", ""}}), std::nullopt);
    EXPECT_EQ(holder_of({{"hold:replica", ""}}), "replica");
    EXPECT_EQ(holder_of({{"hold:replica", "base"}, {"a", "b"}}), "replica (base)");
}

}  // namespace
}  // namespace uthin
