// A wrapper that makes chosen operations fail, and the plan that chooses them.
//
// Invariants
//   FD1  An operation that fails has had no effect, except short_transfer: about half of it (whole
//        512-byte sectors) was done before the error.
//   FD2  Operations are counted whether or not anything is armed; a failed one is counted too.
//   FD3  Pieces of a batch (block_device::run) are counted and failed one by one, in order.
//
// Threads   Any; one plan may serve several devices.
//
// Failures  The injected ones: io_error with the errno of the outcome.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "base/mutex.h"
#include "io/operation.h"
#include "uthin/block_device.h"

namespace uthin::io {

enum class fault_outcome : std::uint8_t { io_error, no_space, timed_out, short_transfer };

struct fault_rule {
    operation_kinds kinds = operation_kinds::all();
    // 1: the next matching operation after arm().
    std::uint64_t nth = 1;
    // False: only that one. True: that one and every matching one after it, until disarm().
    bool persistent = false;
    fault_outcome outcome = fault_outcome::io_error;
    // Only operations that touch [begin, end) match; flushes match always.
    std::uint64_t range_begin_bytes = 0;
    std::uint64_t range_end_bytes = UINT64_MAX;
};

class fault_plan {
public:
    // Replaces the rule and restarts its count.
    void arm(const fault_rule& rule);
    void disarm();

    // Operations seen since construction or reset_counts().
    [[nodiscard]] std::uint64_t count(operation_kind kind) const;
    // Of the kinds in `kinds`.
    [[nodiscard]] std::uint64_t count(operation_kinds kinds) const;
    void reset_counts();
    // Faults injected since the last arm(): 0 means that the loop over n has reached its end.
    [[nodiscard]] std::uint64_t injected() const;

    // For the wrappers: counts one operation and says how it ends; nothing = as usual.
    [[nodiscard]] std::optional<fault_outcome> next(operation_kind kind, std::uint64_t offset_bytes,
                                                    std::uint64_t length_bytes);

private:
    mutable mutex lock_;
    std::optional<fault_rule> rule_ GUARDED_BY(lock_);
    std::uint64_t matched_ GUARDED_BY(lock_) = 0;
    std::uint64_t injected_ GUARDED_BY(lock_) = 0;
    std::array<std::uint64_t, operation_kind_count> counts_ GUARDED_BY(lock_){};
};

class fault_device final : public block_device {
public:
    // Both must outlive the wrapper.
    fault_device(block_device& below, fault_plan& plan) noexcept : below_(below), plan_(plan) {}

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
    [[nodiscard]] result<void> run(std::span<const io_op> ops) override;
    [[nodiscard]] result<void> write_fua(std::uint64_t offset_bytes,
                                         std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> grow(std::uint64_t size_bytes) override;

private:
    block_device& below_;
    fault_plan& plan_;
};

}  // namespace uthin::io
