// A pool on devices in memory, for benchmarks.
//
// Threads   One owner; its volumes as include/uthin/thin.h says.
// Failures  Those of the pool.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "base/result.h"
#include "io/memory_device.h"
#include "uthin/pool.h"

namespace uthin::bench {

inline constexpr std::uint32_t block_size_sectors = 128;
inline constexpr std::uint64_t block_bytes = std::uint64_t{block_size_sectors} * sector_size_bytes;
inline constexpr std::uint64_t page_bytes = 4096;
inline constexpr std::uint64_t pages_per_block = block_bytes / page_bytes;
inline constexpr std::uint64_t large_bytes = 1 << 20;
inline constexpr std::uint64_t seed = 20261122;

class memory_pool {
public:
    struct shape {
        std::uint64_t data_blocks = 0;
        std::uint64_t metadata_bytes = 256ULL << 20;
        pool_options options{};
    };
    // `data`: absent: in memory, too.
    [[nodiscard]] static result<std::unique_ptr<memory_pool>> make(
        shape with, std::unique_ptr<block_device> data = nullptr) {
        if (data == nullptr) {
            data = std::make_unique<io::memory_device>(with.data_blocks * block_bytes);
        }
        auto made = std::make_unique<memory_pool>();
        with.options.format = true;
        with.options.data_block_size_sectors = block_size_sectors;
        made->pool_ = UTHIN_TRY(pool::open(std::make_unique<io::memory_device>(with.metadata_bytes),
                                           std::move(data), with.options, system_clock()));
        UTHIN_TRY(made->pool_->start());
        return made;
    }
    memory_pool() = default;

    [[nodiscard]] pool& operator*() noexcept { return *pool_; }
    [[nodiscard]] pool* operator->() noexcept { return pool_.get(); }
    [[nodiscard]] block_device& data() noexcept { return pool_->data_device(); }

    [[nodiscard]] result<std::shared_ptr<volume>> make_volume(std::uint64_t id,
                                                              std::uint64_t blocks) {
        UTHIN_TRY(pool_->create_thin(device_id(id)));
        return pool_->open_volume(device_id(id), blocks * block_bytes);
    }
    // A volume whose [0, blocks) is mapped to the data blocks from `data_begin` on, of which nobody
    // uses any; nothing is written to them.
    [[nodiscard]] result<std::shared_ptr<volume>> build_volume(std::uint64_t id,
                                                               std::uint64_t blocks,
                                                               std::uint64_t data_begin) {
        bool given = false;
        UTHIN_TRY(pool_->with_metadata([&](metadata& of) {
            return of.build_device(device_id(id), {}, [&]() -> result<std::optional<mapping_run>> {
                if (std::exchange(given, true)) {
                    return std::optional<mapping_run>();
                }
                return std::optional(
                    mapping_run{virtual_block(0), data_block(data_begin), blocks, 0});
            });
        }));
        UTHIN_TRY(pool_->commit());
        return pool_->open_volume(device_id(id), blocks * block_bytes);
    }

private:
    std::unique_ptr<pool> pool_;
};

// Writes all of `blocks`, 1 MiB at a time.
[[nodiscard]] inline result<void> fill(volume& of, std::uint64_t blocks) {
    const std::vector<std::byte> piece(large_bytes, std::byte{0x5a});
    const std::uint64_t end = blocks * block_bytes;
    for (std::uint64_t at = 0; at < end; at += large_bytes) {
        const std::uint64_t length = std::min(end - at, large_bytes);
        UTHIN_TRY(of.write(at, std::span(piece).first(length)));
    }
    return of.flush();
}

// Random pages of anything that reads and writes at offsets; the positions follow from the round.
template <class Target>
[[nodiscard]] result<void> random_pages(Target& target, io_kind kind, std::uint64_t pages,
                                        std::uint64_t operations, std::uint64_t salt) {
    alignas(4096) std::array<std::byte, page_bytes> page{};
    random_generator random(seed + salt);
    for (std::uint64_t i = 0; i < operations; ++i) {
        const std::uint64_t at = random.below(pages) * page_bytes;
        UTHIN_TRY(kind == io_kind::read ? target.read(at, page) : target.write(at, page));
    }
    return {};
}

}  // namespace uthin::bench
