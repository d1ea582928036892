// uthin-bench-measure: runs a program and says what it took; or the least that any tool must do.
//
//   uthin-bench-measure run PROGRAM [ARGUMENT...]   stdout: "WALL CPU PEAK_BYTES STATUS" (seconds)
//   uthin-bench-measure floor FILE                  reads FILE once, one CRC-32C of each block
//
// The program's own stdout goes to /dev/null. A small parent keeps the peak honest: a child begins
// with that of whoever forked it.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string_view>

#include "base/aligned_buffer.h"
#include "base/crc32c.h"
#include "base/result.h"
#include "io/file_device.h"
#include "uthin/units.h"

namespace {

double wall_seconds() {
    std::timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

double seconds(const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

int run_program(char** command) {
    const double begin = wall_seconds();
    const pid_t child = ::fork();
    if (child == 0) {
        const int null = ::open("/dev/null", O_WRONLY);
        ::dup2(null, STDOUT_FILENO);
        ::dup2(null, STDERR_FILENO);
        ::execv(command[0], command);
        ::_exit(127);
    }
    int status = 0;
    rusage used{};
    if (child < 0 || ::wait4(child, &status, 0, &used) != child) {
        fmt::print(stderr, "uthin-bench-measure: {} cannot be started\n", command[0]);
        return 1;
    }
    constexpr long bytes_per_unit = 1024;
    fmt::print("{:.6f} {:.6f} {} {}\n", wall_seconds() - begin,
               seconds(used.ru_utime) + seconds(used.ru_stime), used.ru_maxrss * bytes_per_unit,
               WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return 0;
}

uthin::result<std::uint32_t> read_once(const char* path) {
    const auto file = UTHIN_TRY(uthin::io::file_device::open(
        path, {.read_only = true, .lock = uthin::io::lock_mode::none}));
    const std::uint64_t size_bytes = UTHIN_TRY(file->size_bytes());
    uthin::aligned_buffer buffer(std::size_t{1} << 20);
    std::uint32_t all = 0;
    for (std::uint64_t at = 0; at < size_bytes; at += buffer.size()) {
        const auto piece =
            buffer.span().first(std::min<std::uint64_t>(buffer.size(), size_bytes - at));
        UTHIN_TRY(file->read(at, piece));
        for (std::size_t block = 0; block < piece.size();
             block += uthin::metadata_block_size_bytes) {
            all ^= uthin::crc32c_raw(~0U, piece.subspan(block, uthin::metadata_block_size_bytes));
        }
    }
    return all;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string_view word = argc >= 3 ? argv[1] : "";
    if (word == "run") {
        return run_program(argv + 2);
    }
    if (word == "floor" && argc == 3) {
        const auto sum = read_once(argv[2]);
        if (!sum) {
            fmt::print(stderr, "uthin-bench-measure: {}\n", sum.error().message());
            return 1;
        }
        fmt::print("{:08x}\n", *sum);
        return 0;
    }
    fmt::print(stderr, "usage: uthin-bench-measure run PROGRAM [ARGUMENT...] | floor FILE\n");
    return 2;
}
