#include "io/durable_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "base/result.h"
#include "io/system_error.h"

namespace uthin::io {

namespace {

class owned_descriptor {
public:
    explicit owned_descriptor(int number) : number_(number) {}
    owned_descriptor(const owned_descriptor&) = delete;
    owned_descriptor& operator=(const owned_descriptor&) = delete;
    ~owned_descriptor() {
        if (number_ >= 0) {
            ::close(number_);
        }
    }
    [[nodiscard]] int get() const noexcept { return number_; }
    [[nodiscard]] bool valid() const noexcept { return number_ >= 0; }

private:
    int number_;
};

std::unexpected<error> failed(const std::string& path, std::string_view what) {
    const int os_errno = errno;
    return system_failure(
        os_errno, fmt::format("{}: {}: {}", path, what, std::generic_category().message(os_errno)));
}

std::string parent_of(const std::string& path) {
    const std::string parent = std::filesystem::path(path).parent_path().string();
    return parent.empty() ? "." : parent;
}

result<void> write_all(int descriptor, std::string_view content, const std::string& path) {
    while (!content.empty()) {
        const ssize_t count = ::write(descriptor, content.data(), content.size());
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return failed(path, "cannot write");
        }
        content.remove_prefix(static_cast<std::size_t>(count));
    }
    return {};
}

}  // namespace

result<std::string> read_file(const std::string& path, std::uint64_t bytes_max) {
    const owned_descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file.valid()) {
        return failed(path, "cannot open");
    }
    std::string content;
    char piece[4096];
    while (true) {
        const ssize_t count = ::read(file.get(), piece, sizeof piece);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return failed(path, "cannot read");
        }
        if (count == 0) {
            return content;
        }
        content.append(piece, static_cast<std::size_t>(count));
        if (content.size() > bytes_max) {
            return fail(error_code::invalid_argument,
                        fmt::format("{}: larger than {} bytes", path, bytes_max));
        }
    }
}

result<void> replace_file(const std::string& path, std::string_view content) {
    const std::string fresh = path + std::string(replacement_suffix);
    const owned_descriptor file(
        ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!file.valid()) {
        return failed(fresh, "cannot create");
    }
    result<void> done = write_all(file.get(), content, fresh);
    // ORDER: DF1. The content is durable before the name leads to it.
    if (done && ::fsync(file.get()) != 0) {
        done = failed(fresh, "cannot flush");
    }
    if (done) {
        done = rename_file(fresh, path);
    }
    if (!done) {
        ::unlink(fresh.c_str());
    }
    return done;
}

result<void> rename_file(const std::string& from, const std::string& to) {
    if (::rename(from.c_str(), to.c_str()) != 0) {
        return failed(to, "cannot replace");
    }
    return flush_directory(parent_of(to));
}

result<void> remove_file(const std::string& path) {
    if (::unlink(path.c_str()) != 0) {
        return failed(path, "cannot remove");
    }
    return flush_directory(parent_of(path));
}

result<bool> make_directory(const std::string& path) {
    if (::mkdir(path.c_str(), 0700) == 0) {
        UTHIN_TRY(flush_directory(parent_of(path)));
        return true;
    }
    if (errno != EEXIST) {
        return failed(path, "cannot make directory");
    }
    if (kind_of_file(path) != file_kind::directory) {
        return fail(error_code::invalid_argument, fmt::format("{}: not a directory", path));
    }
    return false;
}

result<void> flush_directory(const std::string& path) {
    const owned_descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid()) {
        return failed(path, "cannot open");
    }
    // Some file systems have nothing to flush for a directory.
    if (::fsync(directory.get()) != 0 && errno != EINVAL) {
        return failed(path, "cannot flush");
    }
    return {};
}

file_kind kind_of_file(const std::string& path) {
    struct stat found {};
    if (::stat(path.c_str(), &found) != 0) {
        return errno == ENOENT ? file_kind::absent : file_kind::other;
    }
    switch (found.st_mode & S_IFMT) {
        case S_IFREG: return file_kind::regular;
        case S_IFDIR: return file_kind::directory;
        case S_IFBLK: return file_kind::block_device;
        default: return file_kind::other;
    }
}

bool is_same_file(const std::string& a, const std::string& b) {
    struct stat first {};
    struct stat second {};
    if (::stat(a.c_str(), &first) != 0 || ::stat(b.c_str(), &second) != 0) {
        return false;
    }
    if (S_ISBLK(first.st_mode) && S_ISBLK(second.st_mode)) {
        return first.st_rdev == second.st_rdev;
    }
    return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

std::string absolute_path(const std::string& path) {
    std::error_code ignored;
    const auto resolved = std::filesystem::weakly_canonical(path, ignored);
    return ignored ? path : resolved.string();
}

result<data_map> data_map::open(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        return failed(path, "cannot open");
    }
    return data_map(descriptor);
}

data_map::~data_map() {
    if (descriptor_ >= 0) {
        ::close(descriptor_);
    }
}

result<std::optional<byte_run>> data_map::next(std::uint64_t offset_bytes,
                                               std::uint64_t size_bytes) const {
    if (offset_bytes >= size_bytes) {
        return std::nullopt;
    }
    const off_t begin = ::lseek(descriptor_, static_cast<off_t>(offset_bytes), SEEK_DATA);
    if (begin < 0 && errno == ENXIO) {
        return std::nullopt;
    }
    const off_t end = begin < 0 ? -1 : ::lseek(descriptor_, begin, SEEK_HOLE);
    if (end <= begin) {
        return byte_run{offset_bytes, size_bytes};
    }
    const auto first = static_cast<std::uint64_t>(begin);
    if (first >= size_bytes) {
        return std::nullopt;
    }
    return byte_run{first, std::min(static_cast<std::uint64_t>(end), size_bytes)};
}

}  // namespace uthin::io
