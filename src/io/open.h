// From what a user types to an open device.
//
//   PATH, file:PATH            a regular file or block device
//   memory:SIZE                scratch memory, gone when closed (K, M, G, T are binary)
//   nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbds://..., nbd:URI
//
// Threads   Any.
//
// Failures  One line that names the object and the remedy: not_found, not_permitted, read_only,
//           busy (owned by somebody else), already_exists, invalid_argument (not a file or disk,
//           too small), unsupported (unknown scheme).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "io/lock.h"
#include "uthin/block_device.h"

namespace uthin::io {

struct open_options {
    bool read_only = false;
    // Remote images have no lock here: their server decides.
    lock_mode lock = lock_mode::exclusive;
    // A disk is claimed (O_EXCL: busy while mounted or under device mapper) with a shared lock too.
    bool claim_disk = false;
    // O_DIRECT if the file system takes it.
    bool direct = true;
    // Smaller devices are refused.
    std::uint64_t size_bytes_min = 0;
    // Files only: make a new sparse file of this size; already_exists if there is one.
    std::optional<std::uint64_t> create_size_bytes = std::nullopt;
};

[[nodiscard]] result<std::unique_ptr<block_device>> open_device(std::string_view url,
                                                                const open_options& options);

}  // namespace uthin::io
