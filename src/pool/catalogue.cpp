#include "pool/catalogue.h"

#include <fmt/format.h>

#include <array>
#include <type_traits>

#include "base/mutex.h"
#include "base/result.h"
#include "pool/catalogue_queries.h"
#include "pool/catalogue_schema.h"
#include "pool/names.h"
#include "pool/sqlite.h"

namespace uthin {

using catalogue_sql::limits_query;
using catalogue_sql::limits_sql_of;
using catalogue_sql::query;
using catalogue_sql::sql_of;

namespace {

constexpr std::string_view lease_key = "metadata-snapshot-lease";
constexpr std::size_t text_bytes_max = 64U << 10;
constexpr std::size_t label_key_bytes_max = 128;
constexpr std::size_t label_value_bytes_max = 4096;

std::unexpected<error> damaged(const std::string& path, std::string_view what) {
    return fail(error_code::corrupt,
                fmt::format("{}: catalogue is damaged ({}); restore it from a backup, or run "
                            "'uthin pool adopt --rebuild-catalog'",
                            printable(path), what));
}

std::unexpected<error> failed_before(const std::string& path) {
    return fail(error_code::io_error,
                fmt::format("{}: an earlier change of the catalogue failed; close the pool and "
                            "open it again",
                            printable(path)));
}

}  // namespace

struct catalogue::impl {
    std::string path;
    mutex lock;
    bool failed GUARDED_BY(lock) = false;
    sqlite_database database GUARDED_BY(lock);
    std::array<sqlite_statement, sql_of.size()> statements GUARDED_BY(lock);

    bool has_limits GUARDED_BY(lock) = false;
    bool made_limits GUARDED_BY(lock) = false;  // by the open transaction
    bool limits_open GUARDED_BY(lock) = false;  // whether they were made, only the file knows
    std::array<sqlite_statement, limits_sql_of.size()> limits_statements GUARDED_BY(lock);

    sqlite_statement& at(limits_query which) REQUIRES(lock) {
        return limits_statements[static_cast<std::size_t>(which)];
    }
    sqlite_statement& at(query which) REQUIRES(lock) {
        return statements[static_cast<std::size_t>(which)];
    }
    std::unexpected<error> wrapped(error cause) const {
        if (cause.code() == error_code::corrupt) {
            return damaged(path, cause.message());
        }
        return std::unexpected(std::move(cause).with_context(printable(path)));
    }

    result<void> configure() REQUIRES(lock);
    result<void> prepare() REQUIRES(lock);
    result<void> prepare_limits() REQUIRES(lock);
    result<void> find_limits() REQUIRES(lock);
    result<void> write_schema(std::string_view pool_uuid) REQUIRES(lock);
    result<void> check_file(std::string_view pool_uuid) REQUIRES(lock);

    result<volume_record> read_volume(const sqlite_statement& row) REQUIRES(lock);
    result<void> read_labels(volume_record& volume) REQUIRES(lock);
    result<void> read_limits(volume_record& volume) REQUIRES(lock);
    result<void> write_limits(std::string_view uuid, std::uint64_t reserved_bytes,
                              std::uint64_t limit_bytes) REQUIRES(lock);
    result<std::optional<volume_record>> find(sqlite_statement& bound) REQUIRES(lock);
    result<intent> read_intent(const sqlite_statement& row) REQUIRES(lock);
    result<std::vector<volume_record>> read_volumes() REQUIRES(lock);
    result<std::vector<volume_record>> read_limited() REQUIRES(lock);
    result<std::vector<intent>> read_intents() REQUIRES(lock);

