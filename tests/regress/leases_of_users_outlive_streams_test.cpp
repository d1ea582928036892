// A snapshot to which its user had given a lease was taken for the rest of a stream that broke off:
// whoever sent it got its lease shortened, and the snapshot deleted afterwards. (Found by reading.)
#include <gtest/gtest.h>

#include "base/clock.h"
#include "pool/labels.h"
#include "replication/sender.h"
#include "support/replication_rig.h"

namespace uthin::replication {
namespace {

constexpr std::uint64_t block_bytes = 64 << 10;

TEST(LeasesOfUsers, OutliveStreams) {
    test::replication_side side(block_bytes);
    side.create("v", 4 * block_bytes);
    side.snapshot("v", "sending-soon");
    const std::string until = std::to_string(system_clock().unix_seconds() + 30LL * 24 * 3600);
    label_request lease;
    lease.name = "sending-soon";
    lease.set = {{std::string(lease_until_label), until}};
    ASSERT_OK(side.service().label_volume(lease));
    test::memory_sink sink;
    send_request request;
    request.name = "sending-soon";
    ASSERT_OK_AND_ASSIGN(const send_reply sent, send_snapshot(side.service(), request, sink));
    EXPECT_FALSE(sent.header.temporary);
    ASSERT_OK_AND_ASSIGN(const volume_info left, side.pool().show("sending-soon"));
    EXPECT_EQ(left.labels, lease.set);
    test::replication_side::judge_all();
}

}  // namespace
}  // namespace uthin::replication
