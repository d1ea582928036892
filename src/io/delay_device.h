// A wrapper that makes each operation take longer, in real or simulated time.
//
// Invariants
//   DD1  The delay of a kind is slept before the operation is passed on.
//   DD2  A batch (block_device::run) sleeps once, for the slowest kind in it: its pieces are in
//        flight together.
//
// Threads   Any; delays may be changed while I/O runs (with a clock that is safe to share).
//
// Failures  Those of the device below.
#pragma once

#include <array>
#include <atomic>
#include <chrono>

#include "base/clock.h"
#include "io/operation.h"
#include "uthin/block_device.h"

namespace uthin::io {

class delay_device final : public block_device {
public:
    // Both must outlive the wrapper.
    delay_device(block_device& below, clock& time) noexcept : below_(below), clock_(time) {}

    void set_delay(operation_kind kind, std::chrono::nanoseconds delay) noexcept {
        delays_ns_[static_cast<std::size_t>(kind)].store(delay.count());
    }

    [[nodiscard]] std::string name() const override { return below_.name(); }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override { return below_.size_bytes(); }
    [[nodiscard]] device_capabilities capabilities() const override {
        return below_.capabilities();
    }
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override;
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> flush() override;
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override;
    void take_space(std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
        below_.take_space(offset_bytes, length_bytes);
    }
    [[nodiscard]] result<void> run(std::span<const io_op> ops) override;
    // Sleeps for a write and for a flush.
    [[nodiscard]] result<void> write_fua(std::uint64_t offset_bytes,
                                         std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> grow(std::uint64_t size_bytes) override;

private:
    [[nodiscard]] std::chrono::nanoseconds delay(operation_kind kind) const noexcept {
        return std::chrono::nanoseconds(delays_ns_[static_cast<std::size_t>(kind)].load());
    }
    void sleep(std::chrono::nanoseconds duration);

    block_device& below_;
    clock& clock_;
    std::array<std::atomic<std::int64_t>, operation_kind_count> delays_ns_{};
};

}  // namespace uthin::io
