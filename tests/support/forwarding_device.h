// A device that passes everything on to another one; tests override what they want to see or
// change.
//
// run() and write_fua() are the defaults of block_device, which end in read(), write() and flush()
// of the object itself.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "uthin/block_device.h"

namespace uthin::test {

class forwarding_device : public block_device {
public:
    // `below` outlives it.
    explicit forwarding_device(block_device& below) : below_(below) {}

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
        return below_.write(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> flush() override { return below_.flush(); }
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override {
        return below_.discard(offset_bytes, length_bytes);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override {
        return below_.write_zeroes(offset_bytes, length_bytes);
    }

protected:
    [[nodiscard]] block_device& below() noexcept { return below_; }

private:
    block_device& below_;
};

}  // namespace uthin::test
