// Ends client connections when the server is told to end.
//
// nbdkit finishes only when every client has hung up, and an idle client never does. So each
// connection is closed for reading here: what is in flight is still answered, then the connection
// ends as if the client had left.
//
// Invariants
//   SW1  Only sockets that were accepted from the server's listening sockets are touched: a pool
//   may
//        itself be a client of other servers.
//
//   SW2  A client that takes no replies holds the end up for a bounded time.
//
//   SW3  nbdkit's own handlers of these signals run as before, and are back after stop().
//
// Threads   start, stop: nbdkit's main thread. One object at a time: signals belong to the process.
//
// Failures  io_error of the system calls.
//
// Source    nbdkit(1), "SIGNALS". nbdkit_nanosleep would tell the end of the server, too, but
//           reports it as an error on every clean stop.
#pragma once

#include <signal.h>
#include <sys/socket.h>

#include <array>
#include <functional>
#include <vector>

#include "base/thread.h"

namespace uthin::frontends {

class shutdown_watch {
public:
    // Remembers the sockets that listen now.
    shutdown_watch();
    ~shutdown_watch() { stop(); }
    shutdown_watch(const shutdown_watch&) = delete;
    shutdown_watch& operator=(const shutdown_watch&) = delete;

    // `on_end` runs once, before the connections are ended, if a signal ends the server. `on_late`
    // runs when some are still there 10 s later: their clients take no replies.
    [[nodiscard]] result<void> start(std::function<void()> on_end, std::function<void()> on_late);
    void stop();
    // A signal told the server to end. Safe in a signal handler.
    [[nodiscard]] static bool end_has_begun() noexcept;

private:
    static constexpr std::array<int, 4> end_signals = {SIGTERM, SIGINT, SIGQUIT, SIGHUP};

    void wait_and_end(const std::function<void()>& on_end,
                      const std::function<void()>& on_late) const;
    void end_connections() const;

    std::vector<sockaddr_storage> listening_;
    bool handling_ = false;
    thread thread_;
};

}  // namespace uthin::frontends
