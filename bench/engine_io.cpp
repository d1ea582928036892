// Reading and writing: mapped blocks, new blocks, shared blocks, sequential and at random.
#include <algorithm>
#include <bit>
#include <filesystem>
#include <numeric>

#include "base/thread.h"
#include "io/open.h"
#include "memory_pool.h"
#include "report.h"

namespace uthin::bench {

namespace {

template <class Target>
side random_side(Target& target, io_kind kind, std::uint64_t pages, std::uint64_t operations) {
    return [&target, kind, pages, operations](unsigned round) -> result<sample> {
        const stopwatch watch;
        UTHIN_TRY(random_pages(target, kind, pages, operations, round));
        return watch.per_operation(operations);
    };
}

template <class Target>
side threaded_side(Target& target, io_kind kind, std::uint64_t pages, std::uint64_t operations,
                   unsigned threads) {
    return [&target, kind, pages, operations, threads](unsigned round) -> result<sample> {
        std::vector<thread> workers(threads);
        std::vector<result<void>> ended(threads);
        const stopwatch watch;
        for (unsigned i = 0; i < threads; ++i) {
            UTHIN_TRY(workers[i].start([&, i] {
                ended[i] =
                    random_pages(target, kind, pages, operations, std::uint64_t{round} * 64 + i);
            }));
        }
        for (thread& one : workers) {
            one.join();
        }
        const sample taken = watch.per_operation(operations * threads);
        for (result<void>& one : ended) {
            UTHIN_TRY(std::move(one));
        }
        return taken;
    };
}

constexpr std::pair<io_kind, const char*> kinds[] = {{io_kind::read, "read"},
                                                     {io_kind::write, "write"}};

// Mapped pages; the mapping cache holds 1 / `cache_divisor` of the volume, 0: as configured by
// default.
result<void> hits(report& out, const std::string& group, std::uint64_t cache_divisor,
                  std::optional<double> target) {
    if (!out.wanted(group)) {
        return {};
    }
    const std::uint64_t blocks = out.options().quick ? 1 << 14 : 1 << 16;
    const std::uint64_t pages = blocks * pages_per_block;
    const std::uint64_t operations = out.options().quick ? 200000 : 400000;
    memory_pool::shape shape{.data_blocks = blocks + 64};
    if (cache_divisor != 0) {
        // Sets of three; the whole volume fits, or the wanted part of it.
        const std::uint64_t sets = cache_divisor == 1 ? std::bit_ceil(blocks / 3)
                                                      : std::bit_floor(blocks / cache_divisor / 3);
        shape.options.mapping_cache_entries = static_cast<std::uint32_t>(3 * sets);
    }
    const auto pool = UTHIN_TRY(memory_pool::make(shape));
    const auto volume = UTHIN_TRY(pool->make_volume(0, blocks));
    UTHIN_TRY(fill(*volume, blocks));
    UTHIN_TRY(random_pages(*volume, io_kind::read, pages, operations, 99));
    for (const auto& [kind, name] : kinds) {
        UTHIN_TRY(out.compare({group + "/" + name, "raw device",
                               random_side(pool->data(), kind, pages, operations),
                               random_side(*volume, kind, pages, operations), target}));
    }
    if (cache_divisor != 1) {
        return {};
    }
    for (const auto& [kind, name] : kinds) {
        UTHIN_TRY(out.compare({group + "/two-threads-" + name, "raw device, two threads",
                               threaded_side(pool->data(), kind, pages, operations, 2),
                               threaded_side(*volume, kind, pages, operations, 2), std::nullopt}));
        const auto one = out.ratio(group + "/" + name);
        const auto two = out.ratio(group + "/two-threads-" + name);
        if (one && two) {
            out.value(group + "/scaling-" + name, *two / *one, "of raw's own scaling",
                      bound::at_least, 0.95);
        }
    }
    return {};
}

// Takes the memory of the device before it is measured.
result<void> take_memory(block_device& device, std::uint64_t blocks) {
    const std::vector<std::byte> block(block_bytes, std::byte{3});
    for (std::uint64_t i = 0; i < blocks; ++i) {
        UTHIN_TRY(device.write(i * block_bytes, block));
    }
    return {};
}

// The volume is empty at the begin of each round; what a round took is given back after it,
// unmeasured. `keeps_memory`: but for the memory behind the data device.
class fresh_area {
public:
    fresh_area(memory_pool& pool, volume& of, std::uint64_t blocks, bool keeps_memory = false)
        : pool_(pool), volume_(of), blocks_(blocks), keeps_memory_(keeps_memory) {}

