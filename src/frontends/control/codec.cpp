#include "frontends/control/codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/result.h"
#include "frontends/control/codec_fields.h"

namespace uthin::frontends {
namespace {

struct code_entry {
    error_code code;
    const char* name;
};

constexpr std::array<code_entry, 19> codes = {{
    {error_code::io_error, "io_error"},
    {error_code::corrupt, "corrupt"},
    {error_code::no_data_space, "no_data_space"},
    {error_code::no_metadata_space, "no_metadata_space"},
    {error_code::not_found, "not_found"},
    {error_code::already_exists, "already_exists"},
    {error_code::invalid_argument, "invalid_argument"},
    {error_code::out_of_range, "out_of_range"},
    {error_code::read_only, "read_only"},
    {error_code::needs_check, "needs_check"},
    {error_code::busy, "busy"},
    {error_code::unsupported, "unsupported"},
    {error_code::cancelled, "cancelled"},
    {error_code::out_of_memory, "out_of_memory"},
    {error_code::would_block, "would_block"},
    {error_code::view_expired, "view_expired"},
    {error_code::wrong_block, "wrong_block"},
    {error_code::not_permitted, "not_permitted"},
    {error_code::failed, "failed"},
}};

// In the order of origin_job_kind.
constexpr std::array<std::string_view, 2> origin_job_names = {"merge", "flatten"};
// In the order of change_kind.
constexpr std::array<std::string_view, 3> change_names = {"changed", "added", "removed"};

json encode(const table_line& line) {
    return {{"name", line.name},
            {"dev_id", line.dev_id},
            {"size", line.size_bytes},
            {"table", line.table}};
}

result<table_line> decode_table_line(const json& value) {
    table_line line;
    field_reader fields(value);
    fields.required("name", line.name);
    fields.required("dev_id", line.dev_id);
    fields.required("size", line.size_bytes);
    fields.required("table", line.table);
    UTHIN_TRY(fields.outcome());
    return line;
}

}  // namespace

const char* code_name(error_code code) noexcept {
    for (const code_entry& entry : codes) {
        if (entry.code == code) {
            return entry.name;
        }
    }
    return "io_error";
}

std::string to_text(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

result<json> parse_object(const std::string& text) {
    if (text.empty()) {
        return json::object();
    }
    json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (value.is_discarded()) {
        return fail(error_code::invalid_argument, "the request is not JSON");
    }
    if (!value.is_object()) {
        return fail(error_code::invalid_argument, "the request is no JSON object");
    }
    return value;
}

json encode(const pool_report& report) {
    json value = {{"uuid", report.uuid},
                  {"directory", report.directory},
                  {"metadata_url", report.metadata_url},
                  {"data_url", report.data_url},
                  {"adopted", report.adopted},
                  {"served", report.served},
                  {"opened_read_only", report.opened_read_only},
                  {"mode", report.mode},
                  {"mode_cause", report.mode_cause},
                  {"needs_check", report.needs_check},
                  {"transaction_id", report.transaction_id},
                  {"block_size", report.block_size_bytes},
                  {"data_blocks", report.data_blocks},
                  {"data_used_blocks", report.data_used_blocks},
                  {"metadata_blocks", report.metadata_blocks},
                  {"metadata_used_blocks", report.metadata_used_blocks},
                  {"metadata_snapshot_block", nullptr},
                  {"low_water_blocks", report.low_water_blocks},
                  {"zeroing", report.zeroing},
                  {"cache", report.cache},
                  {"discard", report.discard},
                  {"no_space", report.no_space},
                  {"volume_count", report.volume_count},
                  {"deletions_running", report.deletions_running},
                  {"virtual_bytes", report.virtual_bytes},
                  {"data_promised_blocks", report.data_promised_blocks},
                  {"overcommit_percent", report.overcommit_percent},
                  {"discard_rate", report.discard_rate_bytes_per_s},
                  {"metadata_snapshot_owner", report.metadata_snapshot_owner},
                  {"metadata_snapshot_expires", report.metadata_snapshot_expires_unix_seconds}};
    if (report.metadata_snapshot_block) {
        value["metadata_snapshot_block"] = *report.metadata_snapshot_block;
    }
    return value;
}

result<pool_report> decode_report(const json& value) {
    pool_report report;
    field_reader fields(value);
    fields.required("uuid", report.uuid);
    fields.required("directory", report.directory);
    fields.required("metadata_url", report.metadata_url);
    fields.required("data_url", report.data_url);
    fields.required("adopted", report.adopted);
    fields.required("served", report.served);
    fields.optional("opened_read_only", report.opened_read_only);
    fields.required("mode", report.mode);
    fields.required("mode_cause", report.mode_cause);
    fields.required("needs_check", report.needs_check);
    fields.required("transaction_id", report.transaction_id);
    fields.required("block_size", report.block_size_bytes);
    fields.required("data_blocks", report.data_blocks);
    fields.required("data_used_blocks", report.data_used_blocks);
    fields.required("metadata_blocks", report.metadata_blocks);
    fields.required("metadata_used_blocks", report.metadata_used_blocks);
    fields.optional("metadata_snapshot_block", report.metadata_snapshot_block);
    fields.required("low_water_blocks", report.low_water_blocks);
    fields.required("zeroing", report.zeroing);
    fields.required("cache", report.cache);
    fields.required("discard", report.discard);
    fields.required("no_space", report.no_space);
    fields.required("volume_count", report.volume_count);
    fields.required("deletions_running", report.deletions_running);
    fields.required("virtual_bytes", report.virtual_bytes);
    fields.required("data_promised_blocks", report.data_promised_blocks);
    fields.required("overcommit_percent", report.overcommit_percent);
    fields.required("discard_rate", report.discard_rate_bytes_per_s);
    fields.required("metadata_snapshot_owner", report.metadata_snapshot_owner);
    fields.required("metadata_snapshot_expires", report.metadata_snapshot_expires_unix_seconds);
    UTHIN_TRY(fields.outcome());
    return report;
}

json encode(const event_info& event) {
    return {{"number", event.number},
            {"time", event.unix_seconds},
            {"event", event.event},
            {"mode", event.mode},
            {"text", event.text}};
}

json encode(const events_reply& reply) {
    json list = json::array();
    for (const event_info& event : reply.events) {
        list.push_back(encode(event));
    }
    return {{"events", std::move(list)}, {"last", reply.last}, {"some_lost", reply.some_lost}};
}

result<events_reply> decode_events_reply(const json& value) {
    events_reply reply;
    field_reader fields(value);
    fields.required("last", reply.last);
    fields.required("some_lost", reply.some_lost);
    UTHIN_TRY(fields.outcome());
    const auto found = value.find("events");
    if (found == value.end() || !found->is_array()) {
        return fail(error_code::invalid_argument, "the field 'events' is missing");
    }
    for (const json& item : *found) {
        event_info event;
        field_reader of_event(item);
        of_event.required("number", event.number);
        of_event.required("time", event.unix_seconds);
        of_event.required("event", event.event);
        of_event.required("mode", event.mode);
        of_event.required("text", event.text);
        UTHIN_TRY(of_event.outcome());
        reply.events.push_back(std::move(event));
    }
    return reply;
}

json encode(const volume_info& volume) {
    json value = {{"name", volume.name},
                  {"uuid", volume.uuid},
                  {"dev_id", volume.dev_id},
                  {"size", volume.size_bytes},
                  {"mapped", volume.mapped_bytes},
                  {"exclusive", nullptr},
                  {"shared", nullptr},
                  {"reserved", volume.reserved_bytes},
                  {"limit", volume.limit_bytes},
                  {"parent", volume.parent},
                  {"parent_uuid", volume.parent_uuid},
                  {"created", volume.created_unix_seconds},
                  {"creation_time", volume.creation_time},
                  {"creation_transaction_id", volume.creation_transaction_id},
                  {"external_origin", volume.external_origin},
                  {"received_from", volume.received_from},
                  {"labels", volume.labels},
                  {"in_use", volume.in_use}};
    if (volume.exclusive_bytes) {
        value["exclusive"] = *volume.exclusive_bytes;
    }
    if (volume.shared_bytes) {
        value["shared"] = *volume.shared_bytes;
    }
    return value;
}

result<volume_info> decode_volume(const json& value) {
    volume_info volume;
    field_reader fields(value);
    fields.required("name", volume.name);
    fields.required("uuid", volume.uuid);
    fields.required("dev_id", volume.dev_id);
    fields.required("size", volume.size_bytes);
    fields.required("mapped", volume.mapped_bytes);
    fields.optional("exclusive", volume.exclusive_bytes);
    fields.optional("shared", volume.shared_bytes);
    fields.required("reserved", volume.reserved_bytes);
    fields.required("limit", volume.limit_bytes);
    fields.required("parent", volume.parent);
    fields.required("parent_uuid", volume.parent_uuid);
    fields.required("created", volume.created_unix_seconds);
    fields.required("creation_time", volume.creation_time);
    fields.required("creation_transaction_id", volume.creation_transaction_id);
    fields.required("external_origin", volume.external_origin);
    fields.required("received_from", volume.received_from);
    fields.required("labels", volume.labels);
    fields.required("in_use", volume.in_use);
    UTHIN_TRY(fields.outcome());
    return volume;
}

json encode(const std::vector<volume_info>& volumes) {
    json list = json::array();
    for (const volume_info& volume : volumes) {
        list.push_back(encode(volume));
    }
    return {{"volumes", std::move(list)}};
}

result<std::vector<volume_info>> decode_volumes(const json& value) {
    const auto found = value.find("volumes");
    if (found == value.end() || !found->is_array()) {
        return fail(error_code::invalid_argument, "the field 'volumes' is missing");
    }
    std::vector<volume_info> volumes;
    for (const json& item : *found) {
        volumes.push_back(UTHIN_TRY(decode_volume(item)));
    }
    return volumes;
}

json encode(const check_reply& reply) {
    return {{"clean", reply.clean},
            {"fatal", reply.fatal},
            {"repairable", reply.repairable},
            {"cosmetic", reply.cosmetic},
            {"findings", reply.findings},
            {"devices", reply.devices},
            {"mapped_blocks", reply.mapped_blocks},
            {"data_blocks_used", reply.data_blocks_used},
            {"metadata_blocks_used", reply.metadata_blocks_used},
            {"needs_check", reply.needs_check},
            {"repaired", reply.repaired},
            {"leaks_mended", reply.leaks_mended}};
}

result<check_reply> decode_check_reply(const json& value) {
    check_reply reply;
    field_reader fields(value);
    fields.required("clean", reply.clean);
    fields.required("fatal", reply.fatal);
    fields.required("repairable", reply.repairable);
    fields.required("cosmetic", reply.cosmetic);
    fields.required("findings", reply.findings);
    fields.required("devices", reply.devices);
    fields.required("mapped_blocks", reply.mapped_blocks);
    fields.required("data_blocks_used", reply.data_blocks_used);
    fields.required("metadata_blocks_used", reply.metadata_blocks_used);
    fields.required("needs_check", reply.needs_check);
    fields.required("repaired", reply.repaired);
    fields.optional("leaks_mended", reply.leaks_mended);
    UTHIN_TRY(fields.outcome());
    return reply;
}

json encode(const target_lines& lines) {
    return {{"status", lines.status}, {"table", lines.table}};
}

result<target_lines> decode_target_lines(const json& value) {
    target_lines lines;
    field_reader fields(value);
    fields.required("status", lines.status);
    fields.required("table", lines.table);
    UTHIN_TRY(fields.outcome());
    return lines;
}

json encode(const release_reply& reply) {
    json volumes = json::array();
    for (const table_line& line : reply.volumes) {
        volumes.push_back(encode(line));
    }
    return {{"pool", encode(reply.pool)}, {"volumes", std::move(volumes)}};
}

result<release_reply> decode_release_reply(const json& value) {
    const auto pool_line = value.find("pool");
    const auto volumes = value.find("volumes");
    if (pool_line == value.end() || volumes == value.end() || !volumes->is_array()) {
        return fail(error_code::invalid_argument, "the field 'pool' or 'volumes' is missing");
    }
    release_reply reply;
    reply.pool = UTHIN_TRY(decode_table_line(*pool_line));
    for (const json& item : *volumes) {
        reply.volumes.push_back(UTHIN_TRY(decode_table_line(item)));
    }
    return reply;
}

json encode(const grow_request& request) {
    json value = json::object();
    if (request.data_size_bytes) {
        value["data_size"] = *request.data_size_bytes;
    }
    if (request.metadata_size_bytes) {
        value["metadata_size"] = *request.metadata_size_bytes;
    }
    return value;
}

result<grow_request> decode_grow(const json& value) {
    grow_request request;
    field_reader fields(value);
    fields.optional("data_size", request.data_size_bytes);
    fields.optional("metadata_size", request.metadata_size_bytes);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    return request;
}

json encode(const check_request& request) {
    return {{"repair", request.repair}};
}

result<check_request> decode_check(const json& value) {
    check_request request;
    field_reader fields(value);
    fields.optional("repair", request.repair);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    return request;
}

json encode(const create_volume_request& request) {
    json value = {{"name", request.name},
                  {"size", request.size_bytes},
                  {"external_origin", request.external_origin},
                  {"reserved", request.reserved_bytes},
                  {"limit", request.limit_bytes},
                  {"if_not_exists", request.if_not_exists}};
    if (request.dev_id) {
        value["dev_id"] = *request.dev_id;
    }
    return value;
}

result<create_volume_request> decode_create_volume(const json& value) {
    create_volume_request request;
    field_reader fields(value);
    fields.required("name", request.name);
    fields.required("size", request.size_bytes);
    fields.optional("dev_id", request.dev_id);
    fields.optional("external_origin", request.external_origin);
    fields.optional("reserved", request.reserved_bytes);
    fields.optional("limit", request.limit_bytes);
    fields.optional("if_not_exists", request.if_not_exists);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    return request;
}

json encode(const create_snapshots_request& request) {
    json list = json::array();
    for (const snapshot_pair& pair : request.snapshots) {
        list.push_back({{"source", pair.source}, {"name", pair.name}, {"labels", pair.labels}});
    }
    return {{"snapshots", std::move(list)}, {"if_not_exists", request.if_not_exists}};
}

result<create_snapshots_request> decode_create_snapshots(const json& value) {
    create_snapshots_request request;
    field_reader fields(value);
    const json* list = fields.find("snapshots");
    fields.optional("if_not_exists", request.if_not_exists);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    if (list == nullptr || !list->is_array()) {
        return fail(error_code::invalid_argument, "the field 'snapshots' is missing or no list");
    }
    for (const json& item : *list) {
        snapshot_pair pair;
        field_reader pair_fields(item);
        pair_fields.required("source", pair.source);
        pair_fields.required("name", pair.name);
        pair_fields.optional("labels", pair.labels);
        pair_fields.refuse_unknown();
        UTHIN_TRY(pair_fields.outcome());
        request.snapshots.push_back(std::move(pair));
    }
    return request;
}

json encode(const changed_range& range) {
    return {{"offset", range.offset_bytes},
            {"length", range.length_bytes},
            {"kind", change_names[static_cast<std::size_t>(range.kind)]}};
}

json encode(const diff_reply& reply) {
    json ranges = json::array();
    for (const changed_range& range : reply.ranges) {
        ranges.push_back(encode(range));
    }
    json value = {{"from_size", reply.from_size_bytes},
                  {"to_size", reply.to_size_bytes},
                  {"block_size", reply.block_size_bytes},
                  {"ranges", std::move(ranges)},
                  {"next_offset", nullptr},
                  {"from_device", reply.from_device},
                  {"to_device", reply.to_device}};
    if (reply.next_offset_bytes) {
        value["next_offset"] = *reply.next_offset_bytes;
    }
    return value;
}

json encode(const rollback_request& request) {
    return {{"to", request.to}, {"force", request.force}};
}

result<diff_reply> decode_diff_reply(const json& value) {
    diff_reply reply;
    field_reader fields(value);
    fields.required("from_size", reply.from_size_bytes);
    fields.required("to_size", reply.to_size_bytes);
    fields.required("block_size", reply.block_size_bytes);
    fields.optional("next_offset", reply.next_offset_bytes);
    fields.optional("from_device", reply.from_device);
    fields.optional("to_device", reply.to_device);
    const json* ranges = fields.find("ranges");
    UTHIN_TRY(fields.outcome());
    if (ranges == nullptr || !ranges->is_array()) {
        return fail(error_code::invalid_argument, "the field 'ranges' is missing");
    }
    for (const json& item : *ranges) {
        changed_range range;
        std::string kind;
        field_reader of_range(item);
        of_range.required("offset", range.offset_bytes);
        of_range.required("length", range.length_bytes);
        of_range.required("kind", kind);
        UTHIN_TRY(of_range.outcome());
        const auto named = std::ranges::find(change_names, kind);
        if (named == change_names.end()) {
            return fail(error_code::invalid_argument, "the field 'kind' is not known");
        }
        range.kind = static_cast<change_kind>(named - change_names.begin());
        reply.ranges.push_back(range);
    }
    return reply;
}

result<rollback_request> decode_rollback(const json& value) {
    rollback_request request;
    field_reader fields(value);
    fields.required("to", request.to);
    fields.optional("force", request.force);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    return request;
}

json encode(const origin_job_request& request) {
    return {{"copy_up", request.copy_up}, {"grow_origin", request.grow_origin}};
}

json encode(const origin_job_info& info) {
    return {
        {"name", info.name},       {"kind", origin_job_names[static_cast<std::size_t>(info.kind)]},
        {"state", info.state},     {"failure", info.failure},
        {"left", info.left_bytes}, {"total", info.total_bytes}};
}

result<origin_job_request> decode_origin_job(const json& value) {
    origin_job_request request;
    field_reader fields(value);
    fields.optional("copy_up", request.copy_up);
    fields.optional("grow_origin", request.grow_origin);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    return request;
}

result<origin_job_info> decode_origin_job_info(const json& value) {
    origin_job_info info;
    std::string kind;
    field_reader fields(value);
    fields.required("name", info.name);
    fields.required("kind", kind);
    fields.required("state", info.state);
    fields.required("failure", info.failure);
    fields.required("left", info.left_bytes);
    fields.required("total", info.total_bytes);
    UTHIN_TRY(fields.outcome());
    const auto named = std::ranges::find(origin_job_names, kind);
    if (named == origin_job_names.end()) {
        return fail(error_code::invalid_argument, "the field 'kind' is not known");
    }
    info.kind = static_cast<origin_job_kind>(named - origin_job_names.begin());
    return info;
}

result<std::map<std::string, std::string>> decode_settings(const json& value) {
    if (!fits(value, std::map<std::string, std::string>())) {
        return fail(error_code::invalid_argument, "settings are texts: {\"KEY\":\"VALUE\"}");
    }
    return value.get<std::map<std::string, std::string>>();
}

namespace {

template <class Value>
result<Value> decode_one(const json& value, const std::string& field, bool is_request) {
    Value found{};
    field_reader fields(value);
    fields.required(field.c_str(), found);
    if (is_request) {
        fields.refuse_unknown();
    }
    UTHIN_TRY(fields.outcome());
    return found;
}

}  // namespace

result<std::string> decode_text(const json& value, const std::string& field) {
    return decode_one<std::string>(value, field, true);
}

result<std::uint64_t> decode_number(const json& value, const std::string& field) {
    return decode_one<std::uint64_t>(value, field, true);
}

result<std::string> decode_reply_text(const json& value, const std::string& field) {
    return decode_one<std::string>(value, field, false);
}

result<bool> decode_reply_flag(const json& value, const std::string& field) {
    return decode_one<bool>(value, field, false);
}

json encode(const metadata_snapshot_reply& reply) {
    json value = {
        {"block", nullptr}, {"owner", reply.owner}, {"expires", reply.expires_unix_seconds}};
    if (reply.block) {
        value["block"] = *reply.block;
    }
    return value;
}

result<metadata_snapshot_reply> decode_metadata_snapshot_reply(const json& value) {
    metadata_snapshot_reply reply;
    field_reader fields(value);
    fields.optional("block", reply.block);
    fields.optional("owner", reply.owner);
    fields.optional("expires", reply.expires_unix_seconds);
    UTHIN_TRY(fields.outcome());
    return reply;
}

json encode(const metadata_snapshot_request& request) {
    json value = json::object();
    if (request.lease_s) {
        value["lease"] = *request.lease_s;
    }
    if (!request.owner.empty()) {
        value["owner"] = request.owner;
    }
    return value;
}

result<metadata_snapshot_request> decode_metadata_snapshot(const json& value) {
    metadata_snapshot_request request;
    field_reader fields(value);
    fields.optional("lease", request.lease_s);
    fields.optional("owner", request.owner);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    return request;
}

json encode(const set_volume_request& request) {
    json value = json::object();
    if (request.reserved_bytes) {
        value["reserved"] = *request.reserved_bytes;
    }
    if (request.limit_bytes) {
        value["limit"] = *request.limit_bytes;
    }
    return value;
}

result<set_volume_request> decode_set_volume(const json& value) {
    set_volume_request request;
    field_reader fields(value);
    fields.optional("reserved", request.reserved_bytes);
    fields.optional("limit", request.limit_bytes);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    return request;
}

json encode(const usage_reply& reply) {
    return {{"mapped", reply.mapped_bytes}, {"freed", reply.freed_bytes}};
}

result<usage_reply> decode_usage_reply(const json& value) {
    usage_reply reply;
    field_reader fields(value);
    fields.required("mapped", reply.mapped_bytes);
    fields.required("freed", reply.freed_bytes);
    UTHIN_TRY(fields.outcome());
    return reply;
}

result<std::vector<std::string>> decode_names(const json& value) {
    return decode_one<std::vector<std::string>>(value, "volumes", true);
}

json encode(const error& failure) {
    return {{"error",
             {{"code", code_name(failure.code())},
              {"errno", failure.os_errno()},
              {"message", failure.message()}}}};
}

error decode_error(const json& value) {
    const auto found = value.find("error");
    if (found != value.end()) {
        std::string name;
        std::string message;
        std::int64_t number = 0;
        field_reader fields(*found);
        fields.required("code", name);
        fields.required("message", message);
        fields.optional("errno", number);
        for (const code_entry& entry : codes) {
            if (fields.outcome() && name == entry.name) {
                return error(entry.code, message, static_cast<int>(number));
            }
        }
    }
    return error(error_code::io_error, "the server of the pool gave an answer without sense");
}

}  // namespace uthin::frontends
