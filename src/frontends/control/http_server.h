// A small HTTP/1.1 server on a listening socket that the caller opened.
//
// Invariants
//   HS1  A request body above request_bytes_max is answered 413 and never kept.
//   HS2  At most connections_max connections; one that sends nothing for idle_timeout_s is closed.
//   HS3  After stop() no handler runs and none will.
//
// Threads   The handler is called from one thread for each connection, so one that blocks holds up
//           nobody else. start and stop: one thread.
//
// Failures  io_error when the server cannot be started. A handler answers failures by itself.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "frontends/unix_socket.h"

namespace uthin::frontends {

inline constexpr std::size_t request_bytes_max = 1U << 20;
inline constexpr unsigned connections_max = 64;
inline constexpr unsigned idle_timeout_s = 60;

struct http_request {
    std::string method;
    std::string path;  // decoded, without the query
    std::map<std::string, std::string> query;
    std::string body;
};

struct http_response {
    unsigned status = 200;
    std::string content_type = "application/json";
    std::string body;
};

using http_handler = std::function<http_response(const http_request&)>;

class http_server {
public:
    [[nodiscard]] static result<std::unique_ptr<http_server>> start(descriptor listening,
                                                                    http_handler handler);
    http_server(const http_server&) = delete;
    http_server& operator=(const http_server&) = delete;
    ~http_server();

    // Waits for the handlers that run.
    void stop();

private:
    struct impl;
    explicit http_server(std::unique_ptr<impl> state);
    std::unique_ptr<impl> impl_;
};

}  // namespace uthin::frontends
