#include "tools/uthin_session.h"

#include <cstdio>

#include "base/clock.h"
#include "base/result.h"
#include "frontends/control/api.h"
#include "frontends/control/client.h"
#include "frontends/control/http_server.h"
#include "frontends/serve.h"
#include "pool/pool_directory.h"

namespace uthin::tools {

namespace {

constexpr std::chrono::milliseconds retry_interval{100};

directory_options options_for(session_kind kind) {
    directory_options options;
    switch (kind) {
        case session_kind::inspect: options.purpose = open_purpose::inspect; break;
        case session_kind::change: options.purpose = open_purpose::change; break;
        case session_kind::work:
        case session_kind::reading: options.purpose = open_purpose::serve; break;
    }
    return options;
}

result<std::unique_ptr<pool_directory>> open_here(const std::string& directory, session_kind kind) {
    auto opened = pool_directory::open(directory, options_for(kind), system_clock());
    const bool refused = !opened && (opened.error().code() == error_code::read_only ||
                                     opened.error().code() == error_code::not_permitted);
    if (refused && kind == session_kind::reading) {
        // Reading needs no right to change; others that ask for a change meanwhile are refused.
        return pool_directory::open(directory, options_for(session_kind::inspect), system_clock());
    }
    return opened;
}

}  // namespace

struct session::impl {
    // Destroyed from the bottom up: the socket first, the pool last.
    std::unique_ptr<pool_directory> directory;  // absent: another process has the pool
    std::unique_ptr<pool_service> service;
    std::unique_ptr<frontends::control_api> api;
    std::unique_ptr<frontends::http_server> control;
    std::string control_path;

    // Without a socket the command works as well; it only cannot be asked meanwhile.
    void answer_others(const std::string& path) {
        api = std::make_unique<frontends::control_api>(*service, frontends::control_api_options{});
        auto listening = frontends::listen_unix(path);
        if (!listening) {
            return;
        }
        auto started = frontends::http_server::start(
            std::move(*listening),
            [this](const frontends::http_request& request) { return api->handle(request); });
        control_path = path;
        if (started) {
            control = std::move(*started);
        } else {
            std::remove(path.c_str());
        }
    }

    void stop_answering() {
        if (control) {
            std::remove(control_path.c_str());
            api->stop();
            control.reset();
        }
    }
};

session::session(std::unique_ptr<impl> state) : impl_(std::move(state)) {
}

session::~session() {
    impl_->stop_answering();
}

pool_service& session::service() noexcept {
    return *impl_->service;
}

pool_directory* session::local() noexcept {
    return impl_->directory.get();
}

result<std::unique_ptr<session>> session::connect(const std::string& directory, session_kind kind,
                                                  std::chrono::nanoseconds wait) {
    auto state = std::make_unique<impl>();
    const auto deadline = system_clock().monotonic() + wait;
    while (true) {
        auto remote = frontends::connect_pool(directory);
        if (remote) {
            state->service = std::move(*remote);
            return std::unique_ptr<session>(new session(std::move(state)));
        }
        if (remote.error().code() != error_code::not_found) {
            return std::unexpected(std::move(remote).error());
        }
        auto opened = open_here(directory, kind);
        if (opened) {
            state->directory = std::move(*opened);
            break;
        }
        if (opened.error().code() != error_code::busy || system_clock().monotonic() >= deadline) {
            return std::unexpected(std::move(opened).error());
        }
        system_clock().sleep_for(retry_interval);
    }
    state->service = make_pool_service(*state->directory);
    if (kind == session_kind::work || kind == session_kind::reading) {
        UTHIN_TRY(state->directory->start());
        state->answer_others(frontends::control_socket(directory));
    }
    return std::unique_ptr<session>(new session(std::move(state)));
}

result<void> session::close() {
    if (!impl_->directory) {
        return impl_->service->close();
    }
    const result<void> waited = impl_->directory->wait_for_deletions();
    impl_->stop_answering();
    UTHIN_TRY(impl_->directory->close());
    return waited;
}

}  // namespace uthin::tools