    result<void> insert_volume(const volume_record& volume, bool pending) REQUIRES(lock);
    result<void> delete_volume(std::string_view uuid) REQUIRES(lock);
    template <typename T>
    result<void> set_field(query change, const T& value, std::string_view uuid) REQUIRES(lock) {
        UTHIN_TRY(at(change).bind(1, value).bind(2, uuid).run());
        return database.changed_rows() != 0
                   ? result<void>()
                   : fail(error_code::not_found, fmt::format("volume {}: gone", printable(uuid)));
    }
    result<void> insert_labels(std::string_view uuid,
                               const std::map<std::string, std::string>& labels) REQUIRES(lock);
    result<void> delete_notes(std::int64_t number) REQUIRES(lock);
    result<void> insert_intent(intent& what) REQUIRES(lock);
    result<void> settle(const intent_outcome& outcome) REQUIRES(lock);

    // Runs `body` as one transaction.
    template <class Body>
    result<void> change(Body body) REQUIRES(lock);
    // What `body` reads; not while a change that failed is not undone: half of it would be shown.
    template <class Body>
    std::invoke_result_t<Body> reading(Body body) REQUIRES(lock);
};

template <class Body>
result<void> catalogue::impl::change(Body body) {
    if (failed || database.in_transaction()) {
        return failed_before(path);
    }
    auto begun = sqlite_transaction::begin(database);
    if (!begun) {
        return wrapped(std::move(begun).error());
    }
    made_limits = false;
    result<void> done = body();
    if (!done) {
        has_limits = has_limits && !made_limits;
        // A refusal; everything else may have torn SQLite's own state as well.
        failed = done.error().code() != error_code::already_exists &&
                 done.error().code() != error_code::not_found &&
                 done.error().code() != error_code::invalid_argument;
        return wrapped(std::move(done).error());
    }
    done = begun->commit();
    if (!done) {
        limits_open = made_limits;
        failed = true;
        return wrapped(std::move(done).error());
    }
    return {};
}

template <class Body>
std::invoke_result_t<Body> catalogue::impl::reading(Body body) {
    if (database.in_transaction()) {
        return failed_before(path);
    }
    if (auto known = limits_open ? find_limits() : result<void>(); !known) {
        return wrapped(std::move(known).error());
    }
    auto found = body();
    if (!found) {
        return wrapped(std::move(found).error());
    }
    return found;
}

result<void> catalogue::impl::configure() {
    // ORDER: CT1. A change must be durable when COMMIT returns, because the metadata commit
    // follows it. journal_mode DELETE ends a transaction with an unlink that only
    // synchronous=EXTRA makes durable; PERSIST ends it with a synced overwrite of the journal's
    // header, one sector, and never changes the directory again. WAL would be as safe and quicker,
    // but a catalog.db copied without its -wal file would silently be an old one.
    // EXCLUSIVE: no other process between two transactions, and none before the first one: where
    // the devices of a pool cannot be locked, this keeps a second process away.
    UTHIN_TRY(
        database.execute("PRAGMA locking_mode = EXCLUSIVE;"
                         "PRAGMA journal_mode = PERSIST;"
                         "PRAGMA synchronous = EXTRA;"
                         "PRAGMA mmap_size = 0;"
                         "PRAGMA temp_store = MEMORY;"
                         "PRAGMA cell_size_check = ON;"
                         "PRAGMA cache_size = -2048;"));
    return database.claim();
}

result<void> catalogue::impl::prepare() {
    for (std::size_t i = 0; i < sql_of.size(); ++i) {
        statements[i] = UTHIN_TRY(database.prepare(sql_of[i]));
    }
    return has_limits ? prepare_limits() : result<void>();
}

result<void> catalogue::impl::prepare_limits() {
    for (std::size_t i = 0; i < limits_sql_of.size(); ++i) {
        limits_statements[i] = UTHIN_TRY(database.prepare(limits_sql_of[i]));
    }
    return {};
}

// After a commit that failed, which may have happened all the same.
result<void> catalogue::impl::find_limits() {
    const auto version = UTHIN_TRY(database.query_text("PRAGMA user_version"));
    has_limits = version == std::to_string(schema_version_limits);
    if (has_limits) {
        UTHIN_TRY(prepare_limits());
    }
    limits_open = false;
    return {};
}

result<void> catalogue::impl::write_schema(std::string_view pool_uuid) {
    auto transaction = UTHIN_TRY(sqlite_transaction::begin(database));
    const auto found = UTHIN_TRY(database.query_text("SELECT count(*) FROM sqlite_schema"));
    const auto version = UTHIN_TRY(database.query_text("PRAGMA user_version"));
    if (found != "0" || version != "0") {
        return fail(error_code::already_exists,
                    "exists already; remove it or use another directory");
    }
    UTHIN_TRY(database.execute(catalogue_schema));
    UTHIN_TRY(database.execute(fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {};",
                                           application_id, schema_version)
                                   .c_str()));
    auto insert = UTHIN_TRY(database.prepare("INSERT INTO pool (key, value) VALUES ('uuid', ?)"));
    UTHIN_TRY(insert.bind(1, pool_uuid).run());
    return transaction.commit();
}

