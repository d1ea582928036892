// The image outside the pool that a volume's unmapped blocks read as.
//
// Invariants
//   XO1  It is written by a merge only (origin_mover.h), through a device of its own.
//   XO2  Its size is the one it had when the volume was opened, until a merge begins; what lies
//        beyond reads as zeros.
// Threads   Any.
// Failures  Those of the device.
// Source    the kernel's thin target with an external origin argument (v6.12).
#pragma once

#include <algorithm>
#include <atomic>
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

    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_.load(); }
    // What it has grown by must read as zeros.
    [[nodiscard]] result<void> notice_growth();
    // Offsets are those of the volume.
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes, std::span<std::byte> buffer);
    [[nodiscard]] block_device& device() noexcept { return *device_; }

private:
    external_origin(std::unique_ptr<block_device> device, std::uint64_t size_bytes)
        : device_(std::move(device)), size_bytes_(size_bytes) {}

    const std::unique_ptr<block_device> device_;
    std::atomic<std::uint64_t> size_bytes_;
};

}  // namespace uthin::pool_engine
