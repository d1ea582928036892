// A batch of reads and writes on one descriptor through io_uring.
//
// Threads   Any; rings are kept in a pool and belong to one batch at a time. A ring is not used
//           across fork: the child makes its own.
//
// Failures  unsupported: no io_uring here (old kernel, seccomp, limits); nothing was done and the
//           caller uses pread and pwrite. Otherwise the first error, after every operation ended.
#pragma once

#include <span>
#include <string>

#include "uthin/block_device.h"

namespace uthin::io {

// Transfers are complete or an error. `name` is for messages.
[[nodiscard]] result<void> run_uring_batch(int descriptor, const std::string& name,
                                           std::span<const io_op> ops);

}  // namespace uthin::io
