// Opening of files and disks: what they are, whether they may be used, and how they are best used.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

#include "base/aligned_buffer.h"
#include "base/result.h"
#include "io/file_device.h"
#include "io/system_error.h"

namespace uthin::io {
namespace {

result<void> check_type(const std::string& path, mode_t mode) {
    const char* what = nullptr;
    if (S_ISREG(mode) || S_ISBLK(mode)) {
        return {};
    }
    if (S_ISDIR(mode)) {
        what = "a directory";
    } else if (S_ISFIFO(mode)) {
        what = "a pipe";
    } else if (S_ISSOCK(mode)) {
        what = "a socket";
    } else {
        what = "a character device";
    }
    return fail(error_code::invalid_argument,
                fmt::format("{} is {}; give a regular file or a block device", path, what));
}

std::unexpected<error> open_failure(const std::string& path, int os_errno, bool read_only) {
    switch (os_errno) {
        case ENOENT:
            return system_failure(os_errno,
                                  path + " does not exist; create it, or correct the path");
        case EACCES:
        case EPERM:
            return system_failure(
                os_errno, fmt::format("{} may not be {}; ask for permission (chmod, or another "
                                      "user)",
                                      path, read_only ? "read" : "read and written"));
        case EBUSY: return claim_failure(path);
        case EROFS:
            return system_failure(os_errno,
                                  path + " is on a read-only file system; open it read-only");
        default: return system_failure(os_errno, path + " cannot be opened");
    }
}

// A number below /sys for the disk `number`, or for the whole disk that the partition is on.
std::uint64_t queue_limit(dev_t number, const char* limit) {
    for (const char* const where : {"queue", "../queue"}) {
        const std::string path = fmt::format("/sys/dev/block/{}:{}/{}/{}", ::major(number),
                                             ::minor(number), where, limit);
        const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (descriptor < 0) {
            continue;
        }
        char text[32] = {};
        const ssize_t length = ::read(descriptor, text, sizeof text - 1);
        ::close(descriptor);
        return length > 0 ? std::strtoull(text, nullptr, 10) : 0;
    }
    return 0;
}

// A new file survives a power cut only when its directory entry does.
result<void> sync_directory_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) {
        return system_failure(errno, directory + " cannot be opened");
    }
    const int status = ::fsync(descriptor);
    const int os_errno = errno;
    ::close(descriptor);
    if (status != 0) {
        return io_failure(os_errno, directory + " cannot be flushed");
    }
    return {};
}

}  // namespace

result<int> file_device::create_file(const std::string& path, std::uint64_t size_bytes) {
    constexpr mode_t owner_only = 0600;
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, owner_only);
    if (descriptor < 0 && errno == EEXIST) {
        return system_failure(EEXIST, path + " is there already; remove it or choose another name");
    }
    if (descriptor < 0) {
        return open_failure(path, errno, false);
    }
    result<void> made;
    if (size_bytes > static_cast<std::uint64_t>(INT64_MAX) ||
        ::ftruncate(descriptor, static_cast<off_t>(size_bytes)) != 0) {
        made = system_failure(size_bytes > static_cast<std::uint64_t>(INT64_MAX) ? EFBIG : errno,
                              fmt::format("{} cannot be made {} bytes long", path, size_bytes));
    }
    if (made && ::fsync(descriptor) != 0) {
        made = io_failure(errno, path + " cannot be flushed");
    }
    if (made) {
        made = sync_directory_of(path);
    }
    if (!made) {
        ::close(descriptor);
        ::unlink(path.c_str());
        return std::unexpected(std::move(made).error());
    }
    return descriptor;
}

result<int> file_device::open_descriptor(const std::string& path, const open_options& options) {
    if (options.create_size_bytes) {
        return create_file(path, *options.create_size_bytes);
    }
    // Looked at first: opening a pipe or a tape would do something.
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) {
        return open_failure(path, errno, options.read_only);
    }
    UTHIN_TRY(check_type(path, status.st_mode));
    int flags = (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    if (S_ISBLK(status.st_mode) && (options.lock == lock_mode::exclusive || options.claim_disk)) {
        // On this descriptor and no other: discarding on a disk that somebody else has claimed,
        // even ourselves, fails while the page cache holds dirty pages of it.
        flags |= O_EXCL;
    }
    const int descriptor = ::open(path.c_str(), flags);
    if (descriptor < 0) {
        return open_failure(path, errno, options.read_only);
    }
    // O_NONBLOCK was for a pipe that took the file's place in between.
    if (::fcntl(descriptor, F_SETFL, 0) != 0) {
        const int os_errno = errno;
        ::close(descriptor);
        return open_failure(path, os_errno, options.read_only);
    }
    return descriptor;
}

