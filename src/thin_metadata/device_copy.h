// The contents of one thin device, copied block by block to somewhere else: all of it, or what
// differs from an older device that the target holds already.
//
// Invariants
//   DC1  Only mapped ranges are read, and only below the end of the device as the caller gives it.
//   DC2  After a copy the target reads as the device does: holes as zeros, unless it was blank.
//   With
//        `base`, provided that it read as `base` did.
//   DC3  On success everything is durable.
// Threads   One.
// Failures  not_found (no such device), corrupt, wrong_block, io_error, out_of_range (a mapping
//           beyond the data device); those of the target. Part of the target is changed then.
// Source    docs/format.md 5.
#pragma once

#include <functional>
#include <optional>

#include "thin_metadata/metadata_view.h"

namespace uthin::thin_metadata {

class copy_target {
public:
    copy_target() = default;
    copy_target(const copy_target&) = delete;
    copy_target& operator=(const copy_target&) = delete;
    virtual ~copy_target() = default;

    [[nodiscard]] virtual result<void> read(std::uint64_t offset_bytes,
                                            std::span<std::byte> buffer) = 0;
    [[nodiscard]] virtual result<void> write(std::uint64_t offset_bytes,
                                             std::span<const std::byte> buffer) = 0;
    // The range reads as zeros afterwards, and takes no space if that can be had.
    [[nodiscard]] virtual result<void> make_hole(std::uint64_t offset_bytes,
                                                 std::uint64_t length_bytes) = 0;
    [[nodiscard]] virtual result<void> flush() = 0;
};

struct copy_request {
    device_id device;
    // Only what differs from this one.
    std::optional<device_id> base = std::nullopt;
    std::uint64_t size_bytes = 0;
    std::size_t buffer_bytes = 4U << 20;
    // The target reads as zeros where nothing was written.
    bool is_blank = false;
    std::function<void(std::uint64_t offset_bytes)> progress = nullptr;
};

struct copy_totals {
    std::uint64_t data_bytes = 0;
    std::uint64_t hole_bytes = 0;  // made, or found to be there
};

// What a device has mapped: the end of its last block, 0 when there is none.
[[nodiscard]] result<std::uint64_t> mapped_end_bytes(metadata_view& view, device_id device);

[[nodiscard]] result<copy_totals> copy_device(metadata_view& view, block_device& data,
                                              copy_target& target, const copy_request& request);

// Reads everything again, on both sides, that copy_device would copy. corrupt where they differ.
[[nodiscard]] result<copy_totals> verify_copy(metadata_view& view, block_device& data,
                                              copy_target& target, const copy_request& request);

}  // namespace uthin::thin_metadata
