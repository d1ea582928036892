// A device that takes the first few writes, and then neither writes nor flushes: what a break-off
// leaves is on the device below.
//
// Threads   One.
// Failures  io_error from then on; reads go on.
#pragma once

#include <cstdint>
#include <string>

#include "support/forwarding_device.h"
#include "uthin/block_device.h"

namespace uthin::test {

class failing_device final : public forwarding_device {
public:
    // `below` outlives it.
    failing_device(block_device& below, std::uint64_t writes_allowed)
        : forwarding_device(below), left_(writes_allowed) {}

    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override {
        return fails() ? refusal() : below().write(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> flush() override { return failed_ ? refusal() : below().flush(); }
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override {
        return fails() ? refusal() : below().discard(offset_bytes, length_bytes);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override {
        return fails() ? refusal() : below().write_zeroes(offset_bytes, length_bytes);
    }

private:
    [[nodiscard]] bool fails() noexcept {
        failed_ = left_ == 0;
        left_ -= failed_ ? 0 : 1;
        return failed_;
    }
    static std::unexpected<error> refusal() {
        return fail(error_code::io_error, "the device was told to fail");
    }

    std::uint64_t left_;
    bool failed_ = false;
};

}  // namespace uthin::test
