// The little of SQLite that the pool needs, as owned objects and results.
//
// Invariants
//   SQ1  A statement is reset before it is bound again, so no read transaction outlives its use.
//   SQ2  A transaction that is not committed is rolled back.
// Threads   One at a time: the owner serialises.
// Failures  io_error (with SQLite's text), corrupt (not a database, malformed), busy (locked by
//           another process), no_data_space (disk full), read_only, already_exists (a constraint).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "uthin/error.h"

struct sqlite3;
struct sqlite3_stmt;

namespace uthin {

class sqlite_statement {
public:
    sqlite_statement() = default;

    // Parameters count from 1, columns from 0. Text is copied.
    sqlite_statement& bind(int parameter, std::string_view text);
    sqlite_statement& bind(int parameter, std::int64_t value);
    sqlite_statement& bind(int parameter, std::uint64_t value);

    // True: a row is there. False: done, and the statement is reset.
    [[nodiscard]] result<bool> step();
    // For a statement that gives no rows.
    [[nodiscard]] result<void> run();
    void reset();

    [[nodiscard]] std::int64_t integer(int column) const;
    [[nodiscard]] std::uint64_t unsigned_integer(int column) const;
    [[nodiscard]] std::string text(int column) const;

private:
    friend class sqlite_database;
    struct finalize {
        void operator()(sqlite3_stmt* statement) const noexcept;
    };
    std::unique_ptr<sqlite3_stmt, finalize> statement_;
    int bind_status_ = 0;
};

struct sqlite_options {
    bool create = false;
    bool read_only = false;
    std::string vfs_name;  // empty: the default one
};

class sqlite_database {
public:
    sqlite_database() = default;

    [[nodiscard]] static result<sqlite_database> open(const std::string& path,
                                                      const sqlite_options& options);
    [[nodiscard]] static result<sqlite_database> open_in_memory();

    [[nodiscard]] result<void> execute(const char* sql);
    // In EXCLUSIVE mode: takes the lock that is kept from then on; reading alone takes one that
    // others may have, too. busy. A file that cannot be written is left as it is.
    [[nodiscard]] result<void> claim();
    [[nodiscard]] result<sqlite_statement> prepare(std::string_view sql);
    // First column of the first row; absent when there is none.
    [[nodiscard]] result<std::optional<std::string>> query_text(std::string_view sql);
    [[nodiscard]] std::int64_t last_insert_id() const;
    [[nodiscard]] std::int64_t changed_rows() const;
    // Also when one could not be rolled back.
    [[nodiscard]] bool in_transaction() const;

private:
    struct close {
        void operator()(sqlite3* database) const noexcept;
    };
    std::unique_ptr<sqlite3, close> database_;
};

// BEGIN IMMEDIATE ... COMMIT.
class sqlite_transaction {
public:
    [[nodiscard]] static result<sqlite_transaction> begin(sqlite_database& database);
    sqlite_transaction(sqlite_transaction&& other) noexcept
        : database_(std::exchange(other.database_, nullptr)) {}
    sqlite_transaction& operator=(sqlite_transaction&&) = delete;
    ~sqlite_transaction();

    // Durable when it returns. After a failure nothing of it happened, as far as SQLite can tell.
    [[nodiscard]] result<void> commit();

private:
    explicit sqlite_transaction(sqlite_database& database) : database_(&database) {}
    sqlite_database* database_;
};

}  // namespace uthin
