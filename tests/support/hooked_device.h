// A device that does something before each read, but not before the reads of that.
#pragma once

#include <functional>
#include <utility>

#include "support/forwarding_device.h"

namespace uthin::test {

class hooked_device final : public forwarding_device {
public:
    using forwarding_device::forwarding_device;
    [[nodiscard]] result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        if (const auto hook = std::exchange(hook_, nullptr)) {
            hook();
            hook_ = hook;
        }
        return below().read(offset, buffer);
    }
    void before_reads(std::function<void()> hook) { hook_ = std::move(hook); }

private:
    std::function<void()> hook_;
};

}  // namespace uthin::test
