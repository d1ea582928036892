// The two devices of a pool: opened together, locked, and not taken for each other.
//
// Invariants
//   PD1  Nothing is written by any call here.
//   PD2  Both devices are owned (exclusively, or shared when read-only) before either is believed.
// Threads   Any.
// Failures  busy: owned by somebody else until `wait` was over. corrupt: not pool metadata, or
//           metadata and data swapped. not_permitted: blank metadata. invalid_argument: too small,
//           or one device for both.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "base/clock.h"
#include "pool/pool_file.h"
#include "uthin/block_device.h"
#include "uthin/error.h"

namespace uthin {

struct pool_devices {
    std::unique_ptr<block_device> metadata;
    std::unique_ptr<block_device> data;
};

struct pool_devices_request {
    std::string metadata_url{};
    std::string data_url{};
    bool read_only = false;
    data_cache cache = data_cache::none;  // of the data; metadata goes around the page cache
    std::chrono::nanoseconds wait{0};
};

[[nodiscard]] result<pool_devices> open_pool_devices(const pool_devices_request& request,
                                                     clock& time);

// Both hold what their role needs: `metadata` a superblock, and not `data` instead of it.
[[nodiscard]] result<void> check_pool_devices(const pool_devices& devices);
// For formatting: `metadata` begins with a blank block, and `data` with no superblock.
[[nodiscard]] result<void> check_devices_are_blank(const pool_devices& devices);

}  // namespace uthin
