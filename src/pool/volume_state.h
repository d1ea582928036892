// What the engine keeps for one open volume.
//
// Threads   Every member says for itself; `device` is set before the object is shared.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/mutex.h"
#include "base/thread.h"
#include "pool/executor.h"
#include "pool/external_origin.h"
#include "pool/io_tickets.h"
#include "pool/mapping_cache.h"
#include "pool/partial_discards.h"
#include "pool/write_gate.h"
#include "uthin/metadata.h"
#include "uthin/units.h"

namespace uthin::pool_engine {

// A counter that many threads raise; reading it sums the shards.
class sharded_counter {
public:
    void add(std::uint64_t count = 1) noexcept { add_here(count, thread_number()); }
    // `thread`: thread_number().
    void add_here(std::uint64_t count, std::uint32_t thread) noexcept {
        // A plain statistic: no order with anything.
        shards_[thread % shard_count].value.fetch_add(count, std::memory_order_relaxed);
    }
    [[nodiscard]] std::uint64_t sum() const noexcept {
        std::uint64_t total = 0;
        for (const shard& one : shards_) {
            total += one.value.load(std::memory_order_relaxed);
        }
        return total;
    }

private:
    static constexpr std::size_t shard_count = 16;
    struct alignas(64) shard {
        std::atomic<std::uint64_t> value{0};
    };
    std::array<shard, shard_count> shards_;
};

enum class write_access : std::uint8_t {
    open,
    asks_first,  // volume::set_before_first_change() is owed
    read_only,
};

// What every request looks at comes first, in one cache line.
struct alignas(64) volume_state {
    volume_state(device_id device_number, std::uint64_t size, std::uint32_t cache_entries,
                 std::function<void()> on_release)
        : size_bytes(size),
          cache(cache_entries),
          id(device_number),
          tickets(std::move(on_release)) {}

    std::atomic<std::uint64_t> size_bytes;
    std::atomic<write_access> access{write_access::open};
    // Acknowledged changes are gone: flushes fail until the volume is opened again.
    std::atomic<bool> lost_changes{false};
    mapping_cache cache;
    const device_id id;
    thin_device* device = nullptr;
    // Null: unmapped blocks read as zeros. Set before the object is shared; taken away when no
    // block needs it any more, while no ticket exists.
    std::shared_ptr<external_origin> origin;
    work_queue queue;
    write_gate gate;
    io_tickets tickets;
    partial_discards discarded_parts;
    mutex resize_lock;        // one set_size at a time
    mutex first_change_lock;  // held while it runs
    std::function<result<void>()> before_first_change GUARDED_BY(first_change_lock);
    // Executor: in engine's list of those whose cache expects changes.
    bool expects_changes = false;
    volume_state* expecting_next = nullptr;
};

}  // namespace uthin::pool_engine
