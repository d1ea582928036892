// A device that does something before each read, or each writing of zeros, but not before those of
// what it does; nor before those of others meanwhile.
//
// Threads   Any.
#pragma once

#include <functional>
#include <utility>

#include "base/mutex.h"
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
    void before_reads(std::function<void()> hook) { put(before_read_, std::move(hook)); }
    void before_zeroes(std::function<void()> hook) { put(before_zeroes_, std::move(hook)); }

private:
    std::function<void()> put(std::function<void()>& place, std::function<void()> hook) {
        const lock_guard held(lock_);
        return std::exchange(place, std::move(hook));
    }
    void call(std::function<void()>& place) {
        if (auto hook = put(place, nullptr)) {
            hook();
            put(place, std::move(hook));
        }
    }

    mutex lock_;
    std::function<void()> before_read_;
    std::function<void()> before_zeroes_;
};

}  // namespace uthin::test
