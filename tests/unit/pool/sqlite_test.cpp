// The little of SQLite that is used: statements that are bound again, transactions that are not
// committed, and errors by their kind.
#include "pool/sqlite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "support/matchers.h"
#include "support/temporary_directory.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;

class Sqlite : public testing::Test {
protected:
    Sqlite() {
        auto opened = sqlite_database::open(path_, {.create = true, .vfs_name = {}});
        EXPECT_THAT(opened, IsOk());
        database_ = std::move(*opened);
        EXPECT_OK(database_.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT) STRICT"));
    }
    [[nodiscard]] std::string count() {
        return database_.query_text("SELECT count(*) FROM t").value().value_or("none");
    }

    test::temporary_directory directory_;
    const std::string path_ = directory_.path() / "database";
    sqlite_database database_;
};

TEST_F(Sqlite, AStatementIsBoundAgainAndAgain) {
    ASSERT_OK_AND_ASSIGN(auto insert, database_.prepare("INSERT INTO t VALUES (?,?)"));
    for (std::int64_t key = 1; key <= 3; ++key) {
        ASSERT_OK(insert.bind(1, key).bind(2, "value").run());
        EXPECT_EQ(database_.last_insert_id(), key);
        EXPECT_EQ(database_.changed_rows(), 1);
    }
    ASSERT_OK_AND_ASSIGN(auto select, database_.prepare("SELECT k, v FROM t WHERE k >= ?"));
    select.bind(1, std::uint64_t{2});
    EXPECT_TRUE(select.step().value());
    EXPECT_EQ(select.integer(0), 2);
    EXPECT_EQ(select.unsigned_integer(0), 2U);
    EXPECT_EQ(select.text(1), "value");
    select.reset();
    select.bind(1, std::uint64_t{4});
    EXPECT_FALSE(select.step().value());
    ASSERT_OK_AND_ASSIGN(auto all, database_.prepare("SELECT NULL, '' FROM t"));
    EXPECT_OK(all.run()) << "rows that nobody asked for are passed over";
    EXPECT_TRUE(all.step().value());
    EXPECT_EQ(all.text(0), "");
    EXPECT_EQ(all.text(1), "");
}

TEST_F(Sqlite, AViewOfNothingIsAnEmptyText) {
    ASSERT_OK_AND_ASSIGN(auto insert, database_.prepare("INSERT INTO t VALUES (?,?)"));
    ASSERT_OK(insert.bind(1, std::int64_t{1}).bind(2, std::string_view()).run());
    EXPECT_EQ(database_.query_text("SELECT typeof(v) FROM t").value(), "text");
}

TEST_F(Sqlite, AParameterThatIsNotThereIsAnErrorOfTheStatementOnly) {
    ASSERT_OK_AND_ASSIGN(auto insert, database_.prepare("INSERT INTO t VALUES (?,?)"));
    EXPECT_THAT(insert.bind(1, std::int64_t{1}).bind(3, "x").bind(2, "y").run(),
                HasCode(error_code::invalid_argument));
    EXPECT_THAT(insert.bind(7, std::int64_t{1}).bind(8, std::int64_t{1}).run(),
                HasCode(error_code::invalid_argument));
    EXPECT_EQ(count(), "0");
    EXPECT_OK(insert.bind(1, std::int64_t{1}).bind(2, "y").run());
    EXPECT_EQ(count(), "1");
}

TEST_F(Sqlite, ATransactionThatIsNotCommittedIsUndone) {
    {
        ASSERT_OK_AND_ASSIGN(auto begun, sqlite_transaction::begin(database_));
        EXPECT_TRUE(database_.in_transaction());
        ASSERT_OK(database_.execute("INSERT INTO t VALUES (1, 'x')"));
        EXPECT_THAT(sqlite_transaction::begin(database_), HasCode(error_code::io_error));
    }
    EXPECT_FALSE(database_.in_transaction());
    EXPECT_EQ(count(), "0");
    ASSERT_OK_AND_ASSIGN(auto begun, sqlite_transaction::begin(database_));
    ASSERT_OK(database_.execute("INSERT INTO t VALUES (1, 'x')"));
    ASSERT_OK(begun.commit());
    EXPECT_EQ(count(), "1");
}

TEST_F(Sqlite, ErrorsAreOfAKind) {
    ASSERT_OK(database_.execute("INSERT INTO t VALUES (1, 'x')"));
    EXPECT_THAT(database_.execute("INSERT INTO t VALUES (1, 'y')"),
                HasCode(error_code::already_exists));
    EXPECT_THAT(database_.execute("INSERT INTO t VALUES ('x', 'y')"),
                HasCode(error_code::invalid_argument))
        << "of another type";
    EXPECT_THAT(database_.execute("no statement"), HasCode(error_code::io_error));
    EXPECT_THAT(database_.prepare("SELECT nothing"), HasCode(error_code::io_error));
    EXPECT_THAT(database_.query_text("SELECT nothing"), HasCode(error_code::io_error));
    EXPECT_EQ(database_.query_text("SELECT v FROM t WHERE k = 9").value(), std::nullopt);
    EXPECT_THAT(database_.query_text("SELECT abs(-9223372036854775807 - 1)"),
                HasCode(error_code::io_error))
        << "an error of the first row";
    ASSERT_OK_AND_ASSIGN(auto reader,
                         sqlite_database::open(path_, {.read_only = true, .vfs_name = {}}));
    EXPECT_THAT(reader.execute("INSERT INTO t VALUES (2, 'y')"), HasCode(error_code::read_only));
    ASSERT_OK_AND_ASSIGN(auto begun, sqlite_transaction::begin(database_));
    ASSERT_OK(database_.execute("INSERT INTO t VALUES (2, 'y')"));
    ASSERT_OK_AND_ASSIGN(auto other, sqlite_database::open(path_, {}));
    EXPECT_THAT(sqlite_transaction::begin(other), HasCode(error_code::busy));
}

TEST_F(Sqlite, WhatIsNoDatabaseIsNotOpened) {
    EXPECT_THAT(sqlite_database::open(directory_.path() / "missing", {}),
                HasCode(error_code::not_found));
    EXPECT_THAT(sqlite_database::open(path_, {.vfs_name = "none of this name"}),
                HasCode(error_code::io_error));
    const std::string text = directory_.path() / "text";
    std::ofstream(text) << std::string(8192, 'x');
    ASSERT_OK_AND_ASSIGN(auto opened, sqlite_database::open(text, {}));
    EXPECT_THAT(opened.query_text("PRAGMA user_version"), HasCode(error_code::corrupt));
}

}  // namespace
}  // namespace uthin
