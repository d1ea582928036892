// Passes discards down: tells the data device which blocks hold nothing any more.
//
// Invariants
//   TR1  A block is discarded only after the commit that freed it is durable: what a power cut
//        brings back keeps its content.
//   TR2  While its discard is under way the block is held from allocation; a block that a read view
//        still needs is left alone.
//   TR3  A failed discard is no failure of anything else, as in the kernel.
// Threads   freed, committed, aborted, let_go: the executor. The rest: any. A thread of its own
// from
//           start() to stop(); without one the work is done inside committed().
// Failures  None; what is forgotten (too many pieces, a crash, a close) is found by trim().
// Source    the kernel's thin target passes discards down before the commit; we do it after.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/thread.h"
#include "uthin/units.h"

namespace uthin::pool_engine {

class engine;

class trimmer {
public:
    explicit trimmer(engine& owner) : engine_(owner) {}
    ~trimmer() { stop(); }
    trimmer(const trimmer&) = delete;
    trimmer& operator=(const trimmer&) = delete;

    [[nodiscard]] result<void> start();
    // After the step under way. What is left stays as it is.
    void stop();

    // In the open transaction `block` lost its last reference.
    void freed(data_block block);
    void committed();
    void aborted();
    // Ends the step under way, waiting for the device if it has begun, so that nothing is held from
    // allocation. False: nothing was.
    [[nodiscard]] bool let_go();

    // Discards all free space of the pool; the bytes that were. failed: the pool was closed.
    [[nodiscard]] result<std::uint64_t> trim();
    [[nodiscard]] std::uint64_t discarded_blocks() const noexcept { return discarded_.load(); }

private:
    using run = range<data_block>;
    // Of a step of the thread. `held`: the executor held the blocks, the thread has not yet heard
    // of it. `discarded`: to be released.
    enum class phase : std::uint8_t { idle, held, at_device, discarded };

    [[nodiscard]] bool enabled() const;
    void add_pending(std::span<const run> blocks);
    void work();
    void step();
    void pause();
    [[nodiscard]] std::vector<run> take_some();
    void discard(const std::vector<run>& blocks);
    void merge_freed();

    engine& engine_;
    thread thread_;
    std::atomic<std::uint64_t> discarded_{0};
    std::atomic<bool> refused_{false};  // the device said that it cannot
    std::uint64_t step_bytes_ = 0;      // its thread only
    // Executor only.
    std::vector<run> freed_;
    bool overflown_ = false;

    mutex lock_;
    condition changed_;
    std::deque<run> pending_ GUARDED_BY(lock_);
    bool threaded_ GUARDED_BY(lock_) = false;
    bool stopping_ GUARDED_BY(lock_) = false;
    phase phase_ GUARDED_BY(lock_) = phase::idle;
};

}  // namespace uthin::pool_engine
