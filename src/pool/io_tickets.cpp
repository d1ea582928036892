#include "pool/io_tickets.h"

#include "base/thread.h"

namespace uthin::pool_engine {

result<io_ticket> io_tickets::take(io_kind kind) {
    const std::uint32_t index = thread_number() % shard_count;
    if (!enter(index, kind)) {
        return fail(error_code::failed, "the pool was closed");
    }
    io_ticket ticket;
    ticket.owner_ = this;
    ticket.shard_ = index;
    ticket.kind_ = kind;
    return ticket;
}

bool io_tickets::wait_at_door(std::uint32_t shard_index, io_kind kind) noexcept {
    for (;;) {
        release(shard_index, kind);
        {
            lock_guard held(lock_);
            while (closed_[slot(kind)].load(std::memory_order_seq_cst) != 0 && !gone_) {
                opened_.wait(lock_);
            }
            if (gone_) {
                return false;
            }
        }
        shards_[shard_index].tickets[slot(kind)].fetch_add(1, std::memory_order_seq_cst);
        interleaving_point();
        if (closed_[slot(kind)].load(std::memory_order_seq_cst) == 0) {
            return true;
        }
    }
}

void io_tickets::close_door(bool reads_too) {
    closed_[slot(io_kind::write)].fetch_add(1, std::memory_order_seq_cst);
    if (reads_too) {
        closed_[slot(io_kind::read)].fetch_add(1, std::memory_order_seq_cst);
    }
}

void io_tickets::open_door(bool reads_too) {
    lock_guard held(lock_);
    closed_[slot(io_kind::write)].fetch_sub(1, std::memory_order_seq_cst);
    if (reads_too) {
        closed_[slot(io_kind::read)].fetch_sub(1, std::memory_order_seq_cst);
    }
    opened_.notify_all();
}

// A counter that was seen at zero after the door closed can only rise for a taker that turns back
// at once and touches nothing, so the shards need not be seen at zero at the same time.
bool io_tickets::drained(bool reads_too) const {
    interleaving_point();
    for (const shard& one : shards_) {
        if (one.tickets[slot(io_kind::write)].load(std::memory_order_seq_cst) != 0) {
            return false;
        }
        if (reads_too && one.tickets[slot(io_kind::read)].load(std::memory_order_seq_cst) != 0) {
            return false;
        }
    }
    return true;
}

void io_tickets::close_for_good() {
    close_door(true);
    lock_guard held(lock_);
    gone_ = true;
    opened_.notify_all();
}

}  // namespace uthin::pool_engine

namespace uthin {

io_ticket::io_ticket(io_ticket&& other) noexcept
    : owner_(std::exchange(other.owner_, nullptr)), shard_(other.shard_), kind_(other.kind_) {
}

io_ticket& io_ticket::operator=(io_ticket&& other) noexcept {
    if (this != &other) {
        if (owner_ != nullptr) {
            owner_->release(shard_, kind_);
        }
        owner_ = std::exchange(other.owner_, nullptr);
        shard_ = other.shard_;
        kind_ = other.kind_;
    }
    return *this;
}

io_ticket::~io_ticket() {
    if (owner_ != nullptr) {
        owner_->release(shard_, kind_);
    }
}

}  // namespace uthin