result<void> catalogue::impl::check_file(std::string_view pool_uuid) {
    if (UTHIN_TRY(database.query_text("PRAGMA application_id")) != std::to_string(application_id)) {
        return damaged(path, "not a catalogue of uthin");
    }
    const auto version = UTHIN_TRY(database.query_text("PRAGMA user_version"));
    has_limits = version == std::to_string(schema_version_limits);
    if (!has_limits && version != std::to_string(schema_version)) {
        return fail(error_code::unsupported,
                    fmt::format("{}: catalogue has version {}, this program knows {}; use a newer "
                                "uthin",
                                printable(path), version.value_or("?"), schema_version_limits));
    }
    const auto verdict = UTHIN_TRY(database.query_text("PRAGMA integrity_check(1)"));
    if (verdict != "ok") {
        return damaged(path, printable(verdict.value_or("no verdict")));
    }
    const auto uuid = UTHIN_TRY(database.query_text("SELECT value FROM pool WHERE key = 'uuid'"));
    if (uuid != pool_uuid) {
        return fail(
            error_code::corrupt,
            fmt::format("{}: catalogue of another pool ({}, pool.json says {}); put the "
                        "right file back, or run 'uthin pool adopt --rebuild-catalog'",
                        printable(path), printable(uuid.value_or("none")), printable(pool_uuid)));
    }
    return {};
}

result<volume_record> catalogue::impl::read_volume(const sqlite_statement& row) {
    volume_record volume;
    volume.uuid = row.text(0);
    const std::uint64_t id = row.unsigned_integer(1);
    const std::uint64_t creation_time = row.unsigned_integer(2);
    if (id > device_id_max || creation_time > UINT32_MAX) {
        return fail(error_code::corrupt,
                    fmt::format("volume {} names device {}", printable(volume.uuid), id));
    }
    volume.identity = {device_id(id), static_cast<std::uint32_t>(creation_time),
                       row.unsigned_integer(3)};
    volume.name = row.text(4);
    volume.size_bytes = row.unsigned_integer(5);
    volume.parent_uuid = row.text(6);
    volume.created_unix_seconds = row.integer(7);
    volume.external_origin = row.text(8);
    volume.received_from = row.text(9);
    const auto name = check_volume_name(volume.name, volume.identity.id);
    if (!name) {
        return fail(error_code::corrupt, name.error().message());
    }
    // 0: a device without mappings that got its record before it got a size.
    if (volume.size_bytes % sector_size_bytes != 0 || volume.size_bytes > volume_size_bytes_max) {
        return fail(error_code::corrupt, fmt::format("volume '{}' has {} bytes",
                                                     printable(volume.name), volume.size_bytes));
    }
    return volume;
}

result<void> catalogue::impl::read_labels(volume_record& volume) {
    sqlite_statement& rows = at(query::labels).bind(1, volume.uuid);
    while (UTHIN_TRY(rows.step())) {
        volume.labels.emplace(rows.text(0), rows.text(1));
    }
    return {};
}

