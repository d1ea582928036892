// A device that does something before each read, or each writing of zeros, but not before those of
// what it does.
#pragma once

#include <functional>
#include <utility>

#include "support/forwarding_device.h"

namespace uthin::test {

class hooked_device final : public forwarding_device {
public:
    using forwarding_device::forwarding_device;
    [[nodiscard]] result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        call(before_read_);
        return below().read(offset, buffer);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset, std::uint64_t length) override {
        call(before_zeroes_);
        return below().write_zeroes(offset, length);
    }
    [[nodiscard]] result<void> grow(std::uint64_t size) override { return below().grow(size); }
    void before_reads(std::function<void()> hook) { before_read_ = std::move(hook); }
    void before_zeroes(std::function<void()> hook) { before_zeroes_ = std::move(hook); }

private:
    static void call(std::function<void()>& place) {
        if (const auto hook = std::exchange(place, nullptr)) {
            hook();
            place = hook;
        }
    }

    std::function<void()> before_read_;
    std::function<void()> before_zeroes_;
};

}  // namespace uthin::test
