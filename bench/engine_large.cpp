// Large pools: opening them, working beside long operations and slow flushes, memory.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <utility>

#include "base/thread.h"
#include "io/delay_device.h"
#include "io/file_device.h"
#include "memory_pool.h"
#include "report.h"

namespace uthin::bench {

namespace {

constexpr std::uint64_t tebibyte_blocks = (1ULL << 40) / block_bytes;
constexpr double open_milliseconds_max = 20;
constexpr double open_reads_max = 100;
constexpr double beyond_the_cache_max_mib = 64;
constexpr double delay_milliseconds_max = 10;
constexpr double hit_milliseconds_max = 5;

// A volume of `mappings` scattered mappings on a sparse file.
result<void> build_file(const std::string& path, std::uint64_t mappings) {
    const std::uint64_t blocks = mappings / 252 + 2 * mappings / 16320 + 16384;
    const auto file = UTHIN_TRY(io::file_device::open(
        path, {.direct = false, .create_size_bytes = blocks * metadata_block_size_bytes}));
    const auto pool = UTHIN_TRY(
        metadata::open(*file, {.data_block_size_sectors = block_size_sectors, .format = true}));
    UTHIN_TRY(pool->resize_data(mappings));
    std::uint64_t next = 0;
    // Runs of 64, as a volume written at random by large requests has them.
    constexpr std::uint64_t run = 64;
    const std::uint64_t runs = mappings / run;
    UTHIN_TRY(pool->build_device(device_id(0), {}, [&]() -> result<std::optional<mapping_run>> {
        if (next == runs) {
            return std::optional<mapping_run>();
        }
        const mapping_run one{virtual_block(next * run),
                              data_block((next * 7919 + 13) % runs * run), run, 0};
        ++next;
        return std::optional(one);
    }));
    UTHIN_TRY(pool->close());
    return file->flush();
}

// Latencies of one page read or written at a time, in milliseconds.
class prober {
public:
    prober(volume& of, io_kind kind, std::uint64_t pages)
        : volume_(of), kind_(kind), pages_(pages) {}
    ~prober() { stopping_.store(true); }
    [[nodiscard]] result<void> start() {
        return thread_.start([this] { probe(); });
    }
    [[nodiscard]] std::vector<double> stop() {
        stopping_.store(true);
        thread_.join();
        return std::move(milliseconds_);
    }

private:
    void probe() {
        alignas(4096) std::array<std::byte, page_bytes> page{};
        random_generator random(seed);
        while (!stopping_.load()) {
            const std::uint64_t at = random.below(pages_) * page_bytes;
            const double begin = wall_seconds();
            const auto done =
                kind_ == io_kind::read ? volume_.read(at, page) : volume_.write(at, page);
            if (done) {
                milliseconds_.push_back((wall_seconds() - begin) * 1e3);
            }
            system_clock().sleep_for(std::chrono::microseconds(200));
        }
    }