result<void> catalogue::impl::read_limits(volume_record& volume) {
    if (!has_limits) {
        return {};
    }
    sqlite_statement& row = at(limits_query::find).bind(1, volume.uuid);
    if (UTHIN_TRY(row.step())) {
        volume.reserved_bytes = row.unsigned_integer(0);
        volume.limit_bytes = row.unsigned_integer(1);
        row.reset();
        if (volume.reserved_bytes > volume_size_bytes_max ||
            volume.limit_bytes > volume_size_bytes_max) {
            return fail(
                error_code::corrupt,
                fmt::format("volume '{}' has limits of {} and {} bytes", printable(volume.name),
                            volume.reserved_bytes, volume.limit_bytes));
        }
    }
    return {};
}

// Inside a transaction, with which the table goes away again when it fails.
result<void> catalogue::impl::write_limits(std::string_view uuid, std::uint64_t reserved_bytes,
                                           std::uint64_t limit_bytes) {
    if (reserved_bytes == 0 && limit_bytes == 0) {
        return has_limits ? at(limits_query::remove).bind(1, uuid).run() : result<void>();
    }
    if (!has_limits) {
        UTHIN_TRY(database.execute(catalogue_limits_schema));
        UTHIN_TRY(database.execute(
            fmt::format("PRAGMA user_version = {};", schema_version_limits).c_str()));
        UTHIN_TRY(prepare_limits());
        has_limits = true;
        made_limits = true;
    }
    sqlite_statement& row = at(limits_query::put);
    return row.bind(1, uuid).bind(2, reserved_bytes).bind(3, limit_bytes).run();
}

result<std::optional<volume_record>> catalogue::impl::find(sqlite_statement& bound) {
    std::optional<volume_record> found;
    if (UTHIN_TRY(bound.step())) {
        auto volume = read_volume(bound);
        bound.reset();
        found = UTHIN_TRY(std::move(volume));
        UTHIN_TRY(read_labels(*found));
        UTHIN_TRY(read_limits(*found));
    }
    return found;
}

result<intent> catalogue::impl::read_intent(const sqlite_statement& row) {
    intent what;
    what.number = row.integer(0);
    const std::uint64_t kind = row.unsigned_integer(1);
    const std::uint64_t id = row.unsigned_integer(6);
    const std::uint64_t creation_time = row.unsigned_integer(7);
    if (kind > static_cast<std::uint64_t>(intent_kind::transfer) || id > device_id_max ||
        creation_time > UINT32_MAX) {
        return fail(error_code::corrupt, fmt::format("intent {} makes no sense", what.number));
    }
    what.kind = static_cast<intent_kind>(kind);
    what.volume.uuid = row.text(2);
    what.volume.name = row.text(3);
    what.volume.size_bytes = row.unsigned_integer(4);
    what.volume.external_origin = row.text(5);
    what.hidden = {device_id(id), static_cast<std::uint32_t>(creation_time),
                   row.unsigned_integer(8)};
    return what;
}

result<std::vector<volume_record>> catalogue::impl::read_volumes() {
    std::vector<volume_record> found;
    sqlite_statement& rows = at(query::volumes);
    while (UTHIN_TRY(rows.step())) {
        auto volume = read_volume(rows);
        if (!volume) {
            rows.reset();
            return std::unexpected(std::move(volume).error());
        }
        found.push_back(std::move(*volume));
    }
    for (volume_record& volume : found) {
        UTHIN_TRY(read_labels(volume));
        UTHIN_TRY(read_limits(volume));
    }
    return found;
}

result<std::vector<volume_record>> catalogue::impl::read_limited() {
    std::vector<std::string> uuids;
    std::vector<volume_record> found;
    if (has_limits) {
        sqlite_statement& rows = at(limits_query::list);
        while (UTHIN_TRY(rows.step())) {
            uuids.push_back(rows.text(0));
        }
    }
    for (const std::string& uuid : uuids) {
        if (auto volume = UTHIN_TRY(find(at(query::volume_by_uuid).bind(1, uuid)))) {
            found.push_back(std::move(*volume));
        }
    }
    return found;
}

