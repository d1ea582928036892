#include "frontends/control/api.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <functional>
#include <optional>
#include <set>

#include "base/clock.h"
#include "base/result.h"
#include "frontends/control/codec.h"
#include "frontends/replicate.h"
#include "uthin/version.h"

namespace uthin::frontends {
namespace {

using namespace std::chrono_literals;
constexpr auto long_poll_step = 100ms;

// Outside the codes: which of them mean that the address or the method was wrong.
constexpr const char* no_such_method = "no such method here";
constexpr const char* no_such_address = "no such address: see docs/control-api.md";

unsigned status_of(const error& failure) {
    switch (failure.code()) {
        case error_code::not_found: return failure.message() == no_such_method ? 405 : 404;
        case error_code::already_exists:
        case error_code::busy: return 409;
        case error_code::invalid_argument:
        case error_code::out_of_range: return 400;
        case error_code::not_permitted:
        case error_code::read_only:
        case error_code::needs_check: return 403;
        case error_code::unsupported: return 501;
        case error_code::no_data_space:
        case error_code::no_metadata_space: return 507;
        default: return 500;
    }
}

std::unexpected<error> wrong_method() {
    return fail(error_code::not_found, no_such_method);
}

std::unexpected<error> wrong_address() {
    return fail(error_code::not_found, no_such_address);
}

result<void> check_query(const http_request& request, const std::set<std::string>& known) {
    for (const auto& [key, value] : request.query) {
        if (!known.contains(key)) {
            return fail(error_code::invalid_argument, fmt::format("unknown parameter '{}'", key));
        }
    }
    return {};
}

result<std::uint64_t> query_number(const http_request& request, const std::string& key) {
    const std::string& text = request.query.at(key);
    std::uint64_t number = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (code != std::errc() || end != text.data() + text.size()) {
        return fail(error_code::invalid_argument, fmt::format("{}={}: not a number", key, text));
    }
    return number;
}

// Empty when it is not there.
std::string query_text(const http_request& request, const std::string& key) {
    const auto found = request.query.find(key);
    return found == request.query.end() ? std::string() : found->second;
}

result<bool> query_flag(const http_request& request, const std::string& key) {
    const auto found = request.query.find(key);
    if (found == request.query.end() || found->second == "false") {
        return false;
    }
    if (found->second != "true") {
        return fail(error_code::invalid_argument, fmt::format("{}: say true or false", key));
    }
    return true;
}

std::string label_escaped(const std::string& text) {
    std::string escaped;
    for (const char c : text) {
        if (c == '\\' || c == '"') {
            escaped += '\\';
        }
        escaped += c == '\n' ? ' ' : c;
    }
    return escaped;
}

std::string gauge(const char* name, const char* help, std::uint64_t value) {
    return fmt::format("# HELP {0} {1}\n# TYPE {0} gauge\n{0} {2}\n", name, help, value);
}

// One gauge with a line for each volume that says something.
std::string volume_gauge(
    const std::vector<volume_info>& volumes, const char* name, const char* help,
    const std::function<std::optional<std::uint64_t>(const volume_info&)>& of) {
    std::string text = fmt::format("# HELP {0} {1}\n# TYPE {0} gauge\n", name, help);
    for (const volume_info& volume : volumes) {
        if (const auto value = of(volume)) {
            text +=
                fmt::format("{}{{volume=\"{}\"}} {}\n", name, label_escaped(volume.name), *value);
        }
    }
    return text;
}

std::string volume_metrics(const std::vector<volume_info>& volumes) {
    using number = std::optional<std::uint64_t>;
    return volume_gauge(volumes, "uthin_volume_size_bytes", "Size that clients see.",
                        [](const volume_info& volume) -> number { return volume.size_bytes; }) +
           volume_gauge(volumes, "uthin_volume_mapped_bytes",
                        "Mapped data blocks, shared ones included.",
                        [](const volume_info& volume) -> number { return volume.mapped_bytes; }) +
           volume_gauge(volumes, "uthin_volume_exclusive_bytes", "What deleting it would free.",
                        [](const volume_info& volume) { return volume.exclusive_bytes; }) +
           volume_gauge(volumes, "uthin_volume_shared_bytes",
                        "Mapped data blocks that something else holds too.",
                        [](const volume_info& volume) { return volume.shared_bytes; }) +
           volume_gauge(volumes, "uthin_volume_reserved_bytes", "Promised to it, mapped or not.",
                        [](const volume_info& volume) -> number { return volume.reserved_bytes; }) +
           volume_gauge(volumes, "uthin_volume_limit_bytes", "It maps no more; 0: no limit.",
                        [](const volume_info& volume) -> number { return volume.limit_bytes; });
}

std::string replica_metrics(const std::vector<volume_info>& volumes) {
    const std::int64_t now = system_clock().unix_seconds();
    std::string lags =
        "# HELP uthin_replica_lag_seconds Age of the state that the replica shows.\n"
        "# TYPE uthin_replica_lag_seconds gauge\n";
    std::string failures =
        "# HELP uthin_replica_failures Rounds that failed since the last one that did not.\n"
        "# TYPE uthin_replica_failures gauge\n";
    for (const volume_info& volume : volumes) {
        for (const replica_state& replica : replicas_of(volume)) {
            const std::string of =
                fmt::format("{{volume=\"{}\",target=\"{}\"}}", label_escaped(volume.name),
                            label_escaped(replica.target));
            if (replica.replicated_unix_seconds != 0) {
                lags += fmt::format("uthin_replica_lag_seconds{} {}\n", of,
                                    now - replica.replicated_unix_seconds);
            }
            failures += fmt::format("uthin_replica_failures{} {}\n", of, replica.failures);
        }
    }
    return lags + failures;
}

}  // namespace

http_response control_api::handle(const http_request& request) {
    const bool is_metrics = request.path == "/metrics";
    result<std::string> outcome = fail(error_code::out_of_memory, "out of memory");
    try {
        outcome = route(request);
    } catch (const std::exception& problem) {
        outcome = fail(error_code::out_of_memory, problem.what());
    }
    if (!outcome) {
        return {status_of(outcome.error()), "application/json",
                to_text(encode(outcome.error())) + "\n"};
    }
    return {200, is_metrics ? "text/plain; version=0.0.4" : "application/json",
            std::move(*outcome) + (is_metrics ? "" : "\n")};
}

result<std::string> control_api::route(const http_request& request) {
    const std::string& path = request.path;
    if (path == "/metrics") {
        return request.method == "GET" ? metrics() : wrong_method();
    }
    if (path == "/v1/server") {
        if (request.method != "GET") {
            return wrong_method();
        }
        return to_text({{"version", version_string},
                        {"pid", static_cast<std::uint64_t>(::getpid())},
                        {"nbd_socket", options_.nbd_socket_path}});
    }
    if (path == "/v1/pool" || path.starts_with("/v1/pool/")) {
        return route_pool(request, path.substr(std::min<std::size_t>(path.size(), 9)));
    }
    if (path == "/v1/volumes") {
        UTHIN_TRY(check_query(request, {}));
        if (request.method == "GET") {
            return to_text(encode(UTHIN_TRY(service_.list_volumes())));
        }
        if (request.method == "POST") {
            return to_text(encode(UTHIN_TRY(service_.create_volume(
                UTHIN_TRY(decode_create_volume(UTHIN_TRY(parse_object(request.body))))))));
        }
        return wrong_method();
    }
    if (path.starts_with("/v1/volumes/")) {
        return route_volume(request, path.substr(12));
    }
    if (path == "/v1/transfers" || path.starts_with("/v1/transfers/")) {
        return route_transfers(request, path.substr(std::min<std::size_t>(path.size(), 14)));
    }
    if (path == "/v1/usage") {
        if (request.method != "POST") {
            return wrong_method();
        }
        return to_text(encode(UTHIN_TRY(
            service_.usage(UTHIN_TRY(decode_names(UTHIN_TRY(parse_object(request.body))))))));
    }
    if (path == "/v1/snapshots") {
        if (request.method != "POST") {
            return wrong_method();
        }
        return to_text(encode(UTHIN_TRY(service_.create_snapshots(
            UTHIN_TRY(decode_create_snapshots(UTHIN_TRY(parse_object(request.body))))))));
    }
    return wrong_address();
}

template <class Reply>
result<Reply> control_api::long_poll(std::uint64_t timeout_s,
                                     const std::function<result<Reply>()>& ask,
                                     const std::function<bool(const Reply&)>& is_enough) {
    result<Reply> latest = ask();
    if (!latest || timeout_s == 0 || is_enough(*latest)) {
        return latest;
    }
    if (long_polls_.fetch_add(1) >= long_polls_max) {
        long_polls_.fetch_sub(1);
        return fail(error_code::busy, "too many requests wait already: ask again later");
    }
    const auto end = system_clock().monotonic() + std::chrono::seconds(timeout_s);
    while (latest && !is_enough(*latest) && !stopping_.load() && system_clock().monotonic() < end) {
        system_clock().sleep_for(long_poll_step);
        latest = ask();
    }
    long_polls_.fetch_sub(1);
    return latest;
}

result<events_reply> control_api::events(const http_request& request) {
    UTHIN_TRY(check_query(request, {"after", "timeout_s"}));
    events_request wanted;
    std::uint64_t timeout_s = 0;
    if (request.query.contains("after")) {
        wanted.after = UTHIN_TRY(query_number(request, "after"));
    }
    if (request.query.contains("timeout_s")) {
        timeout_s = std::min(long_poll_s_max, UTHIN_TRY(query_number(request, "timeout_s")));
    }
    return long_poll<events_reply>(
        timeout_s, [&] { return service_.events(wanted); },
        [](const events_reply& reply) { return !reply.events.empty() || reply.some_lost; });
}

// With while_mode=MODE the answer waits until the pool is in another mode, at most timeout_s.
result<pool_report> control_api::report(const http_request& request) {
    UTHIN_TRY(check_query(request, {"while_mode", "timeout_s"}));
    const auto mode = request.query.find("while_mode");
    std::uint64_t timeout_s = long_poll_s_max;
    if (request.query.contains("timeout_s")) {
        timeout_s = std::min(long_poll_s_max, UTHIN_TRY(query_number(request, "timeout_s")));
    }
    if (mode == request.query.end()) {
        return service_.status();
    }
    return long_poll<pool_report>(
        timeout_s, [&] { return service_.status(); },
        [&](const pool_report& report) { return report.mode != mode->second; });
}

result<std::string> control_api::route_pool(const http_request& request, const std::string& rest) {
    const bool is_get = request.method == "GET";
    if (rest.empty()) {
        return is_get ? result<std::string>(to_text(encode(UTHIN_TRY(report(request)))))
                      : wrong_method();
    }
    if (rest == "events") {
        return is_get ? result<std::string>(to_text(encode(UTHIN_TRY(events(request)))))
                      : wrong_method();
    }
    if (rest == "metadata-snapshot" || rest == "metadata-snapshot/renew") {
        return metadata_snapshot(request, rest.ends_with("/renew"));
    }
    UTHIN_TRY(check_query(request, {}));
    if (rest == "kernel-status") {
        return is_get ? result<std::string>(to_text(encode(UTHIN_TRY(service_.kernel_lines()))))
                      : wrong_method();
    }
    static const std::set<std::string> posts = {"message", "grow",     "trim",
                                                "check",   "settings", "release"};
    if (!posts.contains(rest)) {
        return wrong_address();
    }
    if (request.method != "POST") {
        return wrong_method();
    }
    const json body = UTHIN_TRY(parse_object(request.body));
    if (rest == "message") {
        UTHIN_TRY(service_.message(UTHIN_TRY(decode_text(body, "message"))));
        return std::string("{}");
    }
    if (rest == "grow") {
        return to_text(encode(UTHIN_TRY(service_.grow(UTHIN_TRY(decode_grow(body))))));
    }
    if (rest == "trim") {
        const auto discarded = UTHIN_TRY(service_.trim());
        return to_text(json({{"discarded", discarded}}));
    }
    if (rest == "check") {
        return to_text(encode(UTHIN_TRY(service_.check(UTHIN_TRY(decode_check(body))))));
    }
    if (rest == "settings") {
        return to_text(encode(UTHIN_TRY(service_.set(UTHIN_TRY(decode_settings(body))))));
    }
    return to_text(encode(UTHIN_TRY(service_.release())));
}

result<std::string> control_api::metadata_snapshot(const http_request& request, bool renew) {
    const bool is_release = request.method == "DELETE" && !renew;
    UTHIN_TRY(check_query(request,
                          is_release ? std::set<std::string>{"owner"} : std::set<std::string>()));
    metadata_snapshot_request wanted;
    if (request.method == "POST") {
        wanted = UTHIN_TRY(decode_metadata_snapshot(UTHIN_TRY(parse_object(request.body))));
        wanted.action = renew ? metadata_snapshot_action::renew : metadata_snapshot_action::reserve;
    } else if (is_release) {
        wanted.action = metadata_snapshot_action::release;
        wanted.owner = query_text(request, "owner");
    } else if (request.method != "GET" || renew) {
        return wrong_method();
    }
    return to_text(encode(UTHIN_TRY(service_.metadata_snapshot(wanted))));
}

result<std::string> control_api::route_volume(const http_request& request,
                                              const std::string& rest) {
    const std::size_t slash = rest.find('/');
    const std::string name = rest.substr(0, slash);
    if (slash != std::string::npos && rest.substr(slash + 1) == "diff") {
        return request.method == "GET" ? diff(request, name) : wrong_method();
    }
    if (slash != std::string::npos && rest.substr(slash + 1) == "origin-job") {
        return origin_job(request, name);
    }
    if (slash != std::string::npos && rest.substr(slash + 1) == "kernel-status") {
        UTHIN_TRY(check_query(request, {}));
        return request.method == "GET"
                   ? result<std::string>(to_text(encode(UTHIN_TRY(service_.kernel_lines_of(name)))))
                   : wrong_method();
    }
    if (slash != std::string::npos) {
        return change_volume(request, name, rest.substr(slash + 1));
    }
    if (request.method == "GET") {
        UTHIN_TRY(check_query(request, {}));
        return to_text(encode(UTHIN_TRY(service_.show_volume(name))));
    }
    if (request.method == "DELETE") {
        UTHIN_TRY(check_query(request, {"if_exists", "force"}));
        delete_volume_request deletion;
        deletion.name = name;
        deletion.force = UTHIN_TRY(query_flag(request, "force"));
        deletion.if_exists = UTHIN_TRY(query_flag(request, "if_exists"));
        const auto deleted = UTHIN_TRY(service_.delete_volume(deletion));
        return to_text(json({{"deleted", deleted}}));
    }
    return wrong_method();
}

// `rest`: nothing, ID or ID/VERB.
result<std::string> control_api::route_transfers(const http_request& request,
                                                 const std::string& rest) {
    UTHIN_TRY(check_query(request, {}));
    const std::size_t slash = rest.find('/');
    const std::string id = rest.substr(0, slash);
    const std::string verb = slash == std::string::npos ? "" : rest.substr(slash + 1);
    if (rest.empty() && request.method == "GET") {
        return to_text(encode(UTHIN_TRY(service_.list_transfers())));
    }
    if (!id.empty() && verb.empty() && request.method == "DELETE") {
        UTHIN_TRY(service_.drop_transfer(id));
        return std::string("{}");
    }
    if (verb.empty() ? !rest.empty() : verb != "notes" && verb != "publish") {
        return verb.empty() ? wrong_method() : wrong_address();
    }
    if (request.method != "POST") {
        return wrong_method();
    }
    const json body = UTHIN_TRY(parse_object(request.body));
    if (rest.empty()) {
        return to_text(
            encode(UTHIN_TRY(service_.begin_transfer(UTHIN_TRY(decode_begin_transfer(body))))));
    }
    if (verb == "notes") {
        UTHIN_TRY(service_.note_transfer(id, UTHIN_TRY(decode_settings(body))));
    } else {
        UTHIN_TRY(service_.publish_transfer(id, UTHIN_TRY(decode_publish(body))));
    }
    return std::string("{}");
}

result<std::string> control_api::diff(const http_request& request, const std::string& name) {
    UTHIN_TRY(check_query(request, {"from", "offset", "max", "from_device", "to_device"}));
    diff_request wanted;
    wanted.to = name;
    wanted.from = query_text(request, "from");
    wanted.from_device = query_text(request, "from_device");
    wanted.to_device = query_text(request, "to_device");
    if (request.query.contains("offset")) {
        wanted.offset_bytes = UTHIN_TRY(query_number(request, "offset"));
    }
    if (request.query.contains("max")) {
        wanted.ranges_max = UTHIN_TRY(query_number(request, "max"));
    }
    return to_text(encode(UTHIN_TRY(service_.diff(wanted))));
}

// GET: how far it is; DELETE: stops it, with pause=true until it is started again.
result<std::string> control_api::origin_job(const http_request& request, const std::string& name) {
    const bool stops = request.method == "DELETE";
    UTHIN_TRY(
        check_query(request, stops ? std::set<std::string>{"pause"} : std::set<std::string>()));
    if (stops) {
        const bool pause = UTHIN_TRY(query_flag(request, "pause"));
        return to_text(encode(UTHIN_TRY(service_.stop_origin_job(name, !pause))));
    }
    return request.method == "GET"
               ? result<std::string>(to_text(encode(UTHIN_TRY(service_.show_origin_job(name)))))
               : wrong_method();
}

result<std::string> control_api::change_volume(const http_request& request, const std::string& name,
                                               const std::string& verb) {
    static const std::set<std::string> verbs = {"rename", "resize",  "rollback", "labels",
                                                "merge",  "flatten", "limits"};
    if (!verbs.contains(verb)) {
        return wrong_address();
    }
    if (request.method != "POST") {
        return wrong_method();
    }
    UTHIN_TRY(check_query(request, {}));
    const json body = UTHIN_TRY(parse_object(request.body));
    if (verb == "rename") {
        return to_text(
            encode(UTHIN_TRY(service_.rename_volume(name, UTHIN_TRY(decode_text(body, "name"))))));
    }
    if (verb == "resize") {
        return to_text(encode(
            UTHIN_TRY(service_.resize_volume(name, UTHIN_TRY(decode_number(body, "size"))))));
    }
    if (verb == "merge" || verb == "flatten") {
        origin_job_request job = UTHIN_TRY(decode_origin_job(body));
        job.name = name;
        job.kind = verb == "merge" ? origin_job_kind::merge : origin_job_kind::flatten;
        return to_text(encode(UTHIN_TRY(service_.start_origin_job(job))));
    }
    if (verb == "labels") {
        label_request labels = UTHIN_TRY(decode_label(body));
        labels.name = name;
        return to_text(encode(UTHIN_TRY(service_.label_volume(labels))));
    }
    if (verb == "limits") {
        set_volume_request limits = UTHIN_TRY(decode_set_volume(body));
        limits.name = name;
        return to_text(encode(UTHIN_TRY(service_.set_volume(limits))));
    }
    rollback_request rollback = UTHIN_TRY(decode_rollback(body));
    rollback.name = name;
    return to_text(encode(UTHIN_TRY(service_.rollback_volume(rollback))));
}

result<std::string> control_api::metrics() {
    const pool_report found = UTHIN_TRY(service_.status());
    std::string text;
    text +=
        gauge("uthin_pool_data_block_size_bytes", "Size of a data block.", found.block_size_bytes);
    text += gauge("uthin_pool_data_blocks", "Data blocks of the pool.", found.data_blocks);
    text += gauge("uthin_pool_data_used_blocks", "Data blocks in use.", found.data_used_blocks);
    text += gauge("uthin_pool_metadata_blocks", "Metadata blocks of 4 KiB.", found.metadata_blocks);
    text += gauge("uthin_pool_metadata_used_blocks", "Metadata blocks in use.",
                  found.metadata_used_blocks);
    text += gauge("uthin_pool_transaction_id", "Transaction id of the user.", found.transaction_id);
    text += gauge("uthin_pool_needs_check", "1 when the metadata must be checked.",
                  found.needs_check ? 1 : 0);
    text +=
        gauge("uthin_pool_deletions_running", "Volumes being deleted.", found.deletions_running);
    text += gauge("uthin_pool_data_promised_blocks",
                  "Data blocks promised to volumes that have not mapped them yet.",
                  found.data_promised_blocks);
    text +=
        gauge("uthin_pool_virtual_bytes", "Sum of the sizes of all volumes.", found.virtual_bytes);
    text +=
        "# HELP uthin_pool_mode 1 for the mode that the pool is in.\n"
        "# TYPE uthin_pool_mode gauge\n";
    for (const pool_mode mode :
         {pool_mode::write, pool_mode::out_of_data_space, pool_mode::out_of_metadata_space,
          pool_mode::read_only, pool_mode::fail}) {
        text += fmt::format("uthin_pool_mode{{mode=\"{}\"}} {}\n", to_string(mode),
                            found.mode == to_string(mode) ? 1 : 0);
    }
    const auto volumes = UTHIN_TRY(service_.list_volumes());
    text += volume_metrics(volumes) + replica_metrics(volumes);
    return text + (options_.more_metrics ? options_.more_metrics() : "");
}

}  // namespace uthin::frontends
