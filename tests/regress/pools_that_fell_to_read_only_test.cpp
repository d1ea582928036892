// A pool that is served and falls to read-only mode was taken for one in which nobody writes, while
// its clients go on overwriting what is theirs: a stream was made of the live volume, and migrating
// forgot what was written while it copied. (Found by reading.)
#include <gtest/gtest.h>

#include "replication/migrator.h"
#include "replication/sender.h"
#include "support/forwarding_pool_service.h"
#include "support/pool_rig.h"
#include "support/replication_rig.h"

namespace uthin::replication {
namespace {

using test::HasCode;
using test::pattern;
using test::replication_side;

constexpr std::uint64_t block_bytes = 64 << 10;

// As somebody who asks the process that serves the pool.
class fallen_service final : public test::forwarding_pool_service {
public:
    using forwarding_pool_service::forwarding_pool_service;

    [[nodiscard]] result<pool_report> status() override {
        auto report = forwarding_pool_service::status();
        if (report) {
            report->served = served;
            report->opened_read_only = opened_read_only;
            report->mode = "read_only";
        }
        return report;
    }
    [[nodiscard]] result<std::vector<volume_info>> create_snapshots(
        const create_snapshots_request& request) override {
        (void)request;
        return fail(error_code::read_only, "the pool is read_only");
    }

    bool served = true;
    bool opened_read_only = false;
};

class FallenPool : public testing::Test {
protected:
    static void TearDownTestSuite() { replication_side::judge_all(); }

    void SetUp() override {
        side_.create("v", 8 * block_bytes);
        ASSERT_OK_AND_ASSIGN(open_, side_.pool().open_volume("v", false));
        ASSERT_OK(open_->write(0, pattern(1, 5 * block_bytes)));
    }
    result<send_reply> send() {
        test::memory_sink sink;
        send_request request;
        request.name = "v";
        return send_snapshot(service_, request, sink);
    }
    result<migrate_reply> migrate() {
        migrate_request request;
        request.name = "v";
        return migrate_volume(service_, target_.pool(), request);
    }

    replication_side side_{block_bytes};
    replication_side target_{block_bytes};
    fallen_service service_{side_.service()};
    std::shared_ptr<volume> open_;
};

TEST_F(FallenPool, IsNotSentWhileClientsMayWrite) {
    EXPECT_THAT(send(), HasCode(error_code::read_only));
    service_.opened_read_only = true;
    EXPECT_OK(send());
    service_.opened_read_only = false;
    service_.served = false;  // in this process alone
    EXPECT_OK(send());
}

TEST_F(FallenPool, IsNotMigratedWhileClientsMayWrite) {
    EXPECT_THAT(migrate(), HasCode(error_code::read_only));
    EXPECT_THAT(target_.pool().show("v"), HasCode(error_code::not_found));
    service_.served = false;
    EXPECT_OK(migrate());
    EXPECT_EQ(target_.content("v"), side_.content("v"));
}

}  // namespace
}  // namespace uthin::replication
