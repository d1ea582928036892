#include "frontends/control/http_server.h"

#include <microhttpd.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <new>

#include "base/result.h"

namespace uthin::frontends {
namespace {

// What arrived of one request so far.
struct partial_request {
    http_request request;
    bool too_large = false;
};

struct query_collector {
    std::map<std::string, std::string>& query;
    bool is_complete = true;
};

// Nothing may fly through the library, which is C.
MHD_Result collect_query(void* where, MHD_ValueKind, const char* key, const char* value) {
    auto& into = *static_cast<query_collector*>(where);
    try {
        into.query[key] = value == nullptr ? "" : value;
    } catch (const std::bad_alloc&) {
        into.is_complete = false;
        return MHD_NO;
    }
    return MHD_YES;
}

MHD_Result send_response(MHD_Connection* connection, const http_response& response) {
    std::string body = response.body;
    MHD_Response* answer =
        MHD_create_response_from_buffer(body.size(), body.data(), MHD_RESPMEM_MUST_COPY);
    if (answer == nullptr) {
        return MHD_NO;
    }
    MHD_add_response_header(answer, MHD_HTTP_HEADER_CONTENT_TYPE, response.content_type.c_str());
    const MHD_Result queued = MHD_queue_response(connection, response.status, answer);
    MHD_destroy_response(answer);
    return queued;
}

}  // namespace

struct http_server::impl {
    http_handler handler;
    MHD_Daemon* daemon = nullptr;

    // Called once when the head of a request is there, then for each piece of its body, then once
    // more with no data. MHD_NO ends the connection.
    static MHD_Result on_access(void* self, MHD_Connection* connection, const char* url,
                                const char* method, const char* /*version*/, const char* data,
                                std::size_t* data_bytes, void** state) {
        try {
            return *state == nullptr ? begin(connection, url, method, state)
                                     : go_on(self, connection, data, data_bytes, state);
        } catch (const std::bad_alloc&) {
            return MHD_NO;
        }
    }

    static MHD_Result begin(MHD_Connection* connection, const char* url, const char* method,
                            void** state) {
        auto partial = std::make_unique<partial_request>();
        partial->request.method = method;
        partial->request.path = url;
        query_collector collector{partial->request.query};
        MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, collect_query, &collector);
        if (!collector.is_complete) {
            return MHD_NO;
        }
        *state = partial.release();
        return MHD_YES;
    }

    static MHD_Result go_on(void* self, MHD_Connection* connection, const char* data,
                            std::size_t* data_bytes, void** state) {
        auto& partial = *static_cast<partial_request*>(*state);
        if (*data_bytes != 0) {
            if (partial.request.body.size() + *data_bytes > request_bytes_max) {
                partial.too_large = true;
                partial.request.body.clear();
            } else if (!partial.too_large) {
                partial.request.body.append(data, *data_bytes);
            }
            *data_bytes = 0;
            return MHD_YES;
        }
        if (partial.too_large) {
            return send_response(
                connection,
                {413, "application/json",
                 R"({"error":{"code":"invalid argument","message":"request above 1 MiB"}})"
                 "\n"});
        }
        return send_response(connection, static_cast<impl*>(self)->handler(partial.request));
    }

    static void on_completed(void*, MHD_Connection*, void** state, MHD_RequestTerminationCode) {
        delete static_cast<partial_request*>(*state);
        *state = nullptr;
    }
};

http_server::http_server(std::unique_ptr<impl> state) : impl_(std::move(state)) {
}

result<std::unique_ptr<http_server>> http_server::start(descriptor listening,
                                                        http_handler handler) {
    auto state = std::make_unique<impl>();
    state->handler = std::move(handler);
    state->daemon = MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, 0, nullptr,
        nullptr, &impl::on_access, state.get(), MHD_OPTION_LISTEN_SOCKET, listening.get(),
        MHD_OPTION_CONNECTION_LIMIT, connections_max, MHD_OPTION_CONNECTION_TIMEOUT, idle_timeout_s,
        MHD_OPTION_NOTIFY_COMPLETED, &impl::on_completed, nullptr, MHD_OPTION_END);
    if (state->daemon == nullptr) {
        return fail(error_code::io_error, "cannot start the control server", errno);
    }
    static_cast<void>(listening.release());  // closed by MHD_stop_daemon
    return std::unique_ptr<http_server>(new http_server(std::move(state)));
}

void http_server::stop() {
    if (impl_->daemon != nullptr) {
        MHD_stop_daemon(impl_->daemon);
        impl_->daemon = nullptr;
    }
}

http_server::~http_server() {
    stop();
}

}  // namespace uthin::frontends
