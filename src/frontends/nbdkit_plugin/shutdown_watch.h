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
// Threads   start, stop: nbdkit's main thread; stop only when the server is ending.
//
// Source    nbdkit-plugin(3): nbdkit_nanosleep returns early when the server ends.
#pragma once

#include <sys/socket.h>

#include <functional>
#include <vector>

#include "base/thread.h"

namespace uthin::frontends {

class shutdown_watch {
public:
    // Remembers the sockets that listen now.
    shutdown_watch();
    // `on_end` runs once, before the connections are ended.
    [[nodiscard]] result<void> start(std::function<void()> on_end);
    void stop() { thread_.join(); }

private:
    void end_connections() const;

    std::vector<sockaddr_storage> listening_;
    thread thread_;
};

}  // namespace uthin::frontends
