// The image outside the pool that a volume's unmapped blocks read as.
//
// Invariants
//   XO1  It is never written: its device is opened read-only.
//   XO2  Its size is the one it had when the volume was opened; what lies beyond reads as zeros.
// Threads   Any.
// Failures  Those of the device.
// Source    the kernel's thin target with an external origin argument (v6.12).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "uthin/block_device.h"

namespace uthin::pool_engine {

class external_origin {
public:
    [[nodiscard]] static result<std::shared_ptr<external_origin>> make(
        std::unique_ptr<block_device> device);

    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }
    // Offsets are those of the volume.
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes, std::span<std::byte> buffer);
    [[nodiscard]] block_device& device() noexcept { return *device_; }

private:
    external_origin(std::unique_ptr<block_device> device, std::uint64_t size_bytes)
        : device_(std::move(device)), size_bytes_(size_bytes) {}

    const std::unique_ptr<block_device> device_;
    const std::uint64_t size_bytes_;
};

}  // namespace uthin::pool_engine
