// How cost grows: with mapped blocks, with volumes, with snapshots, with threads.
#include <fmt/format.h>

#include "base/thread.h"
#include "memory_pool.h"
#include "report.h"

namespace uthin::bench {

namespace {

// The metadata library alone, on a device in memory.
class metadata_lab {
public:
    [[nodiscard]] result<void> make(std::uint64_t mappings, std::uint64_t room_blocks) {
        const std::uint64_t data_blocks = mappings + (1 << 20);
        device_ = std::make_unique<io::memory_device>(
            (mappings / 252 + 2 * data_blocks / 16320 + room_blocks) * metadata_block_size_bytes);
        pool_ = UTHIN_TRY(metadata::open(
            *device_, {.data_block_size_sectors = block_size_sectors, .format = true}));
        UTHIN_TRY(pool_->resize_data(data_blocks));
        bool given = false;
        UTHIN_TRY(
            pool_->build_device(device_id(0), {}, [&]() -> result<std::optional<mapping_run>> {
                if (std::exchange(given, true)) {
                    return std::optional<mapping_run>();
                }
                return std::optional(mapping_run{virtual_block(0), data_block(0), mappings, 0});
            }));
        UTHIN_TRY(pool_->commit());
        volume_ = UTHIN_TRY(pool_->open_device(device_id(0)));
        mappings_ = mappings;
        return {};
    }
    ~metadata_lab() {
        if (volume_ != nullptr) {
            pool_->close_device(volume_);
        }
    }

    [[nodiscard]] metadata& pool() noexcept { return *pool_; }
    [[nodiscard]] std::uint64_t some_block() { return random_.below(mappings_); }

