// Ownership of a file or block device, between processes and inside one.
//
// Invariants
//   LK1  One exclusive owner, or any number of shared ones, for each file or disk, whatever path,
//        symbolic link, hard link, device node or loop device it was reached by.
//   LK2  An owner that dies, in whatever way, owns nothing at once.
//
// Threads   Any.
//
// Failures  busy: somebody else owns it. invalid_argument: exclusive on a descriptor that cannot
//           write. unsupported: the file system has no locks.
//
// Source    fcntl(2), "Open file description locks": unlike classic record locks they are not lost
//           when another descriptor of the same file is closed. open(2), O_EXCL on block devices.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "uthin/error.h"

namespace uthin::io {

enum class lock_mode : std::uint8_t { none, shared, exclusive };

// Held until destruction.
class ownership {
public:
    ownership(const ownership&) = delete;
    ownership& operator=(const ownership&) = delete;
    virtual ~ownership() = default;

protected:
    ownership() = default;
};

// mode none gives an object that owns nothing. A forked child that keeps the descriptor shares the
// ownership; an executed program does not.
[[nodiscard]] result<std::unique_ptr<ownership>> acquire_ownership(const std::string& path,
                                                                   lock_mode mode);
// On an open descriptor, which must outlive the ownership; `path` is for messages. To own a disk
// exclusively its descriptor must have been opened with O_EXCL: the kernel's own claim, which
// collides with mounts, device mapper and md too.
[[nodiscard]] result<std::unique_ptr<ownership>> acquire_ownership(int descriptor,
                                                                   const std::string& path,
                                                                   lock_mode mode);

// The error for an open() with O_EXCL that ended with EBUSY.
[[nodiscard]] std::unexpected<error> claim_failure(const std::string& path);

}  // namespace uthin::io
