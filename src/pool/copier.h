// Moves and zeroes parts of data blocks, on the thread of the request that needs it.
//
// Several pieces are in flight at once (block_device::run), so that no worker threads are needed.
//
// Threads   Any.
// Failures  Those of the device; the destination is then undefined.
// Source    kcopyd's role and sub-job size (docs/concurrency.md).
#pragma once

#include <cstdint>

#include "base/result.h"
#include "uthin/block_device.h"

namespace uthin::pool_engine {

// [from, from + length) to [to, to + length); the ranges do not overlap.
[[nodiscard]] result<void> copy_range(block_device& device, std::uint64_t from_bytes,
                                      std::uint64_t to_bytes, std::uint64_t length_bytes);

}  // namespace uthin::pool_engine
