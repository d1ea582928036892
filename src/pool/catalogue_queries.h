// The statements of a catalogue, in the order of their names.
//
// Source    docs/catalogue.md; the tables are in catalogue_schema.h.
#pragma once

#include <array>
#include <cstddef>

namespace uthin::catalogue_sql {

enum class query : std::size_t {
    volumes,
    volume_by_name,
    volume_by_device,
    volume_by_uuid,
    labels,
    intents,
    insert_volume,
    insert_label,
    insert_intent,
    delete_volume,
    delete_labels,
    delete_intent,
    publish_volume,
    roll_back_volume,
    reap_instead,
    rename,
    resize,
    set_content,
    set_origin,
    keep_intent,
    delete_notes,
    pool_value,
    put_pool_value,
    delete_pool_value,
};

// Of the table of limits.
enum class limits_query : std::size_t { find, put, remove, list };

inline constexpr auto limits_sql_of = std::to_array<const char*>({
    "SELECT reserved_bytes, limit_bytes FROM limits WHERE uuid = ?",
    "INSERT OR REPLACE INTO limits (uuid, reserved_bytes, limit_bytes) VALUES (?,?,?)",
    "DELETE FROM limits WHERE uuid = ?",
    "SELECT uuid FROM limits",
});

#define VOLUME_COLUMNS                                                            \
    "uuid, device_id, creation_time, creation_transaction_id, name, size_bytes, " \
    "parent_uuid, created, external_origin, received_from"

inline constexpr auto sql_of = std::to_array<const char*>({
    "SELECT " VOLUME_COLUMNS " FROM volumes WHERE pending = 0 ORDER BY name",
    "SELECT " VOLUME_COLUMNS " FROM volumes WHERE pending = 0 AND name = ?",
    "SELECT " VOLUME_COLUMNS " FROM volumes WHERE pending = 0 AND device_id = ?",
    "SELECT " VOLUME_COLUMNS " FROM volumes WHERE uuid = ?",
    "SELECT key, value FROM labels WHERE uuid = ?",
    "SELECT number, kind, uuid, name, size_bytes, external_origin, device_id, creation_time, "
    "creation_transaction_id FROM intents ORDER BY number",
    "INSERT INTO volumes (" VOLUME_COLUMNS ", pending) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
    "INSERT INTO labels (uuid, key, value) VALUES (?,?,?)",
    "INSERT INTO intents (kind, uuid, name, size_bytes, external_origin, device_id, "
    "creation_time, creation_transaction_id) VALUES (?,?,?,?,?,?,?,?)",
    "DELETE FROM volumes WHERE uuid = ?",
    "DELETE FROM labels WHERE uuid = ?",
    "DELETE FROM intents WHERE number = ?",
    "UPDATE volumes SET pending = 0 WHERE uuid = ?",
    "UPDATE volumes SET size_bytes = ?, external_origin = ? WHERE uuid = ?",
    "UPDATE intents SET kind = ? WHERE number = ?",
    "UPDATE volumes SET name = ? WHERE uuid = ? AND pending = 0",
    "UPDATE volumes SET size_bytes = ? WHERE uuid = ? AND pending = 0",
    "UPDATE volumes SET received_from = ? WHERE uuid = ? AND pending = 0",
    "UPDATE volumes SET external_origin = ? WHERE uuid = ? AND pending = 0",
    "UPDATE intents SET kind = ?, uuid = ?, name = ?, size_bytes = ? WHERE number = ?",
    "DELETE FROM labels WHERE uuid = (SELECT uuid FROM intents WHERE number = ? AND kind = ?)",
    "SELECT value FROM pool WHERE key = ?",
    "INSERT OR REPLACE INTO pool (key, value) VALUES (?,?)",
    "DELETE FROM pool WHERE key = ?",
});

#undef VOLUME_COLUMNS

}  // namespace uthin::catalogue_sql
