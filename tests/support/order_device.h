// A device that notes in which order it is written and flushed: 's' for a write of the first block,
// 'w' for another one, 'f' for a flush; repetitions count once.
//
// Threads   One.
// Failures  Those of the device below.
#pragma once

#include <cstdint>
#include <string>

#include "support/forwarding_device.h"
#include "uthin/block_device.h"

namespace uthin::test {

class order_device final : public forwarding_device {
public:
    // Both outlive it.
    order_device(block_device& below, std::string& log) : forwarding_device(below), log_(log) {}

    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override {
        note(offset_bytes == 0 ? 's' : 'w');
        return below().write(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> flush() override {
        note('f');
        return below().flush();
    }
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override {
        note(offset_bytes == 0 ? 's' : 'w');
        return below().discard(offset_bytes, length_bytes);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override {
        note(offset_bytes == 0 ? 's' : 'w');
        return below().write_zeroes(offset_bytes, length_bytes);
    }

private:
    void note(char what) {
        if (log_.empty() || log_.back() != what) {
            log_ += what;
        }
    }

    std::string& log_;
};

}  // namespace uthin::test
