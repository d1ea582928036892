// uthin-bench-images: makes the metadata that `./dev bench tools` works on.
//
//   uthin-bench-images KIND FILE [MAPPINGS]
//     fragmented   two devices with half of the mappings each, no two of them neighbours
//     runs         the same in runs of 1024 blocks
//     snapshots    1000 devices that share most of one tree of MAPPINGS mappings
//     small        three devices, a few mappings
#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string_view>

#include "base/result.h"
#include "io/file_device.h"
#include "uthin/metadata.h"

namespace uthin::bench {
namespace {

constexpr std::uint32_t block_size_sectors = 128;
constexpr std::uint64_t blocks_per_run = 1024;
constexpr std::uint64_t snapshot_devices = 1000;
constexpr std::uint64_t writes_per_snapshot = 10;

// Near the golden section and without a common factor: neighbours lie far apart, and every number
// below `count` is met once.
std::uint64_t stride_for(std::uint64_t count) {
    std::uint64_t stride = count * 618 / 1000 + 1;
    while (std::gcd(stride, count) != 1) {
        ++stride;
    }
    return stride;
}

class image {
public:
    result<void> make(const char* path, std::uint64_t mappings, std::uint64_t data_blocks) {
        // Twice what full leaves and the bitmaps take, and room for a small pool.
        const std::uint64_t blocks = 2 * (mappings / 252 + data_blocks / 16320) + 4096;
        file_ = UTHIN_TRY(io::file_device::open(
            path, {.direct = false, .create_size_bytes = blocks * metadata_block_size_bytes}));
        UTHIN_TRY(file_->grow(blocks * metadata_block_size_bytes));
        pool_ = UTHIN_TRY(metadata::open(
            *file_, {.data_block_size_sectors = block_size_sectors, .format = true}));
        return pool_->resize_data(data_blocks);
    }
    // Device `id` with `mappings` mappings in runs of `run_blocks`, in data blocks from `base` on.
    result<void> add_device(std::uint64_t id, std::uint64_t mappings, std::uint64_t run_blocks,
                            std::uint64_t base) {
        const std::uint64_t runs = mappings / run_blocks;
        const std::uint64_t stride = stride_for(runs);
        std::uint64_t next = 0;
        const auto source = [&]() -> result<std::optional<mapping_run>> {
            if (next == runs) {
                return std::optional<mapping_run>();
            }
            const std::uint64_t place = next * stride % runs;
            const mapping_run run{virtual_block(next * run_blocks),
                                  data_block(base + place * run_blocks), run_blocks, 0};
            ++next;
            return std::optional(run);
        };
        return pool_->build_device(device_id(id), {}, source);
    }
    // Writes that break sharing.
    result<void> overwrite(std::uint64_t id, std::uint64_t mappings, std::uint64_t salt) {
        thin_device* const device = UTHIN_TRY(pool_->open_device(device_id(id)));
        for (std::uint64_t count = 0; count < writes_per_snapshot; ++count) {
            const std::uint64_t at = (salt * 7919 + count * 4973) % mappings;
            UTHIN_TRY(pool_->insert_block(*device, virtual_block(at),
                                          UTHIN_TRY(pool_->alloc_data_block())));
        }
        pool_->close_device(device);
        return {};
    }
    result<void> finish() {
        UTHIN_TRY(pool_->close());
        return file_->flush();
    }
    [[nodiscard]] metadata& pool() noexcept { return *pool_; }

private:
    std::unique_ptr<io::file_device> file_;
    std::unique_ptr<metadata> pool_;
};

result<void> make_two_devices(const char* path, std::uint64_t mappings, std::uint64_t run_blocks) {
    image target;
    const std::uint64_t half = mappings / 2 / run_blocks * run_blocks;
    UTHIN_TRY(target.make(path, mappings, mappings + mappings / 5));
    UTHIN_TRY(target.add_device(1, half, run_blocks, 0));
    UTHIN_TRY(target.add_device(2, half, run_blocks, half));
    return target.finish();
}

result<void> make_snapshots(const char* path, std::uint64_t mappings) {
    image target;
    const std::uint64_t written = snapshot_devices * writes_per_snapshot;
    // Each write copies at most a path of nodes.
    UTHIN_TRY(target.make(path, mappings + written * 3 * 252, mappings + 2 * written));
    UTHIN_TRY(target.add_device(1, mappings, 1, 0));
    for (std::uint64_t id = 2; id <= snapshot_devices; ++id) {
        UTHIN_TRY(target.pool().create_snap(device_id(id), device_id(1)));
        UTHIN_TRY(target.overwrite(1, mappings, id));
        if (id % 50 == 0) {
            UTHIN_TRY(target.pool().commit());
        }
    }
    return target.finish();
}

result<void> make_small(const char* path) {
    image target;
    constexpr std::uint64_t mappings = 1000;
    UTHIN_TRY(target.make(path, mappings, 4 * mappings));
    UTHIN_TRY(target.add_device(1, mappings, 1, 0));
    for (std::uint64_t id = 2; id <= 3; ++id) {
        UTHIN_TRY(target.pool().create_snap(device_id(id), device_id(1)));
        UTHIN_TRY(target.overwrite(1, mappings, id));
    }
    return target.finish();
}

result<void> make(std::string_view kind, const char* path, std::uint64_t mappings) {
    if (kind == "fragmented") {
        return make_two_devices(path, mappings, 1);
    }
    if (kind == "runs") {
        return make_two_devices(path, mappings, blocks_per_run);
    }
    if (kind == "snapshots") {
        return make_snapshots(path, mappings);
    }
    if (kind == "small") {
        return make_small(path);
    }
    return fail(error_code::invalid_argument, fmt::format("unknown kind '{}'", kind));
}

}  // namespace
}  // namespace uthin::bench

int main(int argc, char** argv) {
    if (argc < 3 || argc > 4) {
        fmt::print(stderr,
                   "usage: uthin-bench-images fragmented|runs|snapshots|small FILE [MAPPINGS]\n");
        return 2;
    }
    std::uint64_t mappings = 5'000'000;
    if (argc == 4) {
        const char* const end = argv[3] + std::strlen(argv[3]);
        if (std::from_chars(argv[3], end, mappings).ptr != end || mappings < 2) {
            fmt::print(stderr, "uthin-bench-images: '{}' is no number of mappings\n", argv[3]);
            return 2;
        }
    }
    const auto made = uthin::bench::make(argv[1], argv[2], mappings);
    if (!made) {
        fmt::print(stderr, "uthin-bench-images: {}\n", made.error().message());
        return 1;
    }
    return 0;
}