result<std::vector<intent>> catalogue::impl::read_intents() {
    std::vector<intent> found;
    sqlite_statement& rows = at(query::intents);
    while (UTHIN_TRY(rows.step())) {
        auto what = read_intent(rows);
        if (!what) {
            rows.reset();
            return std::unexpected(std::move(what).error());
        }
        found.push_back(std::move(*what));
    }
    for (intent& what : found) {
        if (what.kind == intent_kind::reap) {
            continue;
        }
        if (what.kind == intent_kind::transfer) {
            UTHIN_TRY(read_labels(what.volume));
            continue;
        }
        auto volume = UTHIN_TRY(find(at(query::volume_by_uuid).bind(1, what.volume.uuid)));
        if (!volume) {
            return fail(error_code::corrupt,
                        fmt::format("intent {} is about no volume", what.number));
        }
        const std::uint64_t size_bytes = what.volume.size_bytes;
        std::string external_origin = std::move(what.volume.external_origin);
        what.volume = std::move(*volume);
        what.volume.size_bytes = size_bytes;
        what.volume.external_origin = std::move(external_origin);
    }
    return found;
}

result<void> catalogue::impl::insert_volume(const volume_record& volume, bool pending) {
    const bool too_long = volume.external_origin.size() > text_bytes_max ||
                          volume.received_from.size() > text_bytes_max;
    if (too_long || volume.uuid.empty()) {
        return fail(
            error_code::invalid_argument,
            fmt::format("volume '{}': text too long; use at most 64 KiB", printable(volume.name)));
    }
    sqlite_statement& row = at(query::insert_volume);
    row.bind(1, volume.uuid).bind(2, volume.identity.id.value());
    row.bind(3, std::uint64_t{volume.identity.creation_time});
    row.bind(4, volume.identity.creation_transaction_id);
    row.bind(5, volume.name).bind(6, volume.size_bytes).bind(7, volume.parent_uuid);
    row.bind(8, volume.created_unix_seconds).bind(9, volume.external_origin);
    row.bind(10, volume.received_from).bind(11, std::int64_t{pending});
    auto inserted = row.run();
    if (!inserted && inserted.error().code() == error_code::already_exists) {
        return fail(error_code::already_exists,
                    fmt::format("volume '{}': the name or the device id {} is taken; use another",
                                printable(volume.name), volume.identity.id.value()));
    }
    UTHIN_TRY(std::move(inserted));
    UTHIN_TRY(insert_labels(volume.uuid, volume.labels));
    return write_limits(volume.uuid, volume.reserved_bytes, volume.limit_bytes);
}

result<void> catalogue::impl::insert_labels(std::string_view uuid,
                                            const std::map<std::string, std::string>& labels) {
    for (const auto& [key, value] : labels) {
        if (key.empty() || key.size() > label_key_bytes_max ||
            value.size() > label_value_bytes_max) {
            return fail(error_code::invalid_argument,
                        fmt::format("label '{}': empty or too long; use at most {} bytes, and {} "
                                    "for its value",
                                    printable(std::string_view(key).substr(0, 60)),
                                    label_key_bytes_max, label_value_bytes_max));
        }
        UTHIN_TRY(at(query::insert_label).bind(1, uuid).bind(2, key).bind(3, value).run());
    }
    return {};
}

// Those of a transfer; a deletion has none.
result<void> catalogue::impl::delete_notes(std::int64_t number) {
    return at(query::delete_notes)
        .bind(1, number)
        .bind(2, static_cast<std::int64_t>(intent_kind::transfer))
        .run();
}

result<void> catalogue::impl::delete_volume(std::string_view uuid) {
    UTHIN_TRY(at(query::delete_volume).bind(1, uuid).run());
    UTHIN_TRY(write_limits(uuid, 0, 0));
    return at(query::delete_labels).bind(1, uuid).run();
}

