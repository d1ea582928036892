// Where a change of the catalogue failed and SQLite could not even roll it back (no memory for the
// statement), lists showed half of it. Where the commit of the first promise or limit failed, no
// volume could be read any more: "no such table: limits". And a creation that failed did not say of
// which file.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pool/catalogue.h"
#include "support/failing_sqlite.h"
#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;
using test::statement_stage;
using testing::HasSubstr;
using testing::StartsWith;

volume_record record_of(std::uint64_t id, std::string name) {
    volume_record record;
    record.uuid = fmt::format("uuid-{}", id);
    record.identity.id = device_id(id);
    record.name = std::move(name);
    record.size_bytes = 512;
    return record;
}

class FailedChanges : public testing::Test {
protected:
    [[nodiscard]] std::unique_ptr<catalogue> create() const {
        auto made = catalogue::create(path_, "pool-1", options_);
        EXPECT_THAT(made, IsOk());
        EXPECT_THAT((*made)->adopt(record_of(1, "a")), IsOk());
        return std::move(*made);
    }

    test::failing_statements statements_;
    test::failing_vfs vfs_;
    test::temporary_directory directory_;
    const std::string path_ = directory_.path() / "catalog.db";
    const catalogue_options options_{.read_only = false, .vfs_name = vfs_.name()};
};

TEST_F(FailedChanges, HalfAChangeIsNotShown) {
    auto names = create();
    // A refusal: the second volume has the name of the first one.
    std::vector<intent> both(2);
    both[0].kind = both[1].kind = intent_kind::create;
    both[0].volume = record_of(2, "b");
    both[1].volume = record_of(1, "c");
    statements_.arm(statement_stage::compiled, 2, true);  // BEGIN is understood, ROLLBACK is not
    EXPECT_FALSE(names->begin(both));
    statements_.disarm();
    EXPECT_THAT(names->intents(), HasCode(error_code::io_error));
    EXPECT_THAT(names->volumes(), HasCode(error_code::io_error));
    EXPECT_THAT(names->find_name("a"), HasCode(error_code::io_error));
    EXPECT_THAT(names->find_device(device_id(1)), HasCode(error_code::io_error));
    EXPECT_THAT(names->find_uuid("uuid-2"), HasCode(error_code::io_error));
    EXPECT_THAT(names->limited_volumes(), HasCode(error_code::io_error));
    EXPECT_THAT(names->lease(), HasCode(error_code::io_error));
    const auto next = names->rename("uuid-1", "z");
    ASSERT_THAT(next, HasCode(error_code::io_error));
    EXPECT_THAT(next.error().message(), HasSubstr("close the pool and open it again"));
    names.reset();
    auto opened = catalogue::open(path_, "pool-1", options_);
    ASSERT_THAT(opened, IsOk());
    EXPECT_EQ((*opened)->volumes()->size(), 1U);
    EXPECT_TRUE((*opened)->intents()->empty());
}

TEST_F(FailedChanges, VolumesAreReadAfterTheFirstLimitCouldNotBeStored) {
    auto names = create();
    vfs_.arm({.nth = 1, .kinds = test::only(test::file_access::sync)});
    EXPECT_THAT(names->set_limits("uuid-1", 512, 512), HasCode(error_code::io_error));
    vfs_.disarm();
    const auto found = names->volumes();
    ASSERT_THAT(found, IsOk());
    EXPECT_EQ(found->front().limit_bytes, 0U);
}

TEST_F(FailedChanges, ACreationThatFailsNamesItsFile) {
    vfs_.arm({.nth = 1, .for_ever = true, .kinds = test::only(test::file_access::write)});
    const auto made = catalogue::create(path_, "pool-1", options_);
    ASSERT_THAT(made, HasCode(error_code::io_error));
    EXPECT_THAT(made.error().message(), StartsWith(path_));
}

}  // namespace
}  // namespace uthin
