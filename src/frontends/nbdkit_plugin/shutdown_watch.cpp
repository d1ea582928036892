#include "frontends/nbdkit_plugin/shutdown_watch.h"

#include <dirent.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "base/clock.h"

namespace uthin::frontends {
namespace {

// A client that was just accepted may not be in the table of open files at the first look.
constexpr unsigned look_again_ns = 100'000'000;
constexpr unsigned sleep_s = 3600;

struct directory_closer {
    void operator()(DIR* directory) const { ::closedir(directory); }
};

std::vector<int> open_descriptors() {
    std::vector<int> numbers;
    const std::unique_ptr<DIR, directory_closer> directory(::opendir("/proc/self/fd"));
    while (const dirent* entry = directory ? ::readdir(directory.get()) : nullptr) {
        if (entry->d_name[0] != '.') {
            numbers.push_back(std::atoi(entry->d_name));
        }
    }
    return numbers;
}

bool local_address(int number, sockaddr_storage& address) {
    address = {};
    socklen_t length = sizeof(address);
    return ::getsockname(number, reinterpret_cast<sockaddr*>(&address), &length) == 0;
}

// An accepted socket has the name of its listening one; on TCP only the port is the same when that
// listens on every address.
bool is_same_service(const sockaddr_storage& a, const sockaddr_storage& b) {
    if (a.ss_family != b.ss_family) {
        return false;
    }
    switch (a.ss_family) {
        case AF_UNIX:
            return std::memcmp(reinterpret_cast<const sockaddr_un*>(&a)->sun_path,
                               reinterpret_cast<const sockaddr_un*>(&b)->sun_path,
                               sizeof(sockaddr_un::sun_path)) == 0;
        case AF_INET:
            return reinterpret_cast<const sockaddr_in*>(&a)->sin_port ==
                   reinterpret_cast<const sockaddr_in*>(&b)->sin_port;
        case AF_INET6:
            return reinterpret_cast<const sockaddr_in6*>(&a)->sin6_port ==
                   reinterpret_cast<const sockaddr_in6*>(&b)->sin6_port;
        default: return false;
    }
}

}  // namespace

result<void> shutdown_watch::start(std::function<void()> on_end) {
    return thread_.start([this, on_end = std::move(on_end)] {
        while (nbdkit_nanosleep(sleep_s, 0) == 0) {
        }
        on_end();
        end_connections();
        system_clock().sleep_for(std::chrono::nanoseconds(look_again_ns));
        end_connections();
    });
}

shutdown_watch::shutdown_watch() {
    for (const int number : open_descriptors()) {
        int listens = 0;
        socklen_t length = sizeof(listens);
        sockaddr_storage address;
        if (::getsockopt(number, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == 0 &&
            listens != 0 && local_address(number, address)) {
            listening_.push_back(address);
        }
    }
}

void shutdown_watch::end_connections() const {
    for (const int number : open_descriptors()) {
        sockaddr_storage address;
        sockaddr_storage peer;
        socklen_t length = sizeof(peer);
        if (local_address(number, address) &&
            ::getpeername(number, reinterpret_cast<sockaddr*>(&peer), &length) == 0 &&
            std::ranges::any_of(listening_, [&](const sockaddr_storage& listening) {
                return is_same_service(address, listening);
            })) {
            ::shutdown(number, SHUT_RD);
        }
    }
}

}  // namespace uthin::frontends