result<void> catalogue::impl::insert_intent(intent& what) {
    if (what.kind == intent_kind::create) {
        UTHIN_TRY(insert_volume(what.volume, true));
        what.hidden = what.volume.identity;
    }
    if (what.kind == intent_kind::reap) {
        const auto volume =
            UTHIN_TRY(find(at(query::volume_by_device).bind(1, what.hidden.id.value())));
        if (volume && volume->identity == what.hidden) {
            UTHIN_TRY(delete_volume(volume->uuid));
        }
    }
    sqlite_statement& row = at(query::insert_intent);
    row.bind(1, static_cast<std::int64_t>(what.kind)).bind(2, what.volume.uuid);
    row.bind(3, what.volume.name).bind(4, what.volume.size_bytes);
    row.bind(5, what.volume.external_origin).bind(6, what.hidden.id.value());
    row.bind(7, std::uint64_t{what.hidden.creation_time});
    row.bind(8, what.hidden.creation_transaction_id);
    UTHIN_TRY(row.run());
    what.number = database.last_insert_id();
    return {};
}

result<void> catalogue::impl::settle(const intent_outcome& outcome) {
    const intent& what = outcome.what;
    const auto forget = [&]() REQUIRES(lock) {
        return at(query::delete_intent).bind(1, what.number).run();
    };
    switch (what.kind) {
        case intent_kind::create:
            if (outcome.happened) {
                UTHIN_TRY(at(query::publish_volume).bind(1, what.volume.uuid).run());
            } else {
                UTHIN_TRY(delete_volume(what.volume.uuid));
            }
            return forget();
        case intent_kind::rollback:
            if (!outcome.happened) {
                return forget();
            }
            UTHIN_TRY(at(query::roll_back_volume)
                          .bind(1, what.volume.size_bytes)
                          .bind(2, what.volume.external_origin)
                          .bind(3, what.volume.uuid)
                          .run());
            return at(query::reap_instead)
                .bind(1, static_cast<std::int64_t>(intent_kind::reap))
                .bind(2, what.number)
                .run();
        case intent_kind::reap:
        case intent_kind::transfer:
            if (!outcome.happened) {
                return {};
            }
            UTHIN_TRY(delete_notes(what.number));
            return forget();
    }
    return {};
}

catalogue::catalogue(std::unique_ptr<impl> state) : impl_(std::move(state)) {
}
catalogue::~catalogue() = default;

result<std::unique_ptr<catalogue>> catalogue::create(const std::string& path,
                                                     std::string_view pool_uuid,
                                                     const catalogue_options& options) {
    auto state = std::make_unique<impl>();
    const lock_guard held(state->lock);
    state->path = path;
    const std::string shown = printable(path);
    state->database = UTHIN_TRY_CTX(
        sqlite_database::open(path, {.create = true, .vfs_name = options.vfs_name}), shown);
    UTHIN_TRY_CTX(state->configure(), shown);
    UTHIN_TRY_CTX(state->write_schema(pool_uuid), shown);
    UTHIN_TRY_CTX(state->prepare(), shown);
    return std::unique_ptr<catalogue>(new catalogue(std::move(state)));
}

result<std::unique_ptr<catalogue>> catalogue::open(const std::string& path,
                                                   std::string_view pool_uuid,
                                                   const catalogue_options& options) {
    auto state = std::make_unique<impl>();
    const lock_guard held(state->lock);
    state->path = path;
    auto opened =
        sqlite_database::open(path, {.read_only = options.read_only, .vfs_name = options.vfs_name});
    if (!opened && opened.error().code() == error_code::not_found) {
        return fail(error_code::not_found,
                    fmt::format("{}: catalogue is missing; restore it from a backup, or run "
                                "'uthin pool adopt --rebuild-catalog'",
                                printable(path)));
    }
    if (!opened) {
        return state->wrapped(std::move(opened).error());
    }
    state->database = std::move(*opened);
    auto usable = state->configure();
    if (usable) {
        usable = state->check_file(pool_uuid);
    }
    if (usable) {
        usable = state->prepare();
    }
    if (!usable) {
        // The messages of check_file name the file already.
        if (usable.error().message().starts_with(printable(path))) {
            return std::unexpected(std::move(usable).error());
        }
        return state->wrapped(std::move(usable).error());
    }
    return std::unique_ptr<catalogue>(new catalogue(std::move(state)));
}

