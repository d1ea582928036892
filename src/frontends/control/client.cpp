#include "frontends/control/client.h"

#include <fmt/format.h>

#include "base/result.h"
#include "frontends/control/codec.h"
#include "frontends/control/http_client.h"
#include "frontends/serve.h"
#include "frontends/served_pool.h"
#include "frontends/unix_socket.h"

namespace uthin::frontends {
namespace {

class remote_pool_service final : public pool_service {
public:
    explicit remote_pool_service(std::string socket_path) : socket_path_(std::move(socket_path)) {}

    result<pool_report> status() override {
        return decode_report(UTHIN_TRY(call("GET", "/v1/pool")));
    }
    result<target_lines> kernel_lines() override {
        return decode_target_lines(UTHIN_TRY(call("GET", "/v1/pool/kernel-status")));
    }
    result<target_lines> kernel_lines_of(std::string_view name) override {
        return decode_target_lines(
            UTHIN_TRY(call("GET", UTHIN_TRY(address_of(name)) + "/kernel-status")));
    }
    result<events_reply> events(const events_request& request) override {
        return decode_events_reply(
            UTHIN_TRY(call("GET", fmt::format("/v1/pool/events?after={}&timeout_s={}",
                                              request.after, request.wait_s))));
    }
    result<void> message(std::string_view text) override {
        UTHIN_TRY(call("POST", "/v1/pool/message", {{"message", text}}));
        return {};
    }
    result<pool_report> grow(const grow_request& request) override {
        return decode_report(UTHIN_TRY(call("POST", "/v1/pool/grow", encode(request))));
    }
    result<std::uint64_t> trim() override {
        return decode_number(UTHIN_TRY(call("POST", "/v1/pool/trim", json::object())), "discarded");
    }
    result<check_reply> check(const check_request& request) override {
        return decode_check_reply(UTHIN_TRY(call("POST", "/v1/pool/check", encode(request))));
    }
    result<pool_report> set(const std::map<std::string, std::string>& settings) override {
        return decode_report(UTHIN_TRY(call("POST", "/v1/pool/settings", settings)));
    }
    result<metadata_snapshot_reply> metadata_snapshot(
        const metadata_snapshot_request& request) override {
        const std::string address = "/v1/pool/metadata-snapshot";
        switch (request.action) {
            case metadata_snapshot_action::show: break;
            case metadata_snapshot_action::reserve:
                return decode_metadata_snapshot_reply(
                    UTHIN_TRY(call("POST", address, encode(request))));
            case metadata_snapshot_action::renew:
                return decode_metadata_snapshot_reply(
                    UTHIN_TRY(call("POST", address + "/renew", encode(request))));
            case metadata_snapshot_action::release: {
                const std::string owner =
                    request.owner.empty() ? "" : "?owner=" + url_encoded(request.owner);
                return decode_metadata_snapshot_reply(UTHIN_TRY(call("DELETE", address + owner)));
            }
        }
        return decode_metadata_snapshot_reply(UTHIN_TRY(call("GET", address)));
    }
    result<volume_info> create_volume(const create_volume_request& request) override {
        return decode_volume(UTHIN_TRY(call("POST", "/v1/volumes", encode(request))));
    }
    result<std::vector<volume_info>> list_volumes() override {
        return decode_volumes(UTHIN_TRY(call("GET", "/v1/volumes")));
    }
    result<volume_info> show_volume(std::string_view name) override {
        return decode_volume(UTHIN_TRY(call("GET", UTHIN_TRY(address_of(name)))));
    }
    result<volume_info> rename_volume(std::string_view name, std::string_view new_name) override {
        const std::string address = UTHIN_TRY(address_of(name));
        return decode_volume(UTHIN_TRY(call("POST", address + "/rename", {{"name", new_name}})));
    }
    result<volume_info> resize_volume(std::string_view name, std::uint64_t size_bytes) override {
        const std::string address = UTHIN_TRY(address_of(name));
        return decode_volume(UTHIN_TRY(call("POST", address + "/resize", {{"size", size_bytes}})));
    }
    result<volume_info> set_volume(const set_volume_request& request) override {
        return decode_volume(UTHIN_TRY(
            call("POST", UTHIN_TRY(address_of(request.name)) + "/limits", encode(request))));
    }
    result<usage_reply> usage(const std::vector<std::string>& names) override {
        return decode_usage_reply(UTHIN_TRY(call("POST", "/v1/usage", {{"volumes", names}})));
    }
    result<bool> delete_volume(const delete_volume_request& request) override {
        const std::string address =
            UTHIN_TRY(address_of(request.name)) +
            fmt::format("?if_exists={}&force={}", request.if_exists, request.force);
        return decode_reply_flag(UTHIN_TRY(call("DELETE", address)), "deleted");
    }
    result<volume_info> rollback_volume(const rollback_request& request) override {
        return decode_volume(UTHIN_TRY(
            call("POST", UTHIN_TRY(address_of(request.name)) + "/rollback", encode(request))));
    }
    result<std::vector<volume_info>> create_snapshots(
        const create_snapshots_request& request) override {
        return decode_volumes(UTHIN_TRY(call("POST", "/v1/snapshots", encode(request))));
    }
    result<origin_job_info> start_origin_job(const origin_job_request& request) override {
        const char* verb = request.kind == origin_job_kind::merge ? "/merge" : "/flatten";
        return decode_origin_job_info(
            UTHIN_TRY(call("POST", UTHIN_TRY(address_of(request.name)) + verb, encode(request))));
    }
    result<origin_job_info> show_origin_job(std::string_view name) override {
        return decode_origin_job_info(
            UTHIN_TRY(call("GET", UTHIN_TRY(address_of(name)) + "/origin-job")));
    }
    result<origin_job_info> stop_origin_job(std::string_view name, bool forget) override {
        return decode_origin_job_info(
            UTHIN_TRY(call("DELETE", UTHIN_TRY(address_of(name)) + "/origin-job" +
                                         (forget ? "" : "?pause=true"))));
    }
    result<volume_info> label_volume(const label_request& request) override {
        return decode_volume(UTHIN_TRY(
            call("POST", UTHIN_TRY(address_of(request.name)) + "/labels", encode(request))));
    }
    result<transfer_info> begin_transfer(const begin_transfer_request& request) override {
        return decode_transfer(UTHIN_TRY(call("POST", "/v1/transfers", encode(request))));
    }
    result<std::vector<transfer_info>> list_transfers() override {
        return decode_transfers(UTHIN_TRY(call("GET", "/v1/transfers")));
    }
    result<std::unique_ptr<volume_data>> open_transfer(std::string_view id) override {
        return open_nbd_data(UTHIN_TRY(nbd_socket()), transfer_export_prefix + std::string(id),
                             false);
    }
    result<void> note_transfer(std::string_view id,
                               const std::map<std::string, std::string>& notes) override {
        UTHIN_TRY(call("POST", UTHIN_TRY(address_of_transfer(id)) + "/notes", notes));
        return {};
    }
    result<void> publish_transfer(std::string_view id, const publish_request& request) override {
        UTHIN_TRY(call("POST", UTHIN_TRY(address_of_transfer(id)) + "/publish", encode(request)));
        return {};
    }
    result<void> drop_transfer(std::string_view id) override {
        UTHIN_TRY(call("DELETE", UTHIN_TRY(address_of_transfer(id))));
        return {};
    }
    result<diff_reply> diff(const diff_request& request) override {
        std::string address =
            UTHIN_TRY(address_of(request.to)) +
            fmt::format("/diff?from={}&offset={}&max={}", url_encoded(request.from),
                        request.offset_bytes, request.ranges_max);
        for (const auto& [key, tag] : {std::pair("from_device", &request.from_device),
                                       std::pair("to_device", &request.to_device)}) {
            if (!tag->empty()) {
                address += fmt::format("&{}={}", key, url_encoded(*tag));
            }
        }
        return decode_diff_reply(UTHIN_TRY(call("GET", address)));
    }
    result<release_reply> release() override {
        return decode_release_reply(UTHIN_TRY(call("POST", "/v1/pool/release")));
    }
    result<std::unique_ptr<volume_data>> open_data(std::string_view name, bool read_only) override {
        UTHIN_TRY(show_volume(name));
        return open_nbd_data(UTHIN_TRY(nbd_socket()), std::string(name), read_only);
    }
    // The process that has the pool keeps it.
    result<void> close() override { return {}; }

private:
    [[nodiscard]] result<std::string> nbd_socket() const {
        std::string path =
            UTHIN_TRY(decode_reply_text(UTHIN_TRY(call("GET", "/v1/server")), "nbd_socket"));
        if (path.empty()) {
            return fail(error_code::busy,
                        fmt::format("{}: another uthin command works on the pool: try again when "
                                    "it is done",
                                    socket_path_));
        }
        return path;
    }
    [[nodiscard]] static result<std::string> address_of_transfer(std::string_view id) {
        if (id.empty()) {
            return fail(error_code::invalid_argument, "the id of a transfer must not be empty");
        }
        return "/v1/transfers/" + url_encoded(std::string(id));
    }
    // An empty name would address the list.
    [[nodiscard]] static result<std::string> address_of(std::string_view name) {
        if (name.empty()) {
            return fail(error_code::invalid_argument, "the name of a volume must not be empty");
        }
        return "/v1/volumes/" + url_encoded(std::string(name));
    }

    [[nodiscard]] result<json> call(const char* method, const std::string& target,
                                    const json& body = json()) const {
        const http_answer answer =
            UTHIN_TRY(http_call(socket_path_, method, target, body.is_null() ? "" : to_text(body)));
        json value = json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
        if (!value.is_object() || answer.status != 200) {
            return std::unexpected(value.is_object() ? decode_error(value)
                                                     : decode_error(json::object()));
        }
        return value;
    }

    const std::string socket_path_;
};

}  // namespace

result<std::unique_ptr<pool_service>> connect_pool(const std::string& directory) {
    std::string path = control_socket(directory);
    UTHIN_TRY(connect_unix(path));
    return std::make_unique<remote_pool_service>(std::move(path));
}

}  // namespace uthin::frontends
