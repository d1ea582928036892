#include "frontends/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <utility>

#include "base/clock.h"
#include "base/result.h"

namespace uthin::frontends {

namespace {

constexpr std::size_t output_bytes_max = 64U << 20;
constexpr std::chrono::milliseconds patience{2000};  // between asking and killing
constexpr std::chrono::milliseconds wait_step{10};

result<std::pair<descriptor, descriptor>> make_pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
        return fail(error_code::io_error, "cannot make a pipe", errno);
    }
    return std::pair(descriptor(ends[0]), descriptor(ends[1]));
}

void do_not_wait(const descriptor& number) {
    ::fcntl(number.get(), F_SETFL, ::fcntl(number.get(), F_GETFL) | O_NONBLOCK);
}

int poll_timeout(std::chrono::milliseconds timeout) {
    return static_cast<int>(std::min<std::int64_t>(timeout.count(), INT_MAX));
}

std::string last_line(std::string text) {
    while (!text.empty() && text.back() == '\n') {
        text.pop_back();
    }
    const std::size_t begin = text.rfind('\n');
    return begin == std::string::npos ? text : text.substr(begin + 1);
}

// The line that tells of a failure: the last one that is no token.
std::string told(const std::string& output) {
    std::string line = last_line(output);
    if (line.starts_with("token ")) {
        line = last_line(output.substr(0, output.rfind(line)));
    }
    return line.empty() ? "it said nothing" : line;
}

}  // namespace

result<child_process> child_process::start(const std::vector<std::string>& arguments) {
    auto input = UTHIN_TRY(make_pipe());
    auto output = UTHIN_TRY(make_pipe());
    std::vector<std::string> words = arguments;
    std::vector<char*> argv;
    for (std::string& word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_adddup2(&actions, input.first.get(), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output.second.get(), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output.second.get(), STDERR_FILENO);
    // This program ignores SIGPIPE; others should not inherit that.
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    pid_t pid = -1;
    const int code = ::posix_spawnp(&pid, argv[0], &actions, &attributes, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (code != 0) {
        return fail(code == ENOENT ? error_code::not_found : error_code::io_error,
                    fmt::format("{}: cannot be started; is it installed?", arguments[0]), code);
    }
    do_not_wait(input.second);
    do_not_wait(output.first);
    return child_process(pid, std::move(input.second), std::move(output.first));
}

child_process::child_process(child_process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      input_(std::move(other.input_)),
      from_child_(std::move(other.from_child_)),
      output_(std::move(other.output_)) {
}

child_process::~child_process() {
    end_it();
}

void child_process::end_it() {
    if (pid_ <= 0) {
        return;
    }
    const pid_t pid = std::exchange(pid_, -1);
    input_ = descriptor();
    ::kill(pid, SIGTERM);
    const auto deadline = system_clock().monotonic() + patience;
    while (::waitpid(pid, nullptr, WNOHANG) == 0) {
        if (system_clock().monotonic() > deadline) {
            ::kill(pid, SIGKILL);
            ::waitpid(pid, nullptr, 0);
            return;
        }
        system_clock().sleep_for(wait_step);
    }
}

bool child_process::take_output() {
    char piece[4096];
    while (true) {
        const ssize_t count = ::read(from_child_.get(), piece, sizeof piece);
        if (count > 0 && output_.size() < output_bytes_max) {
            output_.append(piece, static_cast<std::size_t>(count));
        } else if (count == 0) {
            return false;
        } else if (count < 0 && errno != EINTR) {
            return errno == EAGAIN;
        }
    }
}

result<void> child_process::write(std::span<const std::byte> bytes,
                                  std::chrono::milliseconds stall_timeout) {
    while (!bytes.empty()) {
        const ssize_t count = ::write(input_.get(), bytes.data(), bytes.size());
        if (count > 0) {
            bytes = bytes.subspan(static_cast<std::size_t>(count));
            continue;
        }
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0 && errno != EAGAIN) {
            return fail(error_code::io_error, "the receiver has ended", errno);
        }
        pollfd waits[2] = {{input_.get(), POLLOUT, 0}, {from_child_.get(), POLLIN, 0}};
        const int ready = ::poll(waits, 2, poll_timeout(stall_timeout));
        if (ready == 0) {
            return fail(error_code::cancelled,
                        fmt::format("the receiver took nothing for {} ms", stall_timeout.count()));
        }
        if ((waits[1].revents & (POLLIN | POLLHUP)) != 0 && !take_output() &&
            (waits[0].revents & POLLOUT) == 0) {
            return fail(error_code::io_error, "the receiver has ended");
        }
    }
    return {};
}

result<std::string> child_process::finish(std::chrono::milliseconds stall_timeout) {
    input_ = descriptor();
    while (take_output()) {
        pollfd wait = {from_child_.get(), POLLIN, 0};
        if (::poll(&wait, 1, poll_timeout(stall_timeout)) == 0) {
            return fail(
                error_code::cancelled,
                fmt::format("the other program said nothing for {} ms", stall_timeout.count()));
        }
    }
    int status = 0;
    const pid_t pid = std::exchange(pid_, -1);
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        return fail(error_code::io_error, told(output_));
    }
    return output_;
}

result<std::string> run_program(const std::vector<std::string>& arguments,
                                std::chrono::milliseconds timeout) {
    auto child = UTHIN_TRY(child_process::start(arguments));
    return child.finish(timeout);
}

}  // namespace uthin::frontends