result<catalogue::contents> catalogue::read_all() {
    const lock_guard held(impl_->lock);
    return impl_->reading([&]() NO_THREAD_SAFETY_ANALYSIS -> result<contents> {
        contents found;
        found.volumes = UTHIN_TRY(impl_->read_volumes());
        found.intents = UTHIN_TRY(impl_->read_intents());
        return found;
    });
}

result<std::vector<volume_record>> catalogue::volumes() {
    return UTHIN_TRY(read_all()).volumes;
}

result<std::vector<volume_record>> catalogue::limited_volumes() {
    const lock_guard held(impl_->lock);
    return impl_->reading([&]() NO_THREAD_SAFETY_ANALYSIS { return impl_->read_limited(); });
}

result<std::optional<volume_record>> catalogue::find_name(std::string_view name) {
    const lock_guard held(impl_->lock);
    return impl_->reading([&]() NO_THREAD_SAFETY_ANALYSIS {
        return impl_->find(impl_->at(query::volume_by_name).bind(1, name));
    });
}

result<std::optional<volume_record>> catalogue::find_device(device_id id) {
    const lock_guard held(impl_->lock);
    return impl_->reading([&]() NO_THREAD_SAFETY_ANALYSIS {
        return impl_->find(impl_->at(query::volume_by_device).bind(1, id.value()));
    });
}

result<std::vector<intent>> catalogue::intents() {
    return UTHIN_TRY(read_all()).intents;
}

result<std::optional<volume_record>> catalogue::find_uuid(std::string_view uuid) {
    const lock_guard held(impl_->lock);
    return impl_->reading([&]() NO_THREAD_SAFETY_ANALYSIS {
        return impl_->find(impl_->at(query::volume_by_uuid).bind(1, uuid));
    });
}

result<void> catalogue::begin(std::span<intent> intents, std::span<const std::string> stale_uuids) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        for (const std::string& uuid : stale_uuids) {
            UTHIN_TRY(impl_->delete_volume(uuid));
        }
        for (intent& what : intents) {
            UTHIN_TRY(impl_->insert_intent(what));
        }
        return {};
    });
}

result<void> catalogue::resolve(std::span<const intent_outcome> outcomes) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        for (const intent_outcome& outcome : outcomes) {
            UTHIN_TRY(impl_->settle(outcome));
        }
        return {};
    });
}

result<void> catalogue::publish(std::span<const std::int64_t> numbers,
                                std::span<const volume_record> volumes, std::span<intent> reaps,
                                std::span<const std::string> stale_uuids) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        for (const std::string& uuid : stale_uuids) {
            UTHIN_TRY(impl_->delete_volume(uuid));
        }
        for (const std::int64_t number : numbers) {
            UTHIN_TRY(impl_->delete_notes(number));
            UTHIN_TRY(impl_->at(query::delete_intent).bind(1, number).run());
        }
        for (const volume_record& volume : volumes) {
            UTHIN_TRY(impl_->delete_volume(volume.uuid));
            UTHIN_TRY(impl_->insert_volume(volume, false));
        }
        for (intent& what : reaps) {
            UTHIN_TRY(impl_->insert_intent(what));
        }
        return {};
    });
}

