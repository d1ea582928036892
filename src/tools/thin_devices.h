// What thin_trim, thin_shrink and thin_migrate need beyond metadata: data devices, and room for an
// image that is made before anything is written over.
//
// Threads   One.
// Failures  As io::open_device; not_found and invalid_argument in the words of the originals.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "uthin/block_device.h"
#include "uthin/error.h"

namespace uthin::tools {

// The URL of the data device of a pool directory; absent when `path` is none.
[[nodiscard]] result<std::optional<std::string>> pool_data_url(const std::string& path);

enum class data_access : std::uint8_t {
    shared_read,      // fails while somebody writes to it
    live_read,        // beside a running pool
    exclusive_write,  // fails while anybody has it
};
// A path or a URL.
[[nodiscard]] result<std::unique_ptr<block_device>> open_data_device(const std::string& path,
                                                                     data_access how);

// A sparse file that has no name and goes away when it is closed, in TMPDIR or /tmp.
[[nodiscard]] result<std::unique_ptr<block_device>> open_scratch(std::uint64_t size_bytes);

// What was written to a regular file or a disk is durable.
[[nodiscard]] result<void> flush_file(const std::string& path);

}  // namespace uthin::tools