    volume& volume_;
    const io_kind kind_;
    const std::uint64_t pages_;
    std::vector<double> milliseconds_;
    std::atomic<bool> stopping_{false};
    thread thread_;  // the last member: joined before the others go
};

double percentile(std::vector<double> values, double part) {
    std::ranges::sort(values);
    return values.empty()
               ? 0
               : values[std::min(
                     values.size() - 1,
                     static_cast<std::size_t>(part * static_cast<double>(values.size())))];
}

// Reads, overwrites and first writes of other volumes while `work` runs.
result<void> probe_beside(report& out, const std::string& name, memory_pool& pool, volume& mapped,
                          volume& fresh, const std::function<result<void>()>& work, bool judged) {
    prober reads(mapped, io_kind::read, mapped.size_bytes() / page_bytes);
    prober writes(mapped, io_kind::write, mapped.size_bytes() / page_bytes);
    prober first(fresh, io_kind::write, fresh.size_bytes() / page_bytes);
    UTHIN_TRY(reads.start());
    UTHIN_TRY(writes.start());
    UTHIN_TRY(first.start());
    const double begin = wall_seconds();
    auto worked = work();
    const double took = wall_seconds() - begin;
    const std::pair<const char*, std::vector<double>> all[] = {
        {"read", reads.stop()}, {"write", writes.stop()}, {"first-write", first.stop()}};
    UTHIN_TRY(std::move(worked));
    out.value(name + "/seconds", took, "s");
    for (const auto& [what, times] : all) {
        out.value(fmt::format("{}/{}-p50", name, what), percentile(times, 0.5), "ms");
        out.value(fmt::format("{}/{}-p99.9", name, what), percentile(times, 0.999), "ms");
        out.value(fmt::format("{}/{}-worst", name, what), percentile(times, 1), "ms",
                  judged ? bound::at_most : bound::none, delay_milliseconds_max);
    }
    UTHIN_TRY((*pool).commit());
    return {};
}

result<void> beside_removal(report& out) {
    if (!out.wanted("beside")) {
        return {};
    }
    constexpr std::uint64_t other_blocks = 4096;
    const std::uint64_t blocks = out.options().quick ? tebibyte_blocks / 16 : tebibyte_blocks;
    memory_pool::shape shape{.data_blocks = 2 * blocks + 16 * other_blocks,
                             .metadata_bytes = 2ULL << 30};
    const auto pool = UTHIN_TRY(memory_pool::make(shape));
    auto deleted = UTHIN_TRY(pool->build_volume(1, blocks, 0));
    const auto discarded = UTHIN_TRY(pool->build_volume(2, blocks, blocks));
    const auto mapped = UTHIN_TRY(pool->make_volume(3, other_blocks));
    UTHIN_TRY(fill(*mapped, other_blocks));
    const auto fresh = UTHIN_TRY(pool->make_volume(4, 1 << 20));
    UTHIN_TRY(probe_beside(
        out, "beside/nothing", *pool, *mapped, *fresh,
        [&]() -> result<void> {
            system_clock().sleep_for(std::chrono::seconds(3));
            return {};
        },
        false));
    deleted.reset();
    UTHIN_TRY(probe_beside(
        out, "beside/delete-1t", *pool, *mapped, *fresh,
        [&]() -> result<void> {
            UTHIN_TRY((*pool)->delete_in_background(device_id(1)));
            return (*pool)->wait_for_deletion(device_id(1));
        },
        true));
    return probe_beside(
        out, "beside/discard-1t", *pool, *mapped, *fresh,
        [&] { return discarded->discard(0, blocks * block_bytes); }, true);
}

// Overwrites of mapped blocks while another volume provisions and commits on slow devices.
result<void> beside_flushes(report& out) {
    if (!out.wanted("slow-flushes")) {
        return {};
    }
    constexpr std::uint64_t blocks = 1024;
    io::memory_device metadata_below(64 << 20);
    io::memory_device data_below(8 * blocks * block_bytes);
    auto metadata = std::make_unique<io::delay_device>(metadata_below, system_clock());
    auto data = std::make_unique<io::delay_device>(data_below, system_clock());
    io::delay_device& slow_metadata = *metadata;
    io::delay_device& slow_data = *data;
    pool_options options;
    options.format = true;
    options.data_block_size_sectors = block_size_sectors;
    options.commit_interval = std::chrono::milliseconds(100);
    const auto pool =
        UTHIN_TRY(pool::open(std::move(metadata), std::move(data), options, system_clock()));
    UTHIN_TRY(pool->start());
    UTHIN_TRY(pool->create_thin(device_id(0)));
    UTHIN_TRY(pool->create_thin(device_id(1)));
    const auto mapped = UTHIN_TRY(pool->open_volume(device_id(0), blocks * block_bytes));
    const auto fresh = UTHIN_TRY(pool->open_volume(device_id(1), 4 * blocks * block_bytes));
    UTHIN_TRY(fill(*mapped, blocks));
    slow_metadata.set_delay(io::operation_kind::flush, std::chrono::milliseconds(50));
    slow_data.set_delay(io::operation_kind::flush, std::chrono::milliseconds(50));
    prober writes(*mapped, io_kind::write, mapped->size_bytes() / page_bytes);
    prober first(*fresh, io_kind::write, fresh->size_bytes() / page_bytes);
    UTHIN_TRY(writes.start());
    UTHIN_TRY(first.start());
    system_clock().sleep_for(std::chrono::seconds(5));
    const std::vector<double> times = writes.stop();
    const std::vector<double> first_times = first.stop();
    out.value("slow-flushes/commits", static_cast<double>(pool->counters().commits), "");
    out.value("slow-flushes/hit-p50", percentile(times, 0.5), "ms");
    out.value("slow-flushes/hit-p99", percentile(times, 0.99), "ms", bound::at_most,
              hit_milliseconds_max);
    out.value("slow-flushes/first-write-p99", percentile(first_times, 0.99), "ms");
    return {};
}

}  // namespace

result<void> bench_open(report& out) {
    if (!out.wanted("open")) {
        return {};
    }
    const std::uint64_t mappings = out.options().quick ? 1'000'000 : 50'000'000;
    const std::string path = out.options().directory + "/open.metadata";
    std::remove(path.c_str());
    UTHIN_TRY(build_file(path, mappings));
    std::vector<double> milliseconds;
    double reads = 0;
    for (unsigned round = 0; round < out.options().rounds; ++round) {
        const auto before = static_cast<double>(resident_bytes());
        const double begin = wall_seconds();
        pool_options options;
        const auto pool = UTHIN_TRY(pool::open(
            UTHIN_TRY(io::file_device::open(path, {})),
            std::make_unique<io::memory_device>(mappings * block_bytes), options, system_clock()));
        UTHIN_TRY(pool->start());
        const auto volume = UTHIN_TRY(pool->open_volume(device_id(0), mappings * block_bytes));
        milliseconds.push_back((wall_seconds() - begin) * 1e3);
        reads = static_cast<double>(pool->counters().metadata.blocks_read);
        if (round + 1 == out.options().rounds) {
            UTHIN_TRY(random_pages(*volume, io_kind::read, mappings * pages_per_block, 500000, 0));
            const double grown = static_cast<double>(resident_bytes()) - before;
            const auto cache = static_cast<double>(options.metadata_cache_bytes);
            out.value("open/memory-beyond-the-cache", (grown - cache) / (1 << 20), "MiB",
                      bound::at_most, beyond_the_cache_max_mib);
        }
    }
    std::remove(path.c_str());
    out.value("open/mappings", static_cast<double>(mappings), "");
    out.value("open/milliseconds", spread_of(milliseconds).median, "ms", bound::at_most,
              open_milliseconds_max);
    out.value("open/metadata-reads", reads, "blocks", bound::at_most, open_reads_max);
    return {};
}

result<void> bench_beside(report& out) {
    UTHIN_TRY(beside_removal(out));
    return beside_flushes(out);
}

}  // namespace uthin::bench