    [[nodiscard]] result<sample> lookups(std::uint64_t count) {
        const stopwatch watch;
        for (std::uint64_t i = 0; i < count; ++i) {
            UTHIN_TRY(pool_->find_block(*volume_, virtual_block(some_block())));
        }
        return watch.per_operation(count);
    }
    // Overwrites that need a new block, 16 in a batch and a commit after each batch.
    [[nodiscard]] result<sample> inserts(std::uint64_t batches) {
        constexpr std::uint64_t batch = 16;
        const stopwatch watch;
        for (std::uint64_t i = 0; i < batches; ++i) {
            pool_->begin_batch();
            for (std::uint64_t k = 0; k < batch; ++k) {
                UTHIN_TRY(pool_->insert_block(*volume_, virtual_block(some_block()),
                                              UTHIN_TRY(pool_->alloc_data_block())));
            }
            pool_->publish_batch();
            UTHIN_TRY(pool_->commit());
        }
        return watch.per_operation(batches * batch);
    }
    // With its commit; the snapshot is deleted, unmeasured.
    [[nodiscard]] result<sample> snapshots(std::uint64_t count) {
        sample sum;
        for (std::uint64_t i = 0; i < count; ++i) {
            const stopwatch watch;
            UTHIN_TRY(pool_->create_snap(device_id(id_limit), device_id(0)));
            UTHIN_TRY(pool_->commit());
            const sample one = watch.per_operation(count);
            sum.cpu_us += one.cpu_us;
            sum.wall_us += one.wall_us;
            UTHIN_TRY(pool_->delete_thin(device_id(id_limit)));
            UTHIN_TRY(pool_->commit());
        }
        return sum;
    }

private:
    static constexpr std::uint64_t id_limit = 1 << 20;
    std::unique_ptr<io::memory_device> device_;
    std::unique_ptr<metadata> pool_;
    thin_device* volume_ = nullptr;
    std::uint64_t mappings_ = 0;
    random_generator random_{seed};
};

result<void> measure_lab(report& out, metadata_lab& lab, const std::string& name) {
    constexpr std::uint64_t lookups = 100000;
    UTHIN_TRY(lab.lookups(lookups));
    const std::uint64_t reads = lab.pool().statistics().blocks_read;
    const sample looked_up = UTHIN_TRY(lab.lookups(lookups));
    const auto misses = static_cast<double>(lab.pool().statistics().blocks_read - reads);
    out.value(name + "/lookup", looked_up.cpu_us, "us CPU");
    out.value(name + "/lookup-reads", misses / static_cast<double>(lookups), "blocks");
    out.value(name + "/insert-and-commit", UTHIN_TRY(lab.inserts(200)).cpu_us, "us CPU");
    UTHIN_TRY(lab.snapshots(50));
    out.value(name + "/snapshot-and-commit", UTHIN_TRY(lab.snapshots(200)).cpu_us, "us CPU");
    return {};
}

result<void> grow_mappings(report& out) {
    const std::uint64_t most = out.options().quick ? 1'000'000 : 50'000'000;
    for (const std::uint64_t mappings : {100'000ULL, 1'000'000ULL, 10'000'000ULL, 50'000'000ULL}) {
        if (mappings <= most) {
            metadata_lab lab;
            UTHIN_TRY(lab.make(mappings, 1 << 17));
            UTHIN_TRY(measure_lab(out, lab, fmt::format("growth/mappings/{}", mappings)));
        }
    }
    return {};
}

// `snapshots`: of one volume, which is written to in between; else empty volumes.
result<void> grow_devices(report& out, bool snapshots) {
    const std::uint64_t most = out.options().quick ? 1000 : 100'000;
    metadata_lab lab;
    UTHIN_TRY(lab.make(1'000'000, 1 << 20));
    std::uint64_t made = 1;
    for (std::uint64_t wanted = 1; wanted <= most; wanted *= 10) {
        for (; made < wanted; ++made) {
            if (snapshots) {
                UTHIN_TRY(lab.pool().create_snap(device_id(made), device_id(0)));
                if (made % 100 == 0) {
                    UTHIN_TRY(lab.inserts(1));
                }
            } else {
                UTHIN_TRY(lab.pool().create_thin(device_id(made)));
            }
        }
        UTHIN_TRY(lab.pool().commit());
        UTHIN_TRY(measure_lab(
            out, lab, fmt::format("growth/{}/{}", snapshots ? "snapshots" : "volumes", wanted)));
    }
    return {};
}

// Reads and first writes of one volume by several threads: queue depth, since each request blocks
// its thread.
result<void> grow_threads(report& out) {
    constexpr std::uint64_t blocks = 4096;
    const auto pool = UTHIN_TRY(memory_pool::make({.data_blocks = 64 * blocks}));
    const auto mapped = UTHIN_TRY(pool->make_volume(0, blocks));
    UTHIN_TRY(fill(*mapped, blocks));
    std::uint64_t next_id = 1;
    for (const unsigned threads : {1U, 2U, 4U, 16U, 64U, 256U}) {
        const auto fresh = UTHIN_TRY(pool->make_volume(next_id++, blocks));
        const auto run_all =
            [&](std::uint64_t each,
                const std::function<result<void>(unsigned)>& body) -> result<sample> {
            std::vector<thread> workers(threads);
            std::vector<result<void>> ended(threads);
            const stopwatch watch;
            for (unsigned i = 0; i < threads; ++i) {
                UTHIN_TRY(workers[i].start([&, i] { ended[i] = body(i); }));
            }
            for (thread& one : workers) {
                one.join();
            }
            const sample taken = watch.per_operation(each * threads);
            for (result<void>& one : ended) {
                UTHIN_TRY(std::move(one));
            }
            return taken;
        };
        const std::uint64_t reads = 400000 / threads;
        const sample read = UTHIN_TRY(run_all(reads, [&](unsigned i) {
            return random_pages(*mapped, io_kind::read, blocks * pages_per_block, reads, i);
        }));
        const std::uint64_t each = blocks / threads;
        const sample written = UTHIN_TRY(run_all(each, [&](unsigned i) -> result<void> {
            alignas(4096) std::array<std::byte, page_bytes> page{};
            for (std::uint64_t k = 0; k < each; ++k) {
                UTHIN_TRY(fresh->write((k * threads + i) * block_bytes, page));
            }
            return {};
        }));
        const std::string name = fmt::format("growth/threads/{}", threads);
        out.value(name + "/read", read.cpu_us, "us CPU");
        out.value(name + "/first-write", written.cpu_us, "us CPU");
        out.value(name + "/first-write-wall", written.wall_us, "us");
    }
    return {};
}

}  // namespace

result<void> bench_growth(report& out) {
    if (out.wanted("growth/mappings")) {
        UTHIN_TRY(grow_mappings(out));
    }
    if (out.wanted("growth/volumes")) {
        UTHIN_TRY(grow_devices(out, false));
    }
    if (out.wanted("growth/snapshots")) {
        UTHIN_TRY(grow_devices(out, true));
    }
    return out.wanted("growth/threads") ? grow_threads(out) : result<void>();
}

}  // namespace uthin::bench