    template <class Work>
    [[nodiscard]] result<sample> measure(std::uint64_t operations, const Work& work) {
        const stopwatch watch;
        UTHIN_TRY(work(volume_));
        const sample taken = watch.per_operation(operations);
        UTHIN_TRY(volume_.discard(0, blocks_ * block_bytes));
        UTHIN_TRY(pool_->commit());
        if (!keeps_memory_) {
            UTHIN_TRY(pool_.data().discard(0, UTHIN_TRY(pool_.data().size_bytes())));
        }
        return taken;
    }

private:
    memory_pool& pool_;
    volume& volume_;
    const std::uint64_t blocks_;
    const bool keeps_memory_;
};

result<std::unique_ptr<memory_pool>> scratch_pool(std::uint64_t blocks, bool zeroing,
                                                  std::unique_ptr<block_device> data = nullptr) {
    memory_pool::shape shape{.data_blocks = 3 * blocks};
    shape.options.discard = discard_mode::no_passdown;
    shape.options.zero_new_blocks = zeroing;
    return memory_pool::make(shape, std::move(data));
}

// One page in each block, in a scattered order.
template <class Target>
result<void> page_per_block(Target& target, std::uint64_t blocks, bool zero_first) {
    alignas(4096) std::array<std::byte, page_bytes> page{};
    std::uint64_t stride = blocks * 618 / 1000 + 1;
    while (std::gcd(stride, blocks) != 1) {
        ++stride;
    }
    for (std::uint64_t i = 0; i < blocks; ++i) {
        const std::uint64_t at = i * stride % blocks * block_bytes;
        if (zero_first) {
            UTHIN_TRY(target.write_zeroes(at, block_bytes));
        }
        UTHIN_TRY(target.write(at + i % pages_per_block * page_bytes, page));
    }
    return {};
}

// A new file around the page cache, gone when it is closed.
result<std::unique_ptr<block_device>> scratch_file(const report& out, const char* name,
                                                   std::uint64_t size_bytes) {
    const std::string path = out.options().directory + "/" + name;
    auto file = UTHIN_TRY(io::open_device("file:" + path, {.create_size_bytes = size_bytes}));
    std::filesystem::remove(path);
    return file;
}

// As first_write with zeroing, where the zeros are a file system's business.
result<void> first_write_in_file(report& out) {
    const std::string name = "first-write-in-a-file/zeroing";
    if (!out.wanted(name)) {
        return {};
    }
    const std::uint64_t blocks = 4096;
    const std::uint64_t bytes = blocks * block_bytes;
    const auto pool = UTHIN_TRY(
        scratch_pool(blocks, true, UTHIN_TRY(scratch_file(out, "first-write-ours", 3 * bytes))));
    const auto volume = UTHIN_TRY(pool->make_volume(0, blocks));
    const auto raw = UTHIN_TRY(scratch_file(out, "first-write-raw", bytes));
    fresh_area area(*pool, *volume, blocks);
    const side base = [&](unsigned) -> result<sample> {
        const stopwatch watch;
        UTHIN_TRY(page_per_block(*raw, blocks, true));
        const sample taken = watch.per_operation(blocks);
        UTHIN_TRY(raw->discard(0, bytes));
        return taken;
    };
    const side ours = [&](unsigned) {
        return area.measure(blocks,
                            [&](auto& target) { return page_per_block(target, blocks, false); });
    };
    return out.compare({name, "zero 64k + write 4k", base, ours, 0.8});
}

result<void> first_write(report& out, bool zeroing) {
    const std::string name = zeroing ? "first-write/zeroing" : "first-write/no-zeroing";
    if (!out.wanted(name)) {
        return {};
    }
    const std::uint64_t blocks = 4096;
    const auto pool = UTHIN_TRY(scratch_pool(blocks, zeroing));
    const auto volume = UTHIN_TRY(pool->make_volume(0, blocks));
    io::memory_device raw(blocks * block_bytes);
    fresh_area area(*pool, *volume, blocks, !zeroing);
    if (!zeroing) {
        UTHIN_TRY(take_memory(raw, blocks));
        UTHIN_TRY(take_memory(pool->data(), 3 * blocks));
    }
    const side base = [&](unsigned) -> result<sample> {
        const stopwatch watch;
        UTHIN_TRY(page_per_block(raw, blocks, zeroing));
        const sample taken = watch.per_operation(blocks);
        if (zeroing) {
            UTHIN_TRY(raw.discard(0, blocks * block_bytes));
        }
        return taken;
    };
    std::vector<double> cpu_us;
    const side ours = [&](unsigned) -> result<sample> {
        const sample taken = UTHIN_TRY(area.measure(
            blocks, [&](auto& target) { return page_per_block(target, blocks, false); }));
        cpu_us.push_back(taken.cpu_us);
        return taken;
    };
    UTHIN_TRY(out.compare({name, zeroing ? "zero 64k + write 4k" : "write 4k", base, ours,
                           zeroing ? std::optional(0.8) : std::nullopt}));
    out.value(name + "/per-cpu-second", 1e6 / spread_of(cpu_us).median, "first writes",
              zeroing ? bound::none : bound::at_least, 150000);
    return {};
}

result<void> break_sharing(report& out) {
    const std::string name = "break-sharing";
    if (!out.wanted(name)) {
        return {};
    }
    const std::uint64_t blocks = 4096;
    memory_pool::shape shape{.data_blocks = (out.options().rounds + 3) * blocks};
    shape.options.discard = discard_mode::no_passdown;
    const auto pool = UTHIN_TRY(memory_pool::make(shape));
    const auto volume = UTHIN_TRY(pool->make_volume(0, blocks));
    UTHIN_TRY(fill(*volume, blocks));
    io::memory_device raw(2 * blocks * block_bytes);
    UTHIN_TRY(take_memory(raw, blocks));
    std::vector<double> beyond_us;
    double copy_us = 0;
    const side base = [&](unsigned) -> result<sample> {
        std::vector<std::byte> copy(block_bytes);
        const std::span<const std::byte> page(copy.data(), page_bytes);
        const stopwatch watch;
        for (std::uint64_t i = 0; i < blocks; ++i) {
            UTHIN_TRY(raw.read(i * block_bytes, copy));
            UTHIN_TRY(raw.write((blocks + i) * block_bytes, copy));
            UTHIN_TRY(raw.write((blocks + i) * block_bytes + page_bytes, page));
        }
        const sample taken = watch.per_operation(blocks);
        UTHIN_TRY(raw.discard(blocks * block_bytes, blocks * block_bytes));
        copy_us = taken.cpu_us;
        return taken;
    };
    const side ours = [&](unsigned round) -> result<sample> {
        const snapshot_request one{device_id(0), device_id(round + 1)};
        UTHIN_TRY((*pool)->create_snapshots(std::span(&one, 1)));
        const stopwatch watch;
        UTHIN_TRY(page_per_block(*volume, blocks, false));
        const sample taken = watch.per_operation(blocks);
        beyond_us.push_back(taken.cpu_us - copy_us);
        return taken;
    };
    UTHIN_TRY(out.compare({name, "copy 64k + write 4k", base, ours, 0.6}));
    out.value(name + "/beyond-the-copy", spread_of(beyond_us).median, "us CPU", bound::at_most, 5);
    return {};
}

template <class Target>
result<void> write_all(Target& target, std::uint64_t bytes) {
    static const std::vector<std::byte> piece(large_bytes, std::byte{7});
    for (std::uint64_t at = 0; at < bytes; at += large_bytes) {
        UTHIN_TRY(target.write(at, piece));
    }
    return {};
}

template <class Target>
side read_side(Target& target, std::uint64_t bytes) {
    return [&target, bytes](unsigned) -> result<sample> {
        std::vector<std::byte> piece(large_bytes);
        const stopwatch watch;
        for (std::uint64_t at = 0; at < bytes; at += large_bytes) {
            UTHIN_TRY(target.read(at, piece));
        }
        return watch.per_operation(bytes / large_bytes);
    };
}

result<void> sequential_writes(report& out) {
    const std::uint64_t blocks = 4096;
    const std::uint64_t bytes = blocks * block_bytes;
    const auto pool = UTHIN_TRY(scratch_pool(blocks, true));
    const auto volume = UTHIN_TRY(pool->make_volume(0, blocks));
    io::memory_device raw(bytes);
    fresh_area area(*pool, *volume, blocks);
    const side base = [&](unsigned) -> result<sample> {
        const stopwatch watch;
        UTHIN_TRY(write_all(raw, bytes));
        const sample taken = watch.per_operation(bytes / large_bytes);
        UTHIN_TRY(raw.discard(0, bytes));
        return taken;
    };
    const side ours = [&](unsigned) {
        return area.measure(bytes / large_bytes,
                            [&](auto& target) { return write_all(target, bytes); });
    };
    return out.compare({"sequential/provision-1m", "write 1m", base, ours, 0.8});
}

result<void> sequential_reads(report& out) {
    const std::uint64_t blocks = 8192;
    const std::uint64_t bytes = blocks * block_bytes;
    const auto pool = UTHIN_TRY(memory_pool::make({.data_blocks = 3 * blocks}));
    const auto ordered = UTHIN_TRY(pool->make_volume(0, blocks));
    const auto scattered = UTHIN_TRY(pool->make_volume(1, blocks));
    UTHIN_TRY(fill(*ordered, blocks));
    UTHIN_TRY(page_per_block(*scattered, blocks, false));
    UTHIN_TRY(out.compare({"sequential/read-written-in-order", "raw device",
                           read_side(pool->data(), bytes), read_side(*ordered, bytes), 0.95}));
    return out.compare({"sequential/read-written-at-random",
                        "raw device",
                        read_side(pool->data(), bytes),
                        read_side(*scattered, bytes),
                        {}});
}

}  // namespace

result<void> bench_hits(report& out) {
    UTHIN_TRY(hits(out, "hit", 1, 0.92));
    UTHIN_TRY(hits(out, "hit-default-cache", 0, std::nullopt));
    return hits(out, "ten-times-the-cache", 10, 0.6);
}

result<void> bench_first_writes(report& out) {
    UTHIN_TRY(first_write(out, true));
    UTHIN_TRY(first_write(out, false));
    UTHIN_TRY(first_write_in_file(out));
    return break_sharing(out);
}

result<void> bench_sequential(report& out) {
    if (!out.wanted("sequential")) {
        return {};
    }
    UTHIN_TRY(sequential_writes(out));
    return sequential_reads(out);
}

}  // namespace uthin::bench
