// The tables of a catalogue.
//
// Source    docs/catalogue.md.
#pragma once

#include <cstdint>

namespace uthin {

inline constexpr std::int64_t application_id = 0x75746863;  // "uthc"
inline constexpr std::int64_t schema_version = 1;
// With the table of limits, which is made when a volume gets one for the first time: a program that
// does not know it must not run the pool without them.
inline constexpr std::int64_t schema_version_limits = 2;

// STRICT: a column holds what it says, whoever wrote the file.
inline constexpr const char* catalogue_schema = R"sql(
CREATE TABLE pool (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE volumes (
    uuid TEXT PRIMARY KEY NOT NULL,
    device_id INTEGER NOT NULL UNIQUE,
    creation_time INTEGER NOT NULL,
    creation_transaction_id INTEGER NOT NULL,
    name TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    parent_uuid TEXT NOT NULL,
    created INTEGER NOT NULL,
    external_origin TEXT NOT NULL,
    received_from TEXT NOT NULL,
    pending INTEGER NOT NULL
) STRICT;
CREATE TABLE labels (
    uuid TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (uuid, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE intents (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind INTEGER NOT NULL,
    uuid TEXT NOT NULL,
    name TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    external_origin TEXT NOT NULL,
    device_id INTEGER NOT NULL,
    creation_time INTEGER NOT NULL,
    creation_transaction_id INTEGER NOT NULL
) STRICT;
)sql";

// Made with the first promise or limit.
inline constexpr const char* catalogue_limits_schema = R"sql(
CREATE TABLE limits (
    uuid TEXT PRIMARY KEY NOT NULL,
    reserved_bytes INTEGER NOT NULL,
    limit_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
)sql";

}  // namespace uthin
