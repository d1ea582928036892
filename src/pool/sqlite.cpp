#include "pool/sqlite.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <bit>

#include "base/result.h"

namespace uthin {

namespace {

error_code code_of(int status) {
    switch (status & 0xff) {
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB: return error_code::corrupt;
        case SQLITE_BUSY:
        case SQLITE_LOCKED: return error_code::busy;
        case SQLITE_FULL: return error_code::no_data_space;
        case SQLITE_READONLY: return error_code::read_only;
        case SQLITE_CONSTRAINT: return error_code::already_exists;
        case SQLITE_CANTOPEN: return error_code::not_found;
        case SQLITE_NOMEM: return error_code::out_of_memory;
        case SQLITE_TOOBIG:
        case SQLITE_MISMATCH:
        case SQLITE_RANGE: return error_code::invalid_argument;
        default: return error_code::io_error;
    }
}

std::unexpected<error> failure(sqlite3* database, int status) {
    const char* text = database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(status);
    return fail(code_of(status), text);
}

}  // namespace

void sqlite_statement::finalize::operator()(sqlite3_stmt* statement) const noexcept {
    sqlite3_finalize(statement);
}

sqlite_statement& sqlite_statement::bind(int parameter, std::string_view text) {
    // A view of nothing has no address, which SQLite takes for NULL.
    const char* const begin = text.empty() ? "" : text.data();
    const int status = sqlite3_bind_text64(statement_.get(), parameter, begin, text.size(),
                                           SQLITE_TRANSIENT, SQLITE_UTF8);
    bind_status_ = bind_status_ == SQLITE_OK ? status : bind_status_;
    return *this;
}

sqlite_statement& sqlite_statement::bind(int parameter, std::int64_t value) {
    const int status = sqlite3_bind_int64(statement_.get(), parameter, value);
    bind_status_ = bind_status_ == SQLITE_OK ? status : bind_status_;
    return *this;
}

sqlite_statement& sqlite_statement::bind(int parameter, std::uint64_t value) {
    return bind(parameter, std::bit_cast<std::int64_t>(value));
}

result<bool> sqlite_statement::step() {
    sqlite3* database = sqlite3_db_handle(statement_.get());
    if (bind_status_ != SQLITE_OK) {
        const int status = std::exchange(bind_status_, SQLITE_OK);
        sqlite3_reset(statement_.get());
        return failure(nullptr, status);
    }
    const int status = sqlite3_step(statement_.get());
    if (status == SQLITE_ROW) {
        return true;
    }
    if (status == SQLITE_DONE) {
        sqlite3_reset(statement_.get());
        return false;
    }
    auto failed = failure(database, status);
    sqlite3_reset(statement_.get());
    return failed;
}

result<void> sqlite_statement::run() {
    while (UTHIN_TRY(step())) {
    }
    return {};
}

void sqlite_statement::reset() {
    sqlite3_reset(statement_.get());
}

std::int64_t sqlite_statement::integer(int column) const {
    return sqlite3_column_int64(statement_.get(), column);
}

std::uint64_t sqlite_statement::unsigned_integer(int column) const {
    return std::bit_cast<std::uint64_t>(integer(column));
}

std::string sqlite_statement::text(int column) const {
    const unsigned char* bytes = sqlite3_column_text(statement_.get(), column);
    const int count = sqlite3_column_bytes(statement_.get(), column);
    if (bytes == nullptr || count <= 0) {
        return {};
    }
    return {bytes, bytes + count};
}

void sqlite_database::close::operator()(sqlite3* database) const noexcept {
    sqlite3_close_v2(database);
}

result<sqlite_database> sqlite_database::open(const std::string& path,
                                              const sqlite_options& options) {
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    flags |= options.read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
    flags |= options.create ? SQLITE_OPEN_CREATE : 0;
    sqlite3* raw = nullptr;
    const int status = sqlite3_open_v2(
        path.c_str(), &raw, flags, options.vfs_name.empty() ? nullptr : options.vfs_name.c_str());
    sqlite_database database;
    database.database_.reset(raw);
    if (status != SQLITE_OK) {
        return failure(raw, status);
    }
    // A file from elsewhere may hold a schema that is out to do harm.
    sqlite3_db_config(raw, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    sqlite3_db_config(raw, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
    return database;
}

result<sqlite_database> sqlite_database::open_in_memory() {
    return open(":memory:", {.create = true, .read_only = false, .vfs_name = {}});
}

result<void> sqlite_database::execute(const char* sql) {
    const int status = sqlite3_exec(database_.get(), sql, nullptr, nullptr, nullptr);
    if (status != SQLITE_OK) {
        return failure(database_.get(), status);
    }
    return {};
}

result<void> sqlite_database::claim() {
    auto claimed = execute("BEGIN EXCLUSIVE");
    if (claimed) {
        return execute("COMMIT");
    }
    return claimed.error().code() == error_code::busy ? std::move(claimed) : result<void>();
}

result<sqlite_statement> sqlite_database::prepare(std::string_view sql) {
    sqlite3_stmt* raw = nullptr;
    const int status = sqlite3_prepare_v3(database_.get(), sql.data(), static_cast<int>(sql.size()),
                                          SQLITE_PREPARE_PERSISTENT, &raw, nullptr);
    sqlite_statement statement;
    statement.statement_.reset(raw);
    if (status != SQLITE_OK) {
        return failure(database_.get(), status);
    }
    return statement;
}

result<std::optional<std::string>> sqlite_database::query_text(std::string_view sql) {
    auto statement = UTHIN_TRY(prepare(sql));
    if (!UTHIN_TRY(statement.step())) {
        return std::nullopt;
    }
    return statement.text(0);
}

std::int64_t sqlite_database::last_insert_id() const {
    return sqlite3_last_insert_rowid(database_.get());
}

std::int64_t sqlite_database::changed_rows() const {
    return sqlite3_changes64(database_.get());
}

bool sqlite_database::in_transaction() const {
    return sqlite3_get_autocommit(database_.get()) == 0;
}

result<sqlite_transaction> sqlite_transaction::begin(sqlite_database& database) {
    UTHIN_TRY(database.execute("BEGIN IMMEDIATE"));
    return sqlite_transaction(database);
}

sqlite_transaction::~sqlite_transaction() {
    if (database_ != nullptr) {
        // A failure means that SQLite has rolled back by itself, or (in_transaction()) could not.
        (void)database_->execute("ROLLBACK");
    }
}

result<void> sqlite_transaction::commit() {
    UTHIN_TRY(database_->execute("COMMIT"));
    database_ = nullptr;
    return {};
}

}  // namespace uthin
