// Labels and transfers as JSON.
#include "base/result.h"
#include "frontends/control/codec.h"
#include "frontends/control/codec_fields.h"

namespace uthin::frontends {

json encode(const label_request& request) {
    return {{"set", request.set}, {"remove", request.remove}};
}

result<label_request> decode_label(const json& value) {
    label_request request;
    field_reader fields(value);
    fields.optional("set", request.set);
    fields.optional("remove", request.remove);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    return request;
}

json encode(const transfer_info& transfer) {
    return {{"id", transfer.id},           {"name", transfer.name},
            {"size", transfer.size_bytes}, {"mapped", transfer.mapped_bytes},
            {"notes", transfer.notes},     {"noted", transfer.noted_unix_seconds},
            {"in_use", transfer.in_use}};
}

result<transfer_info> decode_transfer(const json& value) {
    transfer_info transfer;
    field_reader fields(value);
    fields.required("id", transfer.id);
    fields.required("name", transfer.name);
    fields.required("size", transfer.size_bytes);
    fields.required("mapped", transfer.mapped_bytes);
    fields.required("notes", transfer.notes);
    fields.required("noted", transfer.noted_unix_seconds);
    fields.required("in_use", transfer.in_use);
    UTHIN_TRY(fields.outcome());
    return transfer;
}

json encode(const std::vector<transfer_info>& transfers) {
    json list = json::array();
    for (const transfer_info& transfer : transfers) {
        list.push_back(encode(transfer));
    }
    return {{"transfers", std::move(list)}};
}

result<std::vector<transfer_info>> decode_transfers(const json& value) {
    const auto found = value.find("transfers");
    if (found == value.end() || !found->is_array()) {
        return fail(error_code::invalid_argument, "the field 'transfers' is missing");
    }
    std::vector<transfer_info> transfers;
    for (const json& item : *found) {
        transfers.push_back(UTHIN_TRY(decode_transfer(item)));
    }
    return transfers;
}

json encode(const begin_transfer_request& request) {
    return {{"name", request.name},
            {"base", request.base},
            {"size", request.size_bytes},
            {"notes", request.notes}};
}

result<begin_transfer_request> decode_begin_transfer(const json& value) {
    begin_transfer_request request;
    field_reader fields(value);
    fields.required("name", request.name);
    fields.optional("base", request.base);
    fields.required("size", request.size_bytes);
    fields.optional("notes", request.notes);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    return request;
}

json encode(const publish_request& request) {
    json value = {{"name", request.name},         {"replaces", nullptr},
                  {"snapshot", request.snapshot}, {"received_from", request.received_from},
                  {"labels", request.labels},     {"snapshot_labels", request.snapshot_labels}};
    if (request.replaces) {
        value["replaces"] = {{"dev_id", request.replaces->dev_id},
                             {"creation_time", request.replaces->creation_time},
                             {"creation_transaction_id", request.replaces->creation_transaction_id},
                             {"size", request.replaces->size_bytes}};
    }
    return value;
}

result<publish_request> decode_publish(const json& value) {
    publish_request request;
    field_reader fields(value);
    fields.required("name", request.name);
    const json* replaces = fields.find("replaces");
    fields.optional("snapshot", request.snapshot);
    fields.optional("received_from", request.received_from);
    fields.optional("labels", request.labels);
    fields.optional("snapshot_labels", request.snapshot_labels);
    fields.refuse_unknown();
    UTHIN_TRY(fields.outcome());
    if (replaces != nullptr && !replaces->is_null()) {
        seen_volume& seen = request.replaces.emplace();
        field_reader of_seen(*replaces);
        of_seen.required("dev_id", seen.dev_id);
        of_seen.required("creation_time", seen.creation_time);
        of_seen.required("creation_transaction_id", seen.creation_transaction_id);
        of_seen.required("size", seen.size_bytes);
        of_seen.refuse_unknown();
        UTHIN_TRY(of_seen.outcome());
    }
    return request;
}

}  // namespace uthin::frontends