result<void> catalogue::keep(std::int64_t number, const volume_record& volume) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        UTHIN_TRY(impl_->at(query::keep_intent)
                      .bind(1, static_cast<std::int64_t>(intent_kind::transfer))
                      .bind(2, volume.uuid)
                      .bind(3, volume.name)
                      .bind(4, volume.size_bytes)
                      .bind(5, number)
                      .run());
        return impl_->insert_labels(volume.uuid, volume.labels);
    });
}

result<void> catalogue::forget(std::int64_t number) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        UTHIN_TRY(impl_->delete_notes(number));
        return impl_->at(query::reap_instead)
            .bind(1, static_cast<std::int64_t>(intent_kind::reap))
            .bind(2, number)
            .run();
    });
}

result<void> catalogue::set_labels(std::string_view uuid,
                                   const std::map<std::string, std::string>& labels) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        UTHIN_TRY(impl_->at(query::delete_labels).bind(1, uuid).run());
        return impl_->insert_labels(uuid, labels);
    });
}

result<void> catalogue::drop_origin(std::string_view uuid,
                                    const std::map<std::string, std::string>& labels) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        UTHIN_TRY(impl_->set_field(query::set_origin, std::string_view(), uuid));
        UTHIN_TRY(impl_->at(query::delete_labels).bind(1, uuid).run());
        return impl_->insert_labels(uuid, labels);
    });
}

result<void> catalogue::rename(std::string_view uuid, std::string_view name) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        auto done = impl_->set_field(query::rename, name, uuid);
        if (!done && done.error().code() == error_code::already_exists) {
            return fail(
                error_code::already_exists,
                fmt::format("volume '{}': exists already; use another name", printable(name)));
        }
        return done;
    });
}

result<void> catalogue::resize(std::string_view uuid, std::uint64_t size_bytes) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS {
        return impl_->set_field(query::resize, size_bytes, uuid);
    });
}

result<void> catalogue::set_content(std::string_view uuid, std::string_view content_id) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS {
        return impl_->set_field(query::set_content, content_id, uuid);
    });
}

result<void> catalogue::set_limits(std::string_view uuid, std::uint64_t reserved_bytes,
                                   std::uint64_t limit_bytes) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        return impl_->write_limits(uuid, reserved_bytes, limit_bytes);
    });
}

// "SECONDS OWNER".
result<std::optional<metadata_snapshot_lease>> catalogue::lease() {
    using found_lease = result<std::optional<metadata_snapshot_lease>>;
    const lock_guard held(impl_->lock);
    return impl_->reading([&]() NO_THREAD_SAFETY_ANALYSIS -> found_lease {
        sqlite_statement& row = impl_->at(query::pool_value).bind(1, lease_key);
        if (!UTHIN_TRY(row.step())) {
            return std::nullopt;
        }
        const std::string text = row.text(0);
        row.reset();
        const std::size_t space = text.find(' ');
        const auto seconds = parse_decimal(text.substr(0, space));
        if (space == std::string::npos || !seconds || *seconds > INT64_MAX) {
            return fail(error_code::corrupt, "a lease that makes no sense");
        }
        return metadata_snapshot_lease{text.substr(space + 1), static_cast<std::int64_t>(*seconds)};
    });
}

result<void> catalogue::set_lease(const std::optional<metadata_snapshot_lease>& lease) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        if (!lease) {
            return impl_->at(query::delete_pool_value).bind(1, lease_key).run();
        }
        const std::string text = fmt::format("{} {}", lease->expires_unix_seconds, lease->owner);
        return impl_->at(query::put_pool_value).bind(1, lease_key).bind(2, text).run();
    });
}

result<void> catalogue::adopt(const volume_record& volume,
                              std::span<const std::string> stale_uuids) {
    const lock_guard held(impl_->lock);
    return impl_->change([&]() NO_THREAD_SAFETY_ANALYSIS -> result<void> {
        for (const std::string& uuid : stale_uuids) {
            UTHIN_TRY(impl_->delete_volume(uuid));
        }
        return impl_->insert_volume(volume, false);
    });
}

}  // namespace uthin
