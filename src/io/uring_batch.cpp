#include "io/uring_batch.h"

#include <fmt/format.h>
#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "io/system_error.h"

namespace uthin::io {
namespace {

constexpr unsigned ring_depth = 64;
constexpr std::size_t idle_rings_max = 8;
constexpr std::size_t piece_bytes_max = std::size_t{1} << 30;  // a request's length has 32 bits

class ring {
public:
    static std::unique_ptr<ring> create() {
        std::unique_ptr<ring> made(new ring);
        const int status = io_uring_queue_init(ring_depth, &made->ring_, 0);
        made->initialised_ = status == 0;
        return made->initialised_ ? std::move(made) : nullptr;
    }
    ring(const ring&) = delete;
    ring& operator=(const ring&) = delete;
    ~ring() {
        if (!initialised_) {
            return;
        }
        if (is_ours()) {
            io_uring_queue_exit(&ring_);
        } else {
            // The mappings were not inherited: unmapping their addresses could hit something else.
            ::close(ring_.ring_fd);
        }
    }

    [[nodiscard]] bool is_ours() const noexcept { return owner_ == ::getpid(); }
    [[nodiscard]] bool broken() const noexcept { return broken_; }

    [[nodiscard]] result<void> run(int descriptor, const std::string& name,
                                   std::span<const io_op> ops) {
        transfers_.clear();
        for (const io_op& op : ops) {
            transfers_.push_back({op, 0});
        }
        waiting_.resize(ops.size());
        for (std::size_t i = 0; i < ops.size(); ++i) {
            waiting_[i] = ops.size() - 1 - i;  // taken from the back
        }
        result<void> first;
        std::size_t in_flight = 0;
        while (in_flight != 0 || !waiting_.empty()) {
            in_flight += queue_waiting(descriptor, ring_depth - in_flight);
            const int submitted = io_uring_submit_and_wait(&ring_, 1);
            if (submitted < 0 && submitted != -EINTR && submitted != -EAGAIN &&
                submitted != -EBUSY) {
                drain(in_flight);
                return io_failure(-submitted, name + ": io_uring failed");
            }
            io_uring_cqe* completion = nullptr;
            while (in_flight != 0 && io_uring_peek_cqe(&ring_, &completion) == 0) {
                const auto index = static_cast<std::size_t>(io_uring_cqe_get_data64(completion));
                const int outcome = completion->res;
                io_uring_cqe_seen(&ring_, completion);
                --in_flight;
                if (result<void> ended = complete(name, index, outcome); !ended && first) {
                    first = std::move(ended);
                }
            }
        }
        return first;
    }

private:
    struct transfer {
        io_op op;
        std::size_t done_bytes;
    };

    ring() = default;

    std::size_t queue_waiting(int descriptor, std::size_t room) {
        std::size_t queued = 0;
        while (queued < room && !waiting_.empty()) {
            io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
            if (entry == nullptr) {
                break;
            }
            const std::size_t index = waiting_.back();
            waiting_.pop_back();
            const transfer& at = transfers_[index];
            const std::span<std::byte> rest = at.op.buffer_bytes.subspan(at.done_bytes);
            const auto length = static_cast<unsigned>(std::min(rest.size(), piece_bytes_max));
            const std::uint64_t offset_bytes = at.op.offset_bytes + at.done_bytes;
            if (at.op.kind == io_kind::read) {
                io_uring_prep_read(entry, descriptor, rest.data(), length, offset_bytes);
            } else {
                io_uring_prep_write(entry, descriptor, rest.data(), length, offset_bytes);
            }
            io_uring_sqe_set_data64(entry, index);
            ++queued;
        }
        return queued;
    }

    [[nodiscard]] result<void> complete(const std::string& name, std::size_t index, int outcome) {
        transfer& at = transfers_[index];
        const bool is_read = at.op.kind == io_kind::read;
        if (outcome == -EINTR || outcome == -EAGAIN) {
            waiting_.push_back(index);
            return {};
        }
        if (outcome < 0 || (outcome == 0 && !at.op.buffer_bytes.empty())) {
            const int os_errno = outcome < 0 ? -outcome : EIO;
            return io_failure(
                os_errno, fmt::format("{}: {} of {} bytes at offset {} {}", name,
                                      is_read ? "read" : "write", at.op.buffer_bytes.size(),
                                      at.op.offset_bytes, outcome < 0 ? "failed" : "met the end"));
        }
        at.done_bytes += static_cast<std::size_t>(outcome);
        if (at.done_bytes < at.op.buffer_bytes.size()) {
            waiting_.push_back(index);
        }
        return {};
    }

    // Nothing may write to the callers' buffers after run() returned.
    void drain(std::size_t in_flight) {
        broken_ = true;
        const std::size_t unsubmitted = io_uring_sq_ready(&ring_);
        for (std::size_t left = in_flight - std::min(in_flight, unsubmitted); left != 0; --left) {
            io_uring_cqe* completion = nullptr;
            if (io_uring_wait_cqe(&ring_, &completion) == 0) {
                io_uring_cqe_seen(&ring_, completion);
            }
        }
    }

    io_uring ring_{};
    const pid_t owner_ = ::getpid();
    bool initialised_ = false;
    bool broken_ = false;
    std::vector<transfer> transfers_;
    std::vector<std::size_t> waiting_;
};

class ring_pool {
public:
    // nullptr: there is no io_uring here.
    std::unique_ptr<ring> take() {
        {
            const lock_guard held(lock_);
            if (unavailable_) {
                return nullptr;
            }
            while (!idle_.empty()) {
                std::unique_ptr<ring> found = std::move(idle_.back());
                idle_.pop_back();
                if (found->is_ours()) {
                    return found;
                }
            }
        }
        std::unique_ptr<ring> made = ring::create();
        if (made == nullptr) {
            const lock_guard held(lock_);
            unavailable_ = true;
        }
        return made;
    }

    void give_back(std::unique_ptr<ring> used) {
        if (used->broken()) {
            return;
        }
        const lock_guard held(lock_);
        if (idle_.size() < idle_rings_max) {
            idle_.push_back(std::move(used));
        }
    }

private:
    mutex lock_;
    std::vector<std::unique_ptr<ring>> idle_ GUARDED_BY(lock_);
    bool unavailable_ GUARDED_BY(lock_) = false;
};

ring_pool& rings() {
    // Never destroyed: a thread may still be in a batch while the process exits.
    static ring_pool& pool = *new ring_pool;
    return pool;
}

}  // namespace

result<void> run_uring_batch(int descriptor, const std::string& name, std::span<const io_op> ops) {
    std::unique_ptr<ring> mine = rings().take();
    if (mine == nullptr) {
        return fail(error_code::unsupported, name + ": io_uring is not available");
    }
    result<void> ended = mine->run(descriptor, name, ops);
    rings().give_back(std::move(mine));
    return ended;
}

}  // namespace uthin::io
