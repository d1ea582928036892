// Watches the stream of device operations of a pool and complains about an order that no crash need
// ever show: O1 to O5 of docs/testing.md.
//
//   O1  no metadata block that the last commit uses is overwritten
//   O2  the superblock is written only when everything before it was flushed, on both devices
//   O4  nothing is written between the superblock and its flush
//   O5  bytes 512..4095 of the superblock are zeros
//   (O3, no data block freed since the last commit is written for another owner, is the driver's.)
//
// Threads   observe() under the domain's lock; the rest between operations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/crash_device.h"

namespace uthin::test {

class stream_watch {
public:
    // Indexes of the devices in their domain.
    stream_watch(std::size_t metadata_index, std::size_t data_index)
        : metadata_index_(metadata_index), data_index_(data_index) {}

    void observe(const io::observed_operation& operation);
    // The metadata device as it is now is a committed state.
    void committed(block_device& metadata);

    [[nodiscard]] const std::vector<std::string>& complaints() const { return complaints_; }

private:
    void on_write(const io::observed_operation& operation);
    void on_superblock(const io::observed_operation& operation);
    void complain(std::string text);

    const std::size_t metadata_index_;
    const std::size_t data_index_;
    std::vector<bool> used_;
    std::uint64_t metadata_unflushed_ = 0;
    std::uint64_t data_unflushed_ = 0;
    bool superblock_unflushed_ = false;
    std::vector<std::byte> roots_;  // of the last superblock written
    std::vector<std::string> complaints_;
};

}  // namespace uthin::test
