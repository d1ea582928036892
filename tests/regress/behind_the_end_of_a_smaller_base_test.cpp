// What lies behind the end of a smaller base was left out of differences: on an external origin,
// where holes read as the origin; and where both mapped the same block there, which the kernel may
// have written behind the end that the catalogue knows. (Found by reading.)
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "pool/catalogue.h"
#include "support/pool_rig.h"
#include "support/replication_rig.h"

namespace uthin::replication {
namespace {

using test::pattern;
using test::replication_side;
using testing::ElementsAre;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t old_bytes = 3 * block_bytes + 4096;
constexpr std::uint64_t new_bytes = 8 * block_bytes;

class BehindTheEnd : public testing::Test {
protected:
    static void TearDownTestSuite() { replication_side::judge_all(); }

    std::vector<changed_range> changes(std::uint64_t offset_bytes = 0) {
        diff_request request{.from = "small", .to = "large", .offset_bytes = offset_bytes};
        return side_.pool().diff(request).value().ranges;
    }
    void grow_between_snapshots() {
        side_.snapshot("v", "small");
        ASSERT_OK(side_.pool().resize("v", new_bytes));
        side_.snapshot("v", "large");
    }

    replication_side side_{block_bytes};
};

TEST_F(BehindTheEnd, AnExternalOriginShowsThroughHoles) {
    test::temporary_directory folder;
    const std::string image = folder.path() / "image";
    std::ofstream(image) << std::string(new_bytes, 'o');
    create_volume_request request;
    request.name = "v";
    request.size_bytes = old_bytes;
    request.external_origin = image;
    ASSERT_OK(side_.pool().create_volume(request));
    grow_between_snapshots();
    const changed_range all{4 * block_bytes, 4 * block_bytes, change_kind::added};
    EXPECT_THAT(changes(), ElementsAre(all));
    const changed_range rest{6 * block_bytes + 5, 2 * block_bytes - 5, change_kind::added};
    EXPECT_THAT(changes(6 * block_bytes + 5), ElementsAre(rest));
}

TEST_F(BehindTheEnd, WhatBothMapThereIsNew) {
    side_.create("v", new_bytes);
    {
        ASSERT_OK_AND_ASSIGN(const auto open, side_.pool().open_volume("v", false));
        ASSERT_OK(open->write(0, pattern(1, new_bytes)));
    }
    // As after a volume manager that did not cut: the catalogue alone knows of the smaller size.
    side_.snapshot("v", "small");
    side_.snapshot("v", "large");
    const std::string pool_uuid = side_.pool().file().uuid;
    const std::string small_uuid = side_.pool().show("small").value().uuid;
    side_.drop();
    {
        ASSERT_OK_AND_ASSIGN(const auto names,
                             catalogue::open(side_.path() + "/catalog.db", pool_uuid, {}));
        ASSERT_OK(names->resize(small_uuid, old_bytes));
    }
    side_.open();
    const changed_range behind{4 * block_bytes, 4 * block_bytes, change_kind::added};
    EXPECT_THAT(changes(), ElementsAre(behind));
}

}  // namespace
}  // namespace uthin::replication
