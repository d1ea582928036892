// A device that notes in which order it is written and flushed: 's' for a write of the first block,
// 'w' for another one, 'f' for a flush; repetitions count once.
//
// Threads   One.
// Failures  Those of the device below.
#pragma once

#include <cstdint>
#include <string>

#include "uthin/block_device.h"

namespace uthin::test {

class order_device final : public block_device {
public:
    // Both outlive it.
    order_device(block_device& below, std::string& log) : below_(below), log_(log) {}

    [[nodiscard]] std::string name() const override { return below_.name(); }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override { return below_.size_bytes(); }
    [[nodiscard]] device_capabilities capabilities() const override {
        return below_.capabilities();
    }
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override {
        return below_.read(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override {
        note(offset_bytes == 0 ? 's' : 'w');
        return below_.write(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> flush() override {
        note('f');
        return below_.flush();
    }
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override {
        note(offset_bytes == 0 ? 's' : 'w');
        return below_.discard(offset_bytes, length_bytes);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override {
        note(offset_bytes == 0 ? 's' : 'w');
        return below_.write_zeroes(offset_bytes, length_bytes);
    }

private:
    void note(char what) {
        if (log_.empty() || log_.back() != what) {
            log_ += what;
        }
    }

    block_device& below_;
    std::string& log_;
};

}  // namespace uthin::test
