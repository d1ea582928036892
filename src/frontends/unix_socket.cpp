#include "frontends/unix_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>

#include "base/result.h"

namespace uthin::frontends {
namespace {

constexpr int backlog_max = 128;

std::unexpected<error> system_failure(const std::string& path, const char* what) {
    const int code = errno;
    const auto kind = code == ENOENT || code == ENOTDIR        ? error_code::not_found
                      : code == EACCES || code == EPERM        ? error_code::not_permitted
                      : code == ENAMETOOLONG || code == EINVAL ? error_code::invalid_argument
                      : code == ECONNREFUSED                   ? error_code::not_found
                      : code == ENOMEM || code == EMFILE       ? error_code::out_of_memory
                      : code == EROFS                          ? error_code::read_only
                                                               : error_code::io_error;
    return fail(kind, fmt::format("{}: {}", path, what), code);
}

// `path` is short: made by this file, or checked by the caller.
sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, socket_path_bytes_max);
    return address;
}

result<descriptor> new_socket(const std::string& path) {
    descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) {
        return system_failure(path, "cannot make a socket");
    }
    return socket;
}

bool connect_to(int socket, const std::string& short_path) {
    const sockaddr_un address = address_of(short_path);
    int status = 0;
    do {
        status = ::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    } while (status != 0 && errno == EINTR);
    return status == 0;
}

// Nothing is at `path`, or a socket that nobody listens on.
result<void> check_replaceable(const std::string& path) {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) {
        if (errno == ENOENT) {
            return {};
        }
        return system_failure(path, "cannot look at it");
    }
    if (!S_ISSOCK(status.st_mode)) {
        return fail(
            error_code::already_exists,
            fmt::format("{} exists and is no socket: choose another path or remove it", path));
    }
    const auto found = connect_unix(path);
    if (found) {
        return fail(error_code::busy,
                    fmt::format("{}: another process listens on this socket", path));
    }
    const int os_errno = found.error().os_errno();
    if (os_errno == ECONNREFUSED || os_errno == ENOENT) {
        return {};
    }
    return fail(found.error().code(),
                fmt::format("{}: exists, and whether anybody listens on it cannot be told; choose "
                            "another path or remove it",
                            path),
                os_errno);
}

}  // namespace

descriptor::~descriptor() {
    if (number_ >= 0) {
        ::close(number_);
    }
}

result<descriptor> open_socket_file(const std::string& path) {
    descriptor file(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!file) {
        return system_failure(path, "cannot open the socket");
    }
    return file;
}

result<descriptor> connect_unix(const std::string& path) {
    descriptor socket = UTHIN_TRY(new_socket(path));
    descriptor target;
    std::string short_path = path;
    if (path.size() > socket_path_bytes_max) {
        target = UTHIN_TRY(open_socket_file(path));
        short_path = fmt::format("/proc/self/fd/{}", target.get());
    }
    if (!connect_to(socket.get(), short_path)) {
        return system_failure(path, "cannot connect");
    }
    return socket;
}

result<descriptor> listen_unix(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    const descriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory) {
        return system_failure(folder, "cannot open the directory of the socket");
    }
    // Two servers that start together look and replace one after the other.
    if (::flock(directory.get(), LOCK_EX) != 0) {
        return system_failure(folder, "cannot lock the directory of the socket");
    }
    UTHIN_TRY(check_replaceable(path));
    descriptor socket = UTHIN_TRY(new_socket(path));
    // The file takes its mode from the socket, so it is never open to others.
    if (::fchmod(socket.get(), 0600) != 0) {
        return system_failure(path, "cannot set the mode of the socket");
    }
    // Bound under a short name and renamed when it listens: a name of 255 bytes works, too.
    const std::string name = fmt::format(".uthin-{}-{}.sock", ::getpid(), socket.get());
    const std::string temporary = folder == "." ? name : folder + name;
    ::unlink(temporary.c_str());
    const sockaddr_un address =
        address_of(fmt::format("/proc/self/fd/{}/{}", directory.get(), name));
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        return system_failure(path, "cannot bind the socket");
    }
    if (::listen(socket.get(), backlog_max) != 0 ||
        ::rename(temporary.c_str(), path.c_str()) != 0) {
        auto failure = system_failure(path, "cannot listen on the socket");
        ::unlink(temporary.c_str());
        return failure;
    }
    return socket;
}

}  // namespace uthin::frontends
