// Unix sockets whose path may be longer than the 108 bytes of sun_path.
//
// Invariants
//   US1  A socket that somebody listens on is never replaced, nor is anything that is no socket.
//   US2  A socket appears under its name only when it is listening, with mode 0600 from the start.
//
// Threads   Any.
//
// Failures  busy: somebody listens there. already_exists: the path is no socket. not_found: nobody
//           listens (connect_unix), or no such directory.
//
// Source    unix(7) "Pathname sockets"; proc(5), /proc/pid/fd: opening a link in it reaches the
// open
//           file itself, whatever path it had.
#pragma once

#include <string>
#include <utility>

#include "uthin/error.h"

namespace uthin::frontends {

// An open file descriptor, closed on destruction.
class descriptor {
public:
    descriptor() noexcept = default;
    explicit descriptor(int number) noexcept : number_(number) {}
    descriptor(descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    descriptor& operator=(descriptor&& other) noexcept {
        std::swap(number_, other.number_);
        return *this;
    }
    ~descriptor();

    [[nodiscard]] int get() const noexcept { return number_; }
    // The caller closes it.
    [[nodiscard]] int release() noexcept { return std::exchange(number_, -1); }
    explicit operator bool() const noexcept { return number_ >= 0; }

private:
    int number_ = -1;
};

// The longest path that every client can put into a socket address.
inline constexpr std::size_t socket_path_bytes_max = 107;

// A listening stream socket, close-on-exec. A stale socket at `path` is replaced.
[[nodiscard]] result<descriptor> listen_unix(const std::string& path);
// A connected stream socket, close-on-exec.
[[nodiscard]] result<descriptor> connect_unix(const std::string& path);
// The socket's file: /proc/self/fd/NUMBER is a short path to it while the descriptor is open.
[[nodiscard]] result<descriptor> open_socket_file(const std::string& path);

}  // namespace uthin::frontends
