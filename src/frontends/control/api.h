// The control API: HTTP requests turned into calls of pool_service. docs/control-api.md describes
// it.
//
// Invariants
//   AP1  Every request is answered; a failure is {"error":{...}} on one line with a status of 4xx
//        or 5xx, and what could not be read changed nothing.
//   AP2  A long poll ends after long_poll_s_max, or when stop() is called; at most long_polls_max
//        run at a time, so that they never take all connections.
//
// Threads   handle: any. stop: any.
//
// Failures  None: they become answers.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "frontends/control/http_server.h"
#include "pool/pool_service.h"
#include "uthin/pool.h"

namespace uthin::frontends {

inline constexpr std::uint64_t long_poll_s_max = 30;
inline constexpr int long_polls_max = 16;

struct control_api_options {
    std::string nbd_socket_path;  // empty: no NBD server
    // More Prometheus text; may be empty.
    std::function<std::string()> more_metrics;
};

class control_api {
public:
    control_api(pool_service& service, control_api_options options)
        : service_(service), options_(std::move(options)) {}

    [[nodiscard]] http_response handle(const http_request& request);
    // Long polls return at once from now on.
    void stop() noexcept { stopping_.store(true); }

private:
    [[nodiscard]] result<std::string> route(const http_request& request);
    [[nodiscard]] result<std::string> route_pool(const http_request& request,
                                                 const std::string& rest);
    [[nodiscard]] result<std::string> route_volume(const http_request& request,
                                                   const std::string& rest);
    [[nodiscard]] result<std::string> origin_job(const http_request& request,
                                                 const std::string& name);
    [[nodiscard]] result<std::string> change_volume(const http_request& request,
                                                    const std::string& name,
                                                    const std::string& verb);
    [[nodiscard]] result<std::string> route_transfers(const http_request& request,
                                                      const std::string& rest);
    [[nodiscard]] result<std::string> metadata_snapshot(const http_request& request, bool renew);
    [[nodiscard]] result<std::string> diff(const http_request& request, const std::string& name);
    [[nodiscard]] result<pool_report> report(const http_request& request);
    [[nodiscard]] result<events_reply> events(const http_request& request);
    // Asks again and again until `is_enough` says so, the time is over or the server ends.
    template <class Reply>
    [[nodiscard]] result<Reply> long_poll(std::uint64_t timeout_s,
                                          const std::function<result<Reply>()>& ask,
                                          const std::function<bool(const Reply&)>& is_enough);
    [[nodiscard]] result<std::string> metrics();

    pool_service& service_;
    const control_api_options options_;
    std::atomic<bool> stopping_{false};
    std::atomic<int> long_polls_{0};
};

}  // namespace uthin::frontends