result<std::unique_ptr<file_device>> file_device::open(const std::string& path,
                                                       const open_options& options) {
    if (options.create_size_bytes && options.read_only) {
        return fail(error_code::invalid_argument, path + " cannot be made read-only");
    }
    const int descriptor = UTHIN_TRY(open_descriptor(path, options));
    struct stat status {};
    if (::fstat(descriptor, &status) != 0) {
        const int os_errno = errno;
        ::close(descriptor);
        return open_failure(path, os_errno, options.read_only);
    }
    std::unique_ptr<file_device> device(
        new file_device(path, descriptor, S_ISBLK(status.st_mode), options.read_only));
    UTHIN_TRY(check_type(path, status.st_mode));
    device->ownership_ = UTHIN_TRY(acquire_ownership(descriptor, path, options.lock));
    UTHIN_TRY(device->learn(options));
    return device;
}

file_device::~file_device() {
    ownership_.reset();
    ::close(descriptor_);
}

result<void> file_device::learn(const open_options& options) {
    const std::uint64_t size_bytes = UTHIN_TRY(refresh_size());
    if (size_bytes < options.size_bytes_min) {
        return fail(error_code::invalid_argument,
                    fmt::format("{} has only {} bytes; at least {} are needed", path_, size_bytes,
                                options.size_bytes_min));
    }
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) {
        return system_failure(errno, path_ + ": cannot be examined");
    }
    if (is_disk_) {
        int sector_bytes = 0;
        if (::ioctl(descriptor_, BLKSSZGET, &sector_bytes) != 0 || sector_bytes < 512) {
            return io_failure(errno, path_ + ": its sector size cannot be learned");
        }
        logical_sector_bytes_ = static_cast<std::uint32_t>(sector_bytes);
        rotational_ = queue_limit(status.st_rdev, "rotational") != 0;
        can_discard_ = !read_only_ && queue_limit(status.st_rdev, "discard_max_bytes") != 0;
        can_zero_fast_ = queue_limit(status.st_rdev, "write_zeroes_max_bytes") != 0;
        int is_write_protected = 0;
        if (!read_only_ && ::ioctl(descriptor_, BLKROGET, &is_write_protected) == 0 &&
            is_write_protected != 0) {
            return fail(error_code::read_only,
                        path_ + " is write-protected; open it read-only, or run blockdev --setrw");
        }
    } else {
        rotational_ = queue_limit(status.st_dev, "rotational") != 0;
        // A read of a hole succeeds at any alignment.
        logical_sector_bytes_ =
            std::max(logical_sector_bytes_,
                     static_cast<std::uint32_t>(queue_limit(status.st_dev, "logical_block_size")));
        // A hole beyond the end changes nothing, but tells whether holes can be made.
        can_discard_ =
            !read_only_ && ::fallocate(descriptor_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                       static_cast<off_t>(size_bytes), 4096) == 0;
        can_zero_fast_ = can_discard_;
    }
    if (options.direct) {
        probe_direct();
    }
    return {};
}

bool file_device::set_direct(bool on) const {
    const int flags = ::fcntl(descriptor_, F_GETFL);
    if (flags < 0) {
        return false;
    }
    return ::fcntl(descriptor_, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

bool file_device::direct_read_works(std::uint32_t alignment_bytes) const {
    if (known_size_bytes_ % alignment_bytes != 0 || known_size_bytes_ < 2ULL * alignment_bytes) {
        return false;
    }
    // Offset, length and memory are aligned to this and to nothing more.
    aligned_buffer memory(2 * std::size_t{alignment_bytes});
    const ssize_t length =
        ::pread(descriptor_, memory.data() + alignment_bytes, alignment_bytes, alignment_bytes);
    return length == static_cast<ssize_t>(alignment_bytes);
}

void file_device::probe_direct() {
    if (!set_direct(true)) {
        return;
    }
    for (const std::uint32_t candidate : {512U, 4096U}) {
        if (candidate >= logical_sector_bytes_ && direct_read_works(candidate)) {
            alignment_bytes_ = candidate;
            return;
        }
    }
    // Too small or of odd size to try it on, or the file system only says that it can.
    static_cast<void>(set_direct(false));
}

}  // namespace uthin::io
