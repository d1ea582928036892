// The structures of pool_service as JSON, both ways; docs/control-api.md lists the fields.
//
// Invariants
//   CO1  decode(encode(x)) == x.
//   CO2  A request with a field that is unknown, missing or of the wrong type is refused whole.
//        Replies are read leniently: a newer server may say more.
//
// Threads   Plain functions.
//
// Failures  invalid_argument that names the field.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pool/pool_service.h"
#include "uthin/error.h"

namespace uthin::frontends {

using json = nlohmann::json;

// Bytes that are not UTF-8 are replaced: they come from paths and old names only.
[[nodiscard]] std::string to_text(const json& value);
// One JSON object; empty text is an empty object. The message fits one line.
[[nodiscard]] result<json> parse_object(const std::string& text);

[[nodiscard]] json encode(const pool_report& report);
[[nodiscard]] json encode(const event_info& event);
[[nodiscard]] json encode(const events_reply& reply);
[[nodiscard]] json encode(const volume_info& volume);
[[nodiscard]] json encode(const std::vector<volume_info>& volumes);  // {"volumes":[...]}
[[nodiscard]] json encode(const check_reply& reply);
[[nodiscard]] json encode(const target_lines& lines);
[[nodiscard]] json encode(const release_reply& reply);
[[nodiscard]] json encode(const diff_reply& reply);
[[nodiscard]] json encode(const changed_range& range);
[[nodiscard]] json encode(const grow_request& request);
[[nodiscard]] json encode(const check_request& request);
[[nodiscard]] json encode(const create_volume_request& request);
[[nodiscard]] json encode(const create_snapshots_request& request);
[[nodiscard]] json encode(const rollback_request& request);  // without the name: it is in the path
[[nodiscard]] json encode(const origin_job_request& request);  // without name and kind, likewise
[[nodiscard]] json encode(const origin_job_info& info);
[[nodiscard]] json encode(const label_request& request);  // without the name
[[nodiscard]] json encode(const transfer_info& transfer);
[[nodiscard]] json encode(const std::vector<transfer_info>& transfers);  // {"transfers":[...]}
[[nodiscard]] json encode(const begin_transfer_request& request);
[[nodiscard]] json encode(const publish_request& request);
[[nodiscard]] json encode(const metadata_snapshot_request& request);  // without the action
[[nodiscard]] json encode(const metadata_snapshot_reply& reply);
[[nodiscard]] json encode(const set_volume_request& request);  // without the name
[[nodiscard]] json encode(const usage_reply& reply);
[[nodiscard]] json encode(const error& failure);  // {"error":{"code","errno","message"}}

[[nodiscard]] result<pool_report> decode_report(const json& value);
[[nodiscard]] result<events_reply> decode_events_reply(const json& value);
[[nodiscard]] result<volume_info> decode_volume(const json& value);
[[nodiscard]] result<std::vector<volume_info>> decode_volumes(const json& value);
[[nodiscard]] result<check_reply> decode_check_reply(const json& value);
[[nodiscard]] result<target_lines> decode_target_lines(const json& value);
[[nodiscard]] result<release_reply> decode_release_reply(const json& value);
[[nodiscard]] result<diff_reply> decode_diff_reply(const json& value);
[[nodiscard]] result<grow_request> decode_grow(const json& value);
[[nodiscard]] result<check_request> decode_check(const json& value);
[[nodiscard]] result<create_volume_request> decode_create_volume(const json& value);
[[nodiscard]] result<create_snapshots_request> decode_create_snapshots(const json& value);
[[nodiscard]] result<rollback_request> decode_rollback(const json& value);
[[nodiscard]] result<origin_job_request> decode_origin_job(const json& value);
[[nodiscard]] result<origin_job_info> decode_origin_job_info(const json& value);
[[nodiscard]] result<label_request> decode_label(const json& value);
[[nodiscard]] result<transfer_info> decode_transfer(const json& value);
[[nodiscard]] result<std::vector<transfer_info>> decode_transfers(const json& value);
[[nodiscard]] result<begin_transfer_request> decode_begin_transfer(const json& value);
[[nodiscard]] result<publish_request> decode_publish(const json& value);
[[nodiscard]] result<std::map<std::string, std::string>> decode_settings(const json& value);
// A single text, number or flag: {"FIELD": ...}.
[[nodiscard]] result<std::string> decode_text(const json& value, const std::string& field);
[[nodiscard]] result<std::uint64_t> decode_number(const json& value, const std::string& field);
[[nodiscard]] result<std::string> decode_reply_text(const json& value, const std::string& field);
[[nodiscard]] result<bool> decode_reply_flag(const json& value, const std::string& field);
[[nodiscard]] result<metadata_snapshot_request> decode_metadata_snapshot(const json& value);
[[nodiscard]] result<metadata_snapshot_reply> decode_metadata_snapshot_reply(const json& value);
[[nodiscard]] result<set_volume_request> decode_set_volume(const json& value);
[[nodiscard]] result<usage_reply> decode_usage_reply(const json& value);
// {"volumes":["NAME",...]}
[[nodiscard]] result<std::vector<std::string>> decode_names(const json& value);
// The error that encode(error) wrote; io_error when `value` is none.
[[nodiscard]] error decode_error(const json& value);

// "not_found": the name of the code in C++ and in JSON.
[[nodiscard]] const char* code_name(error_code code) noexcept;

}  // namespace uthin::frontends
