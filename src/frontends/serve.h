// Turns this process into the server of a pool: nbdkit in the foreground with the plugin.
//
// Invariants
//   SV1  The process that was started is the server: nothing is forked, nothing stays behind.
//   SV2  The NBD socket listens before the pool is opened; the ready line is printed afterwards, by
//        the plugin, so that a client that saw it never waits.
//   SV3  A TCP client that does not speak TLS is refused when TLS is asked for; the Unix socket is
//        for its owner only and stays plain.
//
// Failures  busy: somebody listens on the socket or port. not_found: nbdkit or the plugin is
//           missing.
//
// Source    nbdkit-service(1), "SOCKET ACTIVATION": LISTEN_FDS and LISTEN_PID.
#pragma once

#include <string>
#include <vector>

#include "uthin/error.h"

namespace uthin::frontends {

struct serve_options {
    std::string directory;         // of the pool
    std::string socket_path;       // empty: DIRECTORY/nbd.sock
    std::string listen;            // HOST:PORT, [HOST]:PORT, :PORT or HOST; empty: no TCP
    std::string tls_certificates;  // folder of ca-cert.pem, server-cert.pem, server-key.pem
    std::string tls_psk;           // file of pre-shared keys
    bool tls_verify_peer = false;
    bool read_only = false;
    unsigned threads = 16;           // for each connection
    unsigned wait_s = 10;            // for another process to let go of the pool
    std::vector<std::string> extra;  // further nbdkit options, filters for instance
};

// Returns only if the server could not be started.
[[nodiscard]] error serve(const serve_options& options);

// The socket that `uthin serve` makes when none is named.
[[nodiscard]] std::string default_nbd_socket(const std::string& directory);
[[nodiscard]] std::string control_socket(const std::string& directory);

}  // namespace uthin::frontends
