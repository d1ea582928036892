#include "frontends/nbdkit_plugin/restart.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "frontends/nbdkit_plugin/shutdown_watch.h"

namespace uthin::frontends {
namespace {

constexpr std::chrono::milliseconds restart_interval(1000);
constexpr unsigned first_passed_descriptor = 3;  // SD_LISTEN_FDS_START
constexpr std::string_view assertion_of_a_lost_client = "raw_send_socket";
constexpr std::string_view notice =
    "uthin: nbdkit failed over a client that has gone: the server starts anew\n";
constexpr std::string_view refusal = "uthin: the server cannot start anew\n";

// What glibc leaves for debuggers.
struct abort_message {
    unsigned size_bytes;
    char text[1];
};

// All that the signal handler needs: made before it is installed, never freed.
struct restart_plan {
    std::string program;
    std::vector<std::string> arguments;
    std::vector<std::string> environment;
    std::vector<char*> argv;
    std::vector<char*> envp;
    unsigned sockets = 0;
    sigset_t signals{};
    std::chrono::nanoseconds begin{0};
    abort_message* const* message = nullptr;
};

std::atomic<const restart_plan*> plan{nullptr};
std::atomic_flag restarting;

// Of a file in /proc whose texts end with a zero.
result<std::vector<std::string>> texts_of(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<std::string> texts;
    for (std::string text; std::getline(file, text, '\0');) {
        texts.push_back(text);
    }
    if (!file.eof()) {
        return fail(error_code::io_error, std::string(path) + ": cannot be read");
    }
    return texts;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
    std::vector<char*> pointers;
    for (std::string& text : texts) {
        pointers.push_back(text.data());
    }
    pointers.push_back(nullptr);
    return pointers;
}

// ---- in the signal handler

void say(std::string_view text) {
    static_cast<void>(!::write(STDERR_FILENO, text.data(), text.size()));
}

bool client_was_lost(const restart_plan& with) {
    const abort_message* message = with.message != nullptr ? *with.message : nullptr;
    return message != nullptr &&
           std::string_view(message->text, ::strnlen(message->text, message->size_bytes))
                   .find(assertion_of_a_lost_client) != std::string_view::npos;
}

[[noreturn]] void wait_for_the_end() {
    while (true) {
        ::pause();
    }
}

void start_anew(const restart_plan& with) {
    const std::chrono::nanoseconds since = system_clock().monotonic() - with.begin;
    if (since < restart_interval) {
        system_clock().sleep_for(restart_interval - since);
    }
    if (shutdown_watch::end_has_begun()) {
        wait_for_the_end();
    }
    say(notice);
    ::syscall(SYS_close_range, first_passed_descriptor + with.sockets, UINT_MAX,
              CLOSE_RANGE_CLOEXEC);
    for (unsigned i = 0; i < with.sockets; ++i) {
        ::fcntl(static_cast<int>(first_passed_descriptor + i), F_SETFD, 0);
    }
    // The mask outlives execve, and this thread's is not that of a fresh process.
    ::pthread_sigmask(SIG_SETMASK, &with.signals, nullptr);
    ::execve(with.program.c_str(), with.argv.data(), with.envp.data());
    say(refusal);
}

void handle_abort(int number) {
    const restart_plan& with = *plan.load();
    if (restarting.test()) {
        wait_for_the_end();
    }
    if (client_was_lost(with)) {
        // Only this thread stands still; in a server that ends, the watch ends the process.
        if (shutdown_watch::end_has_begun() || restarting.test_and_set()) {
            wait_for_the_end();
        }
        start_anew(with);
    }
    ::signal(number, SIG_DFL);
    ::raise(number);
}

}  // namespace

result<void> arm_restart(unsigned sockets) {
    auto made = std::make_unique<restart_plan>();
    char self[PATH_MAX];
    const ssize_t length = ::readlink("/proc/self/exe", self, sizeof(self));
    if (length <= 0) {
        return fail(error_code::io_error, "cannot find out the program of this process", errno);
    }
    made->program.assign(self, static_cast<std::size_t>(length));
    made->arguments = UTHIN_TRY(texts_of("/proc/self/cmdline"));
    // Whoever waited for the line has read it.
    std::erase_if(made->arguments,
                  [](const std::string& text) { return text.starts_with("ready-"); });
    made->environment = UTHIN_TRY(texts_of("/proc/self/environ"));
    std::erase_if(made->environment,
                  [](const std::string& text) { return text.starts_with("LISTEN_"); });
    made->environment.push_back(fmt::format("LISTEN_FDS={}", sockets));
    made->environment.push_back(fmt::format("LISTEN_PID={}", ::getpid()));
    made->argv = pointers_to(made->arguments);
    made->envp = pointers_to(made->environment);
    made->sockets = sockets;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &made->signals);
    made->begin = system_clock().monotonic();
    made->message = static_cast<abort_message**>(::dlsym(RTLD_DEFAULT, "__abort_msg"));
    plan.store(made.release());
    struct sigaction action {};
    action.sa_handler = handle_abort;
    ::sigaction(SIGABRT, &action, nullptr);
    return {};
}

}  // namespace uthin::frontends
