#include "io/lock.h"

#include <fcntl.h>
#include <linux/major.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fmt/format.h>

#include <fstream>
#include <map>
#include <tuple>
#include <utility>

#include "base/mutex.h"
#include "base/result.h"
#include "io/system_error.h"

namespace uthin::io {
namespace {

// What is owned: a disk by its number, a file by its inode.
struct identity {
    bool is_disk = false;
    dev_t device = 0;
    ino_t inode = 0;
    auto operator<=>(const identity&) const = default;
};

// Who owns what in this process. The kernel's locks tell two descriptors of one process apart as
// well, but not two device nodes of one disk.
class registry {
public:
    [[nodiscard]] bool enter(const identity& what, lock_mode mode) {
        const lock_guard held(lock_);
        owners& present = owners_[what];
        if (present.exclusive || (mode == lock_mode::exclusive && present.shared != 0)) {
            return false;
        }
        if (mode == lock_mode::exclusive) {
            present.exclusive = true;
        } else {
            ++present.shared;
        }
        return true;
    }

    void leave(const identity& what, lock_mode mode) {
        const lock_guard held(lock_);
        const auto found = owners_.find(what);
        if (mode == lock_mode::exclusive) {
            found->second.exclusive = false;
        } else {
            --found->second.shared;
        }
        if (!found->second.exclusive && found->second.shared == 0) {
            owners_.erase(found);
        }
    }

private:
    struct owners {
        bool exclusive = false;
        std::uint64_t shared = 0;
    };
    mutex lock_;
    std::map<identity, owners> owners_ GUARDED_BY(lock_);
};

registry& this_process() {
    static registry owners;
    return owners;
}

// Of a loop device; empty when there is none to be found.
std::string file_behind(dev_t disk) {
    std::string path;
    if (major(disk) == LOOP_MAJOR) {
        std::ifstream sysfs(
            fmt::format("/sys/dev/block/{}:{}/loop/backing_file", major(disk), minor(disk)));
        std::getline(sysfs, path);
    }
    struct stat status {};
    return !path.empty() && ::stat(path.c_str(), &status) == 0 ? path : std::string();
}

class held_ownership final : public ownership {
public:
    held_ownership(int descriptor, bool owns_descriptor, lock_mode mode) noexcept
        : descriptor_(descriptor), owns_descriptor_(owns_descriptor), mode_(mode) {}

    ~held_ownership() override {
        if (locked_) {
            struct flock range = whole_file(F_UNLCK);
            ::fcntl(descriptor_, F_OFD_SETLK, &range);
        }
        if (registered_) {
            this_process().leave(what_, mode_);
        }
        if (owns_descriptor_) {
            ::close(descriptor_);
        }
    }

    [[nodiscard]] result<void> acquire(const std::string& path) {
        if (mode_ == lock_mode::none) {
            return {};
        }
        struct stat status {};
        if (::fstat(descriptor_, &status) != 0) {
            return system_failure(errno, path + ": cannot be examined");
        }
        const bool is_disk = S_ISBLK(status.st_mode);
        what_ = is_disk ? identity{true, status.st_rdev, 0}
                        : identity{false, status.st_dev, status.st_ino};
        registered_ = this_process().enter(what_, mode_);
        if (!registered_) {
            return fail(error_code::busy,
                        path + " is already open in this process; close it there first");
        }
        // LK1: the loop device and its file are one.
        if (const std::string file = is_disk ? file_behind(status.st_rdev) : std::string();
            !file.empty()) {
            file_ = UTHIN_TRY_CTX(acquire_ownership(file, mode_), path);
        }
        return lock_file(path);
    }

private:
    static struct flock whole_file(short type) {
        struct flock range {};
        range.l_type = type;
        range.l_whence = SEEK_SET;
        return range;
    }

    [[nodiscard]] result<void> lock_file(const std::string& path) {
        struct flock range = whole_file(mode_ == lock_mode::exclusive ? F_WRLCK : F_RDLCK);
        if (::fcntl(descriptor_, F_OFD_SETLK, &range) == 0) {
            locked_ = true;
            return {};
        }
        switch (errno) {
            case EAGAIN:
            case EACCES:
                return fail(error_code::busy,
                            path + " is owned by another process; stop it, or wait until it ends");
            case EBADF:
                return fail(error_code::invalid_argument,
                            path + " is open for reading only and can only be owned shared");
            case ENOLCK:
            case EINVAL:
            case EOPNOTSUPP:
                return fail(
                    error_code::unsupported,
                    path + " is on a file system without locks; move it to one that has them",
                    errno);
            default: return system_failure(errno, path + ": cannot be locked");
        }
    }

    const int descriptor_;
    const bool owns_descriptor_;
    const lock_mode mode_;
    identity what_;
    bool registered_ = false;
    bool locked_ = false;
    std::unique_ptr<ownership> file_;
};

}  // namespace

result<std::unique_ptr<ownership>> acquire_ownership(int descriptor, const std::string& path,
                                                     lock_mode mode) {
    auto held = std::make_unique<held_ownership>(descriptor, false, mode);
    UTHIN_TRY(held->acquire(path));
    return held;
}

result<std::unique_ptr<ownership>> acquire_ownership(const std::string& path, lock_mode mode) {
    int flags = (mode == lock_mode::exclusive ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK;
    struct stat status {};
    if (mode == lock_mode::exclusive && ::stat(path.c_str(), &status) == 0 &&
        S_ISBLK(status.st_mode)) {
        flags |= O_EXCL;
    }
    const int descriptor = ::open(path.c_str(), flags);
    if (descriptor < 0) {
        return errno == EBUSY ? claim_failure(path)
                              : system_failure(errno, path + ": cannot be opened to own it");
    }
    auto held = std::make_unique<held_ownership>(descriptor, true, mode);
    UTHIN_TRY(held->acquire(path));
    return held;
}

std::unexpected<error> claim_failure(const std::string& path) {
    return fail(error_code::busy,
                path +
                    " is in use (mounted, part of another device, or owned by another "
                    "process); release it there first",
                EBUSY);
}

}  // namespace uthin::io
