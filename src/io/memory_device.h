// A sparse block device in memory: scratch pools and most tests stand on it.
//
// Invariants
//   MD1  Ranges never written, and ranges discarded, read as zeros and take no memory beyond the
//        chunks that they share with written ones.
//   MD2  Overlapping concurrent I/O is safe: each 64 KiB chunk is read or written as a whole.
//
// Threads   Any. I/O locks one of many stripes, chosen by the chunk; there is no global lock.
//
// Failures  out_of_range beyond the end; out_of_memory when a chunk cannot be allocated.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/mutex.h"
#include "uthin/block_device.h"

namespace uthin::io {

class memory_device final : public block_device {
public:
    static constexpr std::uint64_t chunk_size_bytes = 64 << 10;

    explicit memory_device(std::uint64_t size_bytes, std::string name = "memory");

    [[nodiscard]] std::string name() const override { return name_; }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override { return size_bytes_.load(); }
    [[nodiscard]] device_capabilities capabilities() const override;
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override;
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> flush() override { return {}; }
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> grow(std::uint64_t size_bytes) override;

    // Memory held by chunks, for tests of MD1.
    [[nodiscard]] std::uint64_t allocated_bytes() const;

private:
    using chunk = std::array<std::byte, chunk_size_bytes>;
    struct stripe {
        mutable shared_mutex lock;
        std::unordered_map<std::uint64_t, std::unique_ptr<chunk>> chunks GUARDED_BY(lock);
    };
    static constexpr std::size_t stripe_count = 64;

    [[nodiscard]] stripe& stripe_of(std::uint64_t chunk_index) {
        return stripes_[chunk_index % stripe_count];
    }
    [[nodiscard]] result<void> write_chunk(std::uint64_t chunk_index, std::uint64_t begin_bytes,
                                           std::span<const std::byte> piece);
    void zero_chunk(std::uint64_t chunk_index, std::uint64_t begin_bytes,
                    std::uint64_t length_bytes);

    const std::string name_;
    std::atomic<std::uint64_t> size_bytes_;
    std::array<stripe, stripe_count> stripes_;
};

}  // namespace uthin::io
