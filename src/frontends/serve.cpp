#include "frontends/serve.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/result.h"
#include "frontends/unix_socket.h"

namespace uthin::frontends {
namespace {

constexpr const char* default_port = "10809";
constexpr int backlog_max = 128;
// The first descriptor of socket activation (sd_listen_fds(3), SD_LISTEN_FDS_START).
constexpr int first_passed_descriptor = 3;

// What the plugin is told besides the pool.
struct announcement {
    std::string uri;
    int output = -1;                  // where to print it; nbdkit takes standard output away
    std::size_t sockets = 0;          // that listen
    std::vector<std::string> remove;  // at the end
};

result<std::string> absolute(const std::string& path) {
    if (path.starts_with('/')) {
        return path;
    }
    const std::unique_ptr<char, decltype(&std::free)> here(::get_current_dir_name(), &std::free);
    if (!here) {
        return fail(error_code::io_error, "cannot find out the current directory", errno);
    }
    return fmt::format("{}/{}", here.get(), path);
}

// As a URI wants it; slashes stay.
std::string query_encoded(const std::string& path) {
    std::string encoded;
    for (const char c : path) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                           (c >= '0' && c <= '9') || std::strchr("-._~/", c) != nullptr;
        encoded +=
            plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
    return encoded;
}

// A path that every client can connect to: the socket's own, or a short symbolic link to it.
result<std::string> client_path(const std::string& path, std::vector<std::string>& remove) {
    if (path.size() <= socket_path_bytes_max) {
        return path;
    }
    const char* runtime = std::getenv("XDG_RUNTIME_DIR");
    for (std::string folder :
         {std::string(runtime != nullptr ? runtime : "/tmp"), std::string("/tmp")}) {
        folder += "/uthin-XXXXXX";
        if (folder.size() > socket_path_bytes_max / 2 || ::mkdtemp(folder.data()) == nullptr) {
            continue;
        }
        const std::string link = folder + "/nbd.sock";
        remove.push_back(link);
        remove.push_back(folder);
        if (::symlink(path.c_str(), link.c_str()) != 0) {
            return fail(error_code::io_error, link + ": cannot link to the NBD socket", errno);
        }
        return link;
    }
    return fail(error_code::io_error,
                "cannot make a folder in /tmp for a short path to the NBD socket", errno);
}

struct tcp_address {
    std::string host;  // empty: every address
    std::string port;
};

result<tcp_address> parse_address(const std::string& text) {
    const bool bracketed = text.starts_with('[');
    const std::size_t host_end = bracketed ? text.find(']') : text.rfind(':');
    if (bracketed && host_end == std::string::npos) {
        return fail(error_code::invalid_argument,
                    fmt::format("--listen {}: missing ']', write [HOST]:PORT", text));
    }
    if (host_end == std::string::npos) {
        return tcp_address{text, default_port};
    }
    const std::string host = bracketed ? text.substr(1, host_end - 1) : text.substr(0, host_end);
    const std::string rest = text.substr(host_end + (bracketed ? 1 : 0));
    if (rest.empty()) {
        return tcp_address{host, default_port};
    }
    if (rest.size() < 2 || rest[0] != ':' || (!bracketed && host.find(':') != std::string::npos)) {
        return fail(error_code::invalid_argument,
                    fmt::format("--listen {}: write HOST:PORT or [HOST]:PORT", text));
    }
    return tcp_address{host, rest.substr(1)};
}

result<descriptor> listen_address(const addrinfo& address, const std::string& text) {
    descriptor socket(
        ::socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC, address.ai_protocol));
    if (!socket) {
        return fail(error_code::io_error, fmt::format("--listen {}: cannot make a socket", text),
                    errno);
    }
    const int on = 1;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (address.ai_family == AF_INET6) {
        ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    }
    if (::bind(socket.get(), address.ai_addr, address.ai_addrlen) != 0 ||
        ::listen(socket.get(), backlog_max) != 0) {
        const int code = errno;
        return fail(code == EADDRINUSE ? error_code::busy : error_code::io_error,
                    fmt::format("--listen {}: cannot listen there", text), code);
    }
    return socket;
}

result<std::vector<descriptor>> listen_tcp(const std::string& text) {
    const tcp_address wanted = UTHIN_TRY(parse_address(text));
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE;
    addrinfo* found = nullptr;
    const int status = ::getaddrinfo(wanted.host.empty() ? nullptr : wanted.host.c_str(),
                                     wanted.port.c_str(), &hints, &found);
    if (status != 0) {
        return fail(error_code::invalid_argument,
                    fmt::format("--listen {}: {}", text, ::gai_strerror(status)));
    }
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
    std::vector<descriptor> sockets;
    for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
        result<descriptor> socket = listen_address(*address, text);
        if (socket) {
            sockets.push_back(std::move(*socket));
        } else if (sockets.empty() && address->ai_next == nullptr) {
            return std::unexpected(std::move(socket).error());
        }
    }
    return sockets;
}

// The port that the system chose when 0 was asked for.
unsigned port_of(const descriptor& socket) {
    sockaddr_storage address{};
    socklen_t length = sizeof(address);
    ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length);
    return address.ss_family == AF_INET6
               ? ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port)
               : ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

result<std::string> tcp_uri(const serve_options& options, const descriptor& socket) {
    tcp_address wanted = UTHIN_TRY(parse_address(options.listen));
    if (wanted.host.empty() || wanted.host == "0.0.0.0" || wanted.host == "::") {
        wanted.host = "localhost";
    } else if (wanted.host.find(':') != std::string::npos) {
        wanted.host = fmt::format("[{}]", wanted.host);
    }
    const bool tls = !options.tls_certificates.empty() || !options.tls_psk.empty();
    return fmt::format("{}://{}:{}/", tls ? "nbds" : "nbd", wanted.host, port_of(socket));
}

