// Starts the server anew when nbdkit ends itself over a client that has gone.
//
// nbdkit 1.32 fails an assertion of its own (raw_send_socket) when a client hangs up while one of
// its replies fills the socket and others wait behind it. That client must not take the service
// from the rest: the process executes itself again, with the same arguments and listening sockets,
// and opens the pool as after a kill. Other clients see their connection close and may come back.
//
// Invariants
//   RS1  Only that assertion starts the server anew; any other abort ends the process as ever.
//   RS2  The new server begins at least restart_interval after the old one did; until then the
//        other clients are still served.
//   RS3  A server that was told to end does not come back.
//
// Threads   arm: nbdkit's main thread, once.
//
// Failures  io_error: the process cannot read its own arguments.
//
// Source    glibc's __abort_msg, the text of a failed assertion, kept for debuggers; execve(2) for
//           what a new program inherits; signal-safety(7).
#pragma once

#include "uthin/error.h"

namespace uthin::frontends {

// The listening sockets are `sockets` descriptors in a row, from that of socket activation on.
[[nodiscard]] result<void> arm_restart(unsigned sockets);

}  // namespace uthin::frontends
