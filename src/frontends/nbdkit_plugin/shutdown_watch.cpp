#include "frontends/nbdkit_plugin/shutdown_watch.h"

#include <dirent.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/clock.h"

namespace uthin::frontends {
namespace {

// A client that was just accepted may not be in the table of open files at the first look.
constexpr std::chrono::milliseconds look_again_after(100);
constexpr std::chrono::milliseconds patience(10'000);

// What the signal handler may touch: set before it is installed, unchanged while it is.
std::atomic<int> event_number{-1};
std::atomic<bool> ended{false};
std::array<struct sigaction, NSIG> previous;

constexpr std::uint64_t event_signal = 1;       // a signal ended the server
constexpr std::uint64_t event_stop = 1U << 31;  // stop() was called

void tell(std::uint64_t event) {
    static_cast<void>(!::write(event_number.load(), &event, sizeof(event)));
}

void handle_signal(int number, siginfo_t* info, void* context) {
    const int saved = errno;
    ended.store(true);
    tell(event_signal);
    const struct sigaction& before = previous[static_cast<std::size_t>(number)];
    if ((before.sa_flags & SA_SIGINFO) != 0) {
        before.sa_sigaction(number, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    }
    errno = saved;
}

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

result<void> shutdown_watch::start(std::function<void()> on_end, std::function<void()> on_late) {
    const int event = ::eventfd(0, EFD_CLOEXEC);
    if (event < 0) {
        return fail(error_code::io_error, "cannot make an event for the end of the server", errno);
    }
    event_number.store(event);
    UTHIN_TRY(thread_.start([this, on_end = std::move(on_end), on_late = std::move(on_late)] {
        wait_and_end(on_end, on_late);
    }));
    for (const int number : end_signals) {
        struct sigaction& before = previous[static_cast<std::size_t>(number)];
        ::sigaction(number, nullptr, &before);
        // Signals that nbdkit leaves alone are left alone here, too.
        if ((before.sa_flags & SA_SIGINFO) == 0 &&
            (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN)) {
            continue;
        }
        struct sigaction action = before;
        action.sa_flags |= SA_SIGINFO;
        action.sa_sigaction = handle_signal;
        ::sigaction(number, &action, nullptr);
    }
    handling_ = true;
    return {};
}

void shutdown_watch::stop() {
    if (handling_) {
        for (const int number : end_signals) {
            ::sigaction(number, &previous[static_cast<std::size_t>(number)], nullptr);
        }
        handling_ = false;
    }
    if (event_number.load() >= 0) {
        tell(event_stop);
        thread_.join();
        ::close(event_number.exchange(-1));
    }
}

bool shutdown_watch::end_has_begun() noexcept {
    return ended.load();
}

void shutdown_watch::wait_and_end(const std::function<void()>& on_end,
                                  const std::function<void()>& on_late) const {
    std::uint64_t events = 0;
    while (::read(event_number.load(), &events, sizeof(events)) != sizeof(events)) {
    }
    if (events >= event_stop) {
        return;  // every client is gone already
    }
    on_end();
    end_connections();
    system_clock().sleep_for(look_again_after);
    end_connections();
    // SW2. Another signal in the meantime changes nothing.
    const std::chrono::nanoseconds end = system_clock().monotonic() + patience;
    pollfd event{event_number.load(), POLLIN, 0};
    for (std::chrono::nanoseconds rest = patience; rest.count() > 0;
         rest = end - system_clock().monotonic()) {
        const auto rest_ms = std::chrono::ceil<std::chrono::milliseconds>(rest);
        if (::poll(&event, 1, static_cast<int>(rest_ms.count())) > 0 &&
            ::read(event.fd, &events, sizeof(events)) == sizeof(events) && events >= event_stop) {
            return;
        }
    }
    on_late();
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