// Beside this program, as built; else nbdkit looks where it is installed.
std::string plugin_path() {
    char self[PATH_MAX];
    const ssize_t length = ::readlink("/proc/self/exe", self, sizeof(self));
    if (length > 0) {
        std::string path(self, static_cast<std::size_t>(length));
        path.resize(path.rfind('/') + 1);
        path += "nbdkit-uthin-plugin.so";
        if (::access(path.c_str(), R_OK) == 0) {
            return path;
        }
    }
    return "uthin";
}

std::vector<std::string> server_arguments(const serve_options& options,
                                          const announcement& announced) {
    std::vector<std::string> arguments = {"nbdkit", "--foreground",
                                          fmt::format("--threads={}", options.threads)};
    const bool tls = !options.tls_certificates.empty() || !options.tls_psk.empty();
    if (tls) {
        arguments.emplace_back("--tls=on");
    }
    if (!options.tls_certificates.empty()) {
        arguments.push_back("--tls-certificates=" + options.tls_certificates);
    }
    if (!options.tls_psk.empty()) {
        arguments.push_back("--tls-psk=" + options.tls_psk);
    }
    if (options.tls_verify_peer) {
        arguments.emplace_back("--tls-verify-peer");
    }
    if (options.read_only) {
        arguments.emplace_back("--readonly");
    }
    arguments.insert(arguments.end(), options.extra.begin(), options.extra.end());
    arguments.push_back(plugin_path());
    arguments.push_back("pool=" + options.directory);
    arguments.push_back(fmt::format("wait={}", options.wait_s));
    arguments.push_back("socket=" + options.socket_path);
    arguments.push_back("ready-line=" + announced.uri);
    arguments.push_back(fmt::format("ready-descriptor={}", announced.output));
    arguments.push_back(fmt::format("restart-sockets={}", announced.sockets));
    if (tls) {
        arguments.emplace_back("tcp-needs-tls=true");
    }
    for (const std::string& path : announced.remove) {
        arguments.push_back("remove=" + path);
    }
    return arguments;
}

// Puts the sockets where socket activation expects them; returns the descriptor behind them, which
// is standard output.
result<int> pass_descriptors(std::vector<descriptor>& sockets) {
    const int count = static_cast<int>(sockets.size());
    for (descriptor& socket : sockets) {
        // First out of the way, so that no dup2 below closes one that is still needed.
        descriptor moved(::fcntl(socket.get(), F_DUPFD_CLOEXEC, first_passed_descriptor + count));
        if (!moved) {
            return fail(error_code::io_error, "cannot pass the sockets to nbdkit", errno);
        }
        socket = std::move(moved);
    }
    // Inherited, unlike the sockets until dup2 gives them their place.
    const int output = ::fcntl(STDOUT_FILENO, F_DUPFD, first_passed_descriptor + 2 * count);
    if (output < 0) {
        return fail(error_code::io_error, "standard output is closed", errno);
    }
    for (int i = 0; i < count; ++i) {
        if (::dup2(sockets[static_cast<std::size_t>(i)].get(), first_passed_descriptor + i) < 0) {
            return fail(error_code::io_error, "cannot pass the sockets to nbdkit", errno);
        }
    }
    ::setenv("LISTEN_FDS", fmt::format("{}", count).c_str(), 1);
    ::setenv("LISTEN_PID", fmt::format("{}", ::getpid()).c_str(), 1);
    ::unsetenv("LISTEN_FDNAMES");
    return output;
}

void remove_all(const std::vector<std::string>& paths) {
    for (const std::string& path : paths) {
        static_cast<void>(::remove(path.c_str()));
    }
}

result<void> become_server(const serve_options& options, announcement& announced) {
    std::vector<descriptor> sockets;
    sockets.push_back(UTHIN_TRY(listen_unix(options.socket_path)));
    announced.remove.push_back(options.socket_path);
    if (options.listen.empty()) {
        announced.uri =
            "nbd+unix:///?socket=" +
            query_encoded(UTHIN_TRY(client_path(options.socket_path, announced.remove)));
    } else {
        std::vector<descriptor> tcp = UTHIN_TRY(listen_tcp(options.listen));
        announced.uri = UTHIN_TRY(tcp_uri(options, tcp.front()));
        for (descriptor& socket : tcp) {
            sockets.push_back(std::move(socket));
        }
    }
    announced.output = UTHIN_TRY(pass_descriptors(sockets));
    announced.sockets = sockets.size();
    std::vector<std::string> arguments = server_arguments(options, announced);
    std::vector<char*> argv;
    for (std::string& argument : arguments) {
        argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    ::execvp(argv[0], argv.data());
    return fail(error_code::not_found, "cannot start nbdkit: install the package nbdkit", errno);
}

}  // namespace

std::string default_nbd_socket(const std::string& directory) {
    return directory + "/nbd.sock";
}

std::string control_socket(const std::string& directory) {
    return directory + "/control.sock";
}

error serve(const serve_options& given) {
    serve_options options = given;
    announcement announced;
    const auto start = [&]() -> result<void> {
        options.directory = UTHIN_TRY(absolute(given.directory));
        options.socket_path = UTHIN_TRY(absolute(
            given.socket_path.empty() ? default_nbd_socket(given.directory) : given.socket_path));
        return become_server(options, announced);
    };
    const result<void> outcome = start();
    remove_all(announced.remove);
    return outcome.error();
}

}  // namespace uthin::frontends
