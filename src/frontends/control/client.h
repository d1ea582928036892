// The pool_service of a pool that another process has: commands over its control socket, bulk data
// over its NBD socket.
//
// Threads   As pool_service.
//
// Failures  Those that the server answered, word for word; not_found when nobody listens; io_error
//           when the connection broke off. open_data is busy when the process has no NBD socket:
//           another command, not a server.
#pragma once

#include <memory>
#include <string>

#include "pool/pool_service.h"
#include "uthin/error.h"

namespace uthin::frontends {

// not_found: no process has the pool in `directory` and listens.
[[nodiscard]] result<std::unique_ptr<pool_service>> connect_pool(const std::string& directory);

// The bytes of one export. `socket_path` may be of any length.
[[nodiscard]] result<std::unique_ptr<volume_data>> open_nbd_data(const std::string& socket_path,
                                                                 const std::string& export_name,
                                                                 bool read_only);

}  // namespace uthin::frontends
