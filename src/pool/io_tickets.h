// The client requests in flight in one volume, and the doors that hold new ones back.
//
// Invariants
//   IT1  While the door of a kind is closed no ticket of that kind is given out.
//   IT2  Once drained() was true with the door closed, it stays true until the door opens.
//   IT3  What a holder did under its ticket happens before what the closer does after drained().
// Threads   take() and the release of tickets: any; the rest: the executor.
// Failures  take: `failed` after close_for_good().
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>

#include "base/interleaving.h"
#include "base/mutex.h"
#include "base/result.h"
#include "uthin/thin.h"

namespace uthin::pool_engine {

class io_tickets {
public:
    // `on_release` is called when a ticket ends behind a closed door; any thread, no lock held.
    explicit io_tickets(std::function<void()> on_release) : on_release_(std::move(on_release)) {}

    // Waits at the door. Takes no lock while it is open.
    [[nodiscard]] result<io_ticket> take(io_kind kind);
    // The same for the length of a scope and without a call. `thread`: thread_number().
    class scope {
    public:
        scope(io_tickets& of, io_kind kind, std::uint32_t thread) noexcept
            : of_(of), shard_(thread % shard_count), kind_(kind), held_(of.enter(shard_, kind)) {}
        ~scope() {
            if (held_) {
                of_.release(shard_, kind_);
            }
        }
        scope(const scope&) = delete;
        scope& operator=(const scope&) = delete;
        // False: after close_for_good().
        [[nodiscard]] bool held() const noexcept { return held_; }

    private:
        io_tickets& of_;
        const std::uint32_t shard_;
        const io_kind kind_;
        const bool held_;
    };

    // Doors nest: as many opens as closes. `reads_too`: both kinds, else writes only.
    void close_door(bool reads_too);
    void open_door(bool reads_too);
    [[nodiscard]] bool drained(bool reads_too) const;
    // Both doors, never to open again; who waits there or comes later is refused.
    void close_for_good();

private:
    friend class uthin::io_ticket;
    static constexpr std::size_t shard_count = 16;
    struct alignas(64) shard {
        std::array<std::atomic<std::uint32_t>, 2> tickets{};  // by kind
    };

    [[nodiscard]] static constexpr std::size_t slot(io_kind kind) noexcept {
        return static_cast<std::size_t>(kind);
    }
    // Taking a ticket stores to a counter and then loads the door; closing stores to the door and
    // then loads the counters. Both sides use seq_cst, so at least one sees the other: either the
    // taker turns back at the closed door, or the closer sees the ticket.
    [[nodiscard]] bool enter(std::uint32_t shard_index, io_kind kind) noexcept {
        shards_[shard_index].tickets[slot(kind)].fetch_add(1, std::memory_order_seq_cst);
        interleaving_point();
        return closed_[slot(kind)].load(std::memory_order_seq_cst) == 0 ||
               wait_at_door(shard_index, kind);
    }
    // Counted behind a closed door. False: it never opens again, and nothing is counted any more.
    [[nodiscard]] bool wait_at_door(std::uint32_t shard_index, io_kind kind) noexcept;
    // The decrement releases (seq_cst includes it) and drained() acquires: IT3.
    void release(std::uint32_t shard_index, io_kind kind) noexcept {
        shards_[shard_index].tickets[slot(kind)].fetch_sub(1, std::memory_order_seq_cst);
        interleaving_point();
        if (closed_[slot(kind)].load(std::memory_order_seq_cst) != 0) {
            on_release_();
        }
    }

    std::array<shard, shard_count> shards_;
    std::array<std::atomic<std::uint32_t>, 2> closed_{};  // by kind: how many times
    mutex lock_;
    condition opened_;
    bool gone_ GUARDED_BY(lock_) = false;
    const std::function<void()> on_release_;
};

}  // namespace uthin::pool_engine
