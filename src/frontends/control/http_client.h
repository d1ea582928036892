// One HTTP request to a Unix socket.
//
// Threads   Any.
//
// Failures  not_found: nobody listens there. io_error: the connection broke off. What the server
//           answered, whatever its status, is no failure here.
#pragma once

#include <string>

#include "uthin/error.h"

namespace uthin::frontends {

struct http_answer {
    long status = 0;
    std::string body;
};

// `target`: path and query, encoded. No limit on the time that the answer takes: a check of a large
// pool runs for minutes; the connection itself is local and there at once or never.
[[nodiscard]] result<http_answer> http_call(const std::string& socket_path,
                                            const std::string& method, const std::string& target,
                                            const std::string& body);
// `text` with everything but letters, digits and -._~ as %XX.
[[nodiscard]] std::string url_encoded(const std::string& text);

}  // namespace uthin::frontends
