// A small device in memory whose every operation takes a step of the scheduler before and after its
// effect, with a cache: it knows what a power cut would leave.
//
// Invariants
//   SD1  A flush makes durable what was written before it began, and nothing else is.
//   SD2  reset() gives it the bytes of the image that was kept; only what changed is copied.
// Threads   Those of a schedule.
// Failures  io_error, as told to.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "uthin/block_device.h"

namespace uthin::test {

class stepped_device final : public block_device {
public:
    static constexpr std::uint64_t page_bytes = 4096;
    // What differs from the kept image.
    using pages = std::vector<std::pair<std::uint64_t, std::vector<std::byte>>>;

    stepped_device(std::uint64_t size_bytes, std::string name);

    [[nodiscard]] std::string name() const override { return name_; }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override { return bytes_.size(); }
    [[nodiscard]] device_capabilities capabilities() const override;
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override;
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> flush() override;
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> write_fua(std::uint64_t offset_bytes,
                                         std::span<const std::byte> buffer) override;

    // SD2.
    void keep();
    void reset();
    void set(const pages& changed);
    // What a power cut now leaves: what is durable, or all that was written.
    [[nodiscard]] pages after_power_cut(bool all_written) const;

    void fail_writes(bool on) { fails_writes_ = on; }
    void fail_flushes(bool on) { fails_flushes_ = on; }
    void set_fast_write_zeroes(bool on) { fast_write_zeroes_ = on; }

private:
    void changed(std::uint64_t offset_bytes, std::uint64_t length_bytes);
    void make_durable(std::uint64_t page);
    [[nodiscard]] result<void> zero(const char* what, std::uint64_t offset_bytes,
                                    std::uint64_t length_bytes);

    const std::string name_;
    std::vector<std::byte> bytes_;
    std::vector<std::byte> durable_;
    std::vector<std::byte> kept_;
    std::vector<bool> is_dirty_;  // by page: differs from the kept image, perhaps
    std::vector<std::uint64_t> dirty_;
    std::vector<bool> is_cached_;  // by page: not durable
    std::vector<std::uint64_t> cached_;
    bool fails_writes_ = false;
    bool fails_flushes_ = false;
    bool fast_write_zeroes_ = true;
};

}  // namespace uthin::test
