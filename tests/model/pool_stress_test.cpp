// Many threads at once: what the engine promises about atomic writes, and how long things take.
// UTHIN_CLIENTS=N: so many clients, up to 32, in the tests of PoolStress.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/random.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/seed.h"

namespace uthin {
namespace {

using io::operation_kind;
using test::IsOk;
using test::pool_rig;
using test::rig_options;
using namespace std::chrono_literals;

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t mib = 1024 * kib;
constexpr std::uint64_t block = 64 * kib;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

std::uint64_t clients_or(std::uint64_t by_itself) {
    const char* text = std::getenv("UTHIN_CLIENTS");
    return text != nullptr ? std::clamp<std::uint64_t>(std::strtoull(text, nullptr, 0), 1, 32)
                           : by_itself;
}

double milliseconds(std::chrono::nanoseconds duration) {
    return std::chrono::duration<double, std::milli>(duration).count();
}

std::chrono::nanoseconds now() {
    return system_clock().monotonic();
}

// Threads that run until the scope ends, however it ends.
class background {
public:
    ~background() { stop(); }
    [[nodiscard]] bool stopped() const { return stopped_.load(); }
    template <class Body>
    void run(const Body& body) {
        threads_.emplace_back(body);
    }
    void stop() {
        stopped_.store(true);
        for (std::thread& one : threads_) {
            one.join();
        }
        threads_.clear();
    }

private:
    std::atomic<bool> stopped_{false};
    std::vector<std::thread> threads_;
};

// A slot of the volume that one writer overwrites with ever higher stamps.
struct slot {
    std::uint64_t offset = 0;
    std::atomic<std::uint64_t> started{0};
    std::atomic<std::uint64_t> completed{0};
};

// The one stamp of the whole slot; absent when there are two.
std::optional<std::uint64_t> only_stamp(volume& in, const slot& where,
                                        std::vector<std::uint64_t>& buffer) {
    EXPECT_OK(in.read(where.offset, std::as_writable_bytes(std::span(buffer))));
    const bool equal = std::all_of(buffer.begin(), buffer.end(),
                                   [&](std::uint64_t word) { return word == buffer.front(); });
    return equal ? std::optional(buffer.front()) : std::nullopt;
}

TEST(PoolStress, AOneMebibyteWriteIsWhollyInASnapshotOrWhollyOut) {
    rig_options with;
    with.data_blocks = 4096;
    with.metadata_bytes = 16 * mib;
    pool_rig rig(with);
    auto live = rig.make(0, 64 * mib);
    const std::size_t slot_count = clients_or(3);
    const int snapshots = sanitized ? 150 : 1000;
    std::vector<slot> slots(slot_count);
    background writers;
    for (std::size_t i = 0; i < slot_count; ++i) {
        // Not aligned: blocks at the edges are shared with the neighbours.
        slots[i].offset = 100000 + i * mib;
        writers.run([&, i] {
            std::vector<std::uint64_t> buffer(mib / 8);
            for (std::uint64_t stamp = 1; !writers.stopped(); ++stamp) {
                std::fill(buffer.begin(), buffer.end(), stamp);
                slots[i].started.store(stamp);
                EXPECT_OK(live->write(slots[i].offset, std::as_bytes(std::span(buffer))));
                slots[i].completed.store(stamp);
            }
        });
    }
    std::uint64_t in_flight = 0;
    std::chrono::nanoseconds slowest{0};
    std::vector<std::uint64_t> buffer(mib / 8);
    for (int n = 1; n <= snapshots; ++n) {
        std::vector<std::uint64_t> before(slot_count);
        for (std::size_t i = 0; i < slot_count; ++i) {
            before[i] = slots[i].completed.load();
        }
        const auto begin = now();
        ASSERT_OK(rig.snapshot(0, 1));
        slowest = std::max(slowest, now() - begin);
        std::vector<std::uint64_t> after(slot_count);
        for (std::size_t i = 0; i < slot_count; ++i) {
            after[i] = slots[i].started.load();
            in_flight += after[i] > before[i] ? 1U : 0U;
        }
        auto frozen = rig.open_volume(1, 64 * mib);
        for (std::size_t i = 0; i < slot_count; ++i) {
            const auto stamp = only_stamp(*frozen, slots[i], buffer);
            ASSERT_TRUE(stamp.has_value()) << "torn: snapshot " << n << " slot " << i;
            ASSERT_GE(*stamp, before[i]) << "snapshot " << n;
            ASSERT_LE(*stamp, after[i]) << "snapshot " << n;
        }
        frozen.reset();
        ASSERT_OK(rig->delete_thin(device_id(1)));
    }
    writers.stop();
    std::uint64_t writes = 0;
    for (const slot& one : slots) {
        writes += one.started.load();
    }
    fmt::print(
        "{} clients: {} snapshots, {} slot writes in flight during them, {} writes in all, slowest "
        "snapshot {:.1f} ms\n",
        slot_count, snapshots, in_flight, writes, milliseconds(slowest));
    EXPECT_GT(in_flight, 0U);
}

// Clients own interleaved 4 KiB pieces, so that they meet in every block; they write, read back,
// and flush while snapshots come and go and other ranges are discarded.
TEST(PoolStress, ClientsThatShareBlocksNeverLoseAWrite) {
    rig_options with;
    with.data_blocks = 700;
    with.pool.commit_interval = 5ms;
    with.pool.mapping_cache_entries = 32;
    with.pool.metadata_cache_bytes = 256 * kib;
    pool_rig rig(with);
    auto live = rig.make(0, 16 * mib);
    const std::uint64_t clients = clients_or(4);
    constexpr std::uint64_t piece = 4 * kib;
    const std::uint64_t rounds = sanitized ? 1500 : 15000;
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (std::uint64_t c = 0; c < clients; ++c) {
        threads.emplace_back([&, c] {
            random_generator random(test::seed() + c);
            std::vector<std::uint64_t> last(8 * mib / piece / clients, 0);
            std::vector<std::uint64_t> words(piece / 8);
            for (std::uint64_t round = 1; round <= rounds; ++round) {
                const std::uint64_t n = random.below(last.size());
                const std::uint64_t offset = (n * clients + c) * piece;
                ASSERT_OK(live->read(offset, std::as_writable_bytes(std::span(words))));
                for (const std::uint64_t word : words) {
                    ASSERT_EQ(word, last[n]) << "client " << c << " piece " << n;
                }
                last[n] = round << 8 | c;
                std::fill(words.begin(), words.end(), last[n]);
                const bool fua = random.one_in(200);
                ASSERT_OK(live->write(offset, std::as_bytes(std::span(words)), fua));
                if (random.one_in(300)) {
                    ASSERT_OK(live->flush());
                }
            }
        });
    }
    // The upper half is nobody's: written and discarded at random.
    threads.emplace_back([&] {
        random_generator random(test::seed() + 99);
        const auto bytes = test::pattern(1, 3 * block);
        while (!stop.load()) {
            const std::uint64_t offset = 8 * mib + random.below(5 * mib);
            ASSERT_OK(live->write(offset, bytes));
            ASSERT_OK(live->discard(8 * mib + random.below(4 * mib), mib));
            ASSERT_OK(live->write_zeroes(8 * mib + random.below(4 * mib), mib));
        }
    });
    threads.emplace_back([&] {
        for (std::uint64_t id = 1; !stop.load(); ++id) {
            ASSERT_OK(rig.snapshot(0, id));
            if (id > 2) {
                ASSERT_OK(rig->delete_in_background(device_id(id - 2)));
                ASSERT_OK(rig->wait_for_deletion(device_id(id - 2)));
            }
        }
    });
    for (std::uint64_t c = 0; c < clients; ++c) {
        threads[c].join();
    }
    stop.store(true);
    threads[clients].join();
    threads[clients + 1].join();
    const pool_counters counts = rig->counters();
    fmt::print(
        "{} clients: {} snapshots, {} commits, {} blocks provisioned, {} broken, {} hits, {} "
        "misses, {} turns for {} requests\n",
        clients, counts.snapshots, counts.commits, counts.provisioned_blocks, counts.broken_blocks,
        counts.mapping_hits, counts.mapping_misses, counts.executor_turns,
        counts.executor_requests);
}

TEST(PoolLatency, HitsDoNotWaitForCommits) {
    rig_options with;
    with.data_blocks = 8192;
    with.metadata_bytes = 16 * mib;
    pool_rig rig(with);
    auto volume = rig.make(0, 512 * mib);
    auto busy = rig.make(1, 512 * mib);
    const auto bytes = test::pattern(1, 4 * mib);
    ASSERT_OK(volume->write(0, bytes));
    ASSERT_OK(volume->flush());
    rig.slow_metadata.set_delay(operation_kind::flush, 50ms);
    rig.slow_data.set_delay(operation_kind::flush, 50ms);
    background committer;
    committer.run([&] {
        for (std::uint64_t i = 0; !committer.stopped(); ++i) {
            EXPECT_OK(busy->write(i % 4000 * block, std::span(bytes).first(100)));
            EXPECT_OK(busy->flush());
        }
    });
    const std::uint64_t commits_before = rig->counters().commits;
    std::vector<std::chrono::nanoseconds> took;
    random_generator random(test::seed());
    std::vector<std::byte> buffer(4 * kib);
    const auto end = now() + 3s;
    while (now() < end) {
        const std::uint64_t offset = random.below(4 * mib - 4 * kib);
        const auto begin = now();
        if (random.one_in(2)) {
            ASSERT_OK(volume->read(offset, buffer));
        } else {
            ASSERT_OK(volume->write(offset, buffer));
        }
        took.push_back(now() - begin);
        system_clock().sleep_for(200us);
    }
    const std::uint64_t commits = rig->counters().commits - commits_before;
    committer.stop();
    rig.slow_metadata.set_delay(operation_kind::flush, 0ms);
    rig.slow_data.set_delay(operation_kind::flush, 0ms);
    std::sort(took.begin(), took.end());
    const auto p99 = took[took.size() * 99 / 100];
    fmt::print(
        "{} hits during {} commits of 150 ms: p50 {:.3f} ms, p99 {:.3f} ms, worst {:.3f} ms\n",
        took.size(), commits, milliseconds(took[took.size() / 2]), milliseconds(p99),
        milliseconds(took.back()));
    EXPECT_GE(commits, 10U);
    EXPECT_LT(p99, sanitized ? 20ms : 5ms);
}

// Reads per second of `clients` threads at random blocks.
double reads_per_second(volume& from, std::uint64_t blocks, std::size_t clients,
                        std::chrono::nanoseconds duration) {
    std::atomic<std::uint64_t> reads{0};
    std::vector<std::thread> threads;
    const auto begin = now();
    for (std::size_t c = 0; c < clients; ++c) {
        threads.emplace_back([&, c] {
            random_generator random(test::seed() + 7 * c + clients);
            std::vector<std::byte> buffer(4 * kib);
            while (now() - begin < duration) {
                ASSERT_OK(from.read(random.below(blocks) * block, buffer));
                reads.fetch_add(1);
            }
        });
    }
    for (std::thread& one : threads) {
        one.join();
    }
    return static_cast<double>(reads.load()) / (milliseconds(now() - begin) / 1000);
}

TEST(PoolLatency, ColdReadsOfManyThreadsGoOnInParallel) {
    constexpr std::uint64_t blocks = 600000;
    rig_options with;
    with.data_blocks = blocks;
    with.metadata_bytes = 64 * mib;
    with.pool.mapping_cache_entries = 64;
    // 600,000 mappings at 252 in a leaf are 2,400 blocks, 9.3 MiB.
    with.pool.metadata_cache_bytes = mib;
    pool_rig rig(with);
    ASSERT_OK(rig->with_metadata([&](metadata& inner) {
        // Every second block first, so that no run covers a leaf.
        std::uint64_t next = 0;
        return inner.build_device(device_id(0), {}, [&]() -> result<std::optional<mapping_run>> {
            if (next == blocks) {
                return std::nullopt;
            }
            const std::uint64_t at = next++;
            return mapping_run{virtual_block(at),
                               data_block((at * 2) % blocks + (at * 2 >= blocks ? 1 : 0)), 1, 0};
        });
    }));
    ASSERT_OK(rig->commit());
    auto volume = rig.open_volume(0, blocks * block);
    rig.slow_metadata.set_delay(operation_kind::read, 1ms);
    rig.slow_data.set_delay(operation_kind::read, 1ms);
    const double one = reads_per_second(*volume, blocks, 1, 2s);
    const double sixteen = reads_per_second(*volume, blocks, 16, 2s);
    rig.slow_metadata.set_delay(operation_kind::read, 0ms);
    rig.slow_data.set_delay(operation_kind::read, 0ms);
    fmt::print("cold random reads: {:.0f}/s with 1 thread, {:.0f}/s with 16: {:.1f} times\n", one,
               sixteen, sixteen / one);
    EXPECT_GE(sixteen / one, 8.0);
}

}  // namespace
}  // namespace uthin
