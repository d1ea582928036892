#include "io/stream_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <system_error>

#include "base/result.h"
#include "io/durable_file.h"
#include "io/system_error.h"

namespace uthin::io {

namespace {

std::unexpected<error> failed(const std::string& path, std::string_view what) {
    const int os_errno = errno;
    return system_failure(
        os_errno, fmt::format("{}: {}: {}", path, what, std::generic_category().message(os_errno)));
}

// `before_each` may refuse.
template <class Before>
result<std::size_t> read_all(int descriptor, const std::string& name, std::span<std::byte> buffer,
                             Before before_each) {
    std::size_t done = 0;
    while (done < buffer.size()) {
        UTHIN_TRY(before_each());
        const ssize_t count = ::read(descriptor, buffer.data() + done, buffer.size() - done);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return failed(name, "cannot read");
        }
        if (count == 0) {
            break;
        }
        done += static_cast<std::size_t>(count);
    }
    return done;
}

}  // namespace

result<new_file> new_file::create(const std::string& path) {
    const std::string fresh = path + ".new";
    const int descriptor =
        ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (descriptor < 0) {
        return failed(fresh, "cannot create");
    }
    return new_file(path, descriptor);
}

new_file::new_file(new_file&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {
}

new_file::~new_file() {
    if (descriptor_ >= 0) {
        ::close(descriptor_);
        ::unlink((path_ + ".new").c_str());
    }
}

result<void> new_file::write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return failed(path_, "cannot write");
        }
        bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
    return {};
}

result<void> new_file::publish() {
    // ORDER: SF1. The content is durable before the name leads to it.
    if (::fsync(descriptor_) != 0) {
        return failed(path_, "cannot flush");
    }
    UTHIN_TRY(rename_file(path_ + ".new", path_));
    ::close(std::exchange(descriptor_, -1));
    return {};
}

result<file_reader> file_reader::open(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
        return failed(path, "cannot open");
    }
    ::posix_fadvise(descriptor, 0, 0, POSIX_FADV_SEQUENTIAL);
    return file_reader(path, descriptor);
}

file_reader::~file_reader() {
    if (descriptor_ >= 0) {
        ::close(descriptor_);
    }
}

result<std::size_t> file_reader::read(std::span<std::byte> buffer) {
    return read_all(descriptor_, path_, buffer, [] { return result<void>(); });
}

result<std::size_t> pipe_reader::read(std::span<std::byte> buffer) const {
    return read_all(descriptor_, name_, buffer, [this] { return wait(); });
}

result<void> pipe_reader::wait() const {
    const int timeout_ms =
        stall_timeout_.count() == 0
            ? -1
            : static_cast<int>(std::min<std::int64_t>(stall_timeout_.count(), INT_MAX));
    pollfd input = {descriptor_, POLLIN, 0};
    while (true) {
        const int ready = ::poll(&input, 1, timeout_ms);
        if (ready == 0) {
            return fail(error_code::cancelled,
                        fmt::format("{}: nothing came for {} ms", name_, stall_timeout_.count()));
        }
        if (ready > 0) {
            return {};
        }
        if (errno != EINTR) {
            return failed(name_, "cannot wait");
        }
    }
}

}  // namespace uthin::io
