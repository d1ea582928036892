// A device that several owners use; it is closed with the last of them.
//
// Threads   As the device below.
// Failures  Those of the device below.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "uthin/block_device.h"

namespace uthin::io {

class shared_device final : public block_device {
public:
    explicit shared_device(std::shared_ptr<block_device> below) : below_(std::move(below)) {}

    [[nodiscard]] std::string name() const override { return below_->name(); }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override { return below_->size_bytes(); }
    [[nodiscard]] device_capabilities capabilities() const override {
        return below_->capabilities();
    }
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override {
        return below_->read(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override {
        return below_->write(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> flush() override { return below_->flush(); }
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override {
        return below_->discard(offset_bytes, length_bytes);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override {
        return below_->write_zeroes(offset_bytes, length_bytes);
    }
    [[nodiscard]] result<void> run(std::span<const io_op> ops) override { return below_->run(ops); }
    [[nodiscard]] result<void> write_fua(std::uint64_t offset_bytes,
                                         std::span<const std::byte> buffer) override {
        return below_->write_fua(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> grow(std::uint64_t size_bytes) override {
        return below_->grow(size_bytes);
    }

private:
    const std::shared_ptr<block_device> below_;
};

}  // namespace uthin::io
