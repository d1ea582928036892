// The metadata executor: runs every change of a pool's metadata, one after another, in batches.
//
// A turn takes requests in rotation from the queues (one per volume, one for the pool itself), runs
// them inside one metadata batch, publishes it, tells the requests so, completes those that are
// done, and commits when somebody needs it. Then one slice of background work, in a batch of its
// own.
//
// Invariants
//   EX1  A request completes after what it changed was published; with wants_commit() after a
//   commit
//        that began after it was queued.
//   EX2  Requests of one queue start in order; a queue with work gets a request into every
//   rotation. EX3  A queue holds at most `queue_limit` requests; further submitters wait.
//   EX4  Between a request's arrival and the turn that takes it lie at most what was running, which
//        for background work ends at the next should_yield(), and one step towards a commit.
//        While requests wait, every turns_per_slice'th turn runs a slice of one of the background
//        works, in rotation; else every turn does.
// Threads   One thread between start() and stop(); otherwise whoever waits in execute() runs turns.
//           While that thread has nothing to do, a caller of execute() runs his request himself,
//           and the commit that it wants: two switches of threads cost more than most requests.
//           submit, execute and wake: any thread but the executor's own.
// Failures  Those of the requests, in work::outcome; out_of_memory breaks the batch as an error of
//           the metadata does. The executor's own lists need no memory.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

#include "base/mutex.h"
#include "base/result.h"
#include "base/thread.h"
#include "pool/work_list.h"

namespace uthin::pool_engine {

class executor;

// One request. The submitter owns it and keeps it until it is done.
class work {
public:
    enum class next : std::uint8_t {
        done,     // complete it (after a commit, with wants_commit())
        again,    // a slice was done: the next one is background work
        space,    // run it again after a commit
        blocked,  // run it again in the next turn after a wake(): it waits for tickets
    };

    work() = default;
    work(const work&) = delete;
    work& operator=(const work&) = delete;
    virtual ~work() = default;

    // On the executor. Alone: outside a batch, where committing is allowed.
    [[nodiscard]] virtual next run() = 0;
    // On the executor, after what run() did was published or given up.
    virtual void published() {}
    // On the executor, at the very end. The object may be gone when it returns.
    virtual void finish();

    [[nodiscard]] bool runs_alone() const noexcept { return runs_alone_; }
    [[nodiscard]] bool wants_commit() const noexcept { return wants_commit_; }
    [[nodiscard]] bool retried() const noexcept { return retried_; }
    // Read after execute() returned, or by the executor.
    [[nodiscard]] const result<void>& outcome() const noexcept { return outcome_; }
    void set_outcome(result<void> outcome) { outcome_ = std::move(outcome); }

protected:
    bool runs_alone_ = false;
    bool wants_commit_ = false;

private:
    friend class executor;
    friend class work_list<work>;
    bool retried_ = false;  // came back after next::space
    next verdict_ = next::done;
    class work_queue* queue_ = nullptr;
    work* following_ = nullptr;
    result<void> outcome_;
    mutex lock_;
    condition completed_;
    bool done_ GUARDED_BY(lock_) = false;
};

// The requests of one volume. Outlives them.
class work_queue {
public:
    work_queue() = default;
    work_queue(const work_queue&) = delete;
    work_queue& operator=(const work_queue&) = delete;

private:
    friend class executor;
    friend class work_list<work_queue>;
    work_list<work> waiting_;  // guarded by the executor's lock
    bool in_rotation_ = false;
    work_queue* following_ = nullptr;
};

// What the executor works for.
class executor_host {
public:
    virtual ~executor_host() = default;
    virtual void begin_batch() = 0;
    // Publishes, or gives the transaction up when a request of the batch broke it. The error then
    // becomes the outcome of every request of the batch.
    [[nodiscard]] virtual result<void> end_batch() = 0;
    // Before and after a request that runs alone.
    virtual void begin_alone() = 0;
    [[nodiscard]] virtual result<void> end_alone() = 0;
    // A request of the batch, or the one alone, found no memory half-way: as if it had broken it.
    virtual void ran_out_of_memory() noexcept = 0;
    // published() of all requests of the batch, or of the one alone, has returned; none of them has
    // ended yet.
    virtual void caches_told() noexcept {}
    // Before a commit: takes a part of its work ahead. False: nothing is left that can be; failures
    // are commit()'s.
    [[nodiscard]] virtual bool prepare_commit() { return false; }
    [[nodiscard]] virtual result<void> commit() = 0;
    // By time or by volume of changes.
    [[nodiscard]] virtual bool commit_is_due() = 0;
    // Once a turn: what depends on the time.
    virtual void look_at_clock() {}
    // How long the executor may sleep when there is nothing to do.
    [[nodiscard]] virtual std::chrono::nanoseconds idle_time() = 0;
    // Something is left to commit.
    [[nodiscard]] virtual bool has_changes() = 0;
};

class executor {
public:
    static constexpr std::size_t queue_limit = 256;
    static constexpr std::uint32_t turns_per_slice = 8;

    executor(executor_host& host, std::uint32_t batch_max)
        : host_(host), batch_max_(batch_max == 0 ? 1 : batch_max) {}
    ~executor() { stop(); }

    [[nodiscard]] result<void> start();
    // Runs what is queued, then ends the thread.
    void stop();

    // Returns at once (or when the queue has room).
    void submit(work_queue& queue, work& request);
    // Returns when it is done, with its outcome.
    [[nodiscard]] result<void> execute(work_queue& queue, work& request);
    // Without a thread: runs turns on this thread until `request` is done. Else only waits.
    void wait_for(work& request);
    // Blocked requests may go on.
    void wake();
    // Executor, asked by background work: a request is waiting for the turn to end.
    [[nodiscard]] bool should_yield() const noexcept { return waiting_.load() != 0; }

    [[nodiscard]] bool threaded() const noexcept { return threaded_.load(); }
    [[nodiscard]] std::uint64_t turns() const noexcept { return turns_.load(); }
    [[nodiscard]] std::uint64_t requests() const noexcept { return requests_.load(); }

private:
    void loop();
    // Takes turn_lock_, unless that would take long.
    [[nodiscard]] bool take_turn() noexcept;
    // Runs `request` on the calling thread. False: there is other work, or another thread is at it.
    [[nodiscard]] bool run_here(work& request);
    // The thread, which sleeps, would be late for a commit.
    [[nodiscard]] bool oversleeps() REQUIRES(turn_lock_);
    // False when there was nothing to do.
    bool turn() REQUIRES(turn_lock_);
    // Takes what its turn is, behind what is in `batch`.
    void take(work_list<work>& batch);
    void push(work& request) REQUIRES(lock_);
    // Empties it.
    void run_batch(work_list<work>& batch) REQUIRES(turn_lock_);
    void run_alone(work& request) REQUIRES(turn_lock_);
    void run_one(work& request);
    void sort(work& ran) REQUIRES(turn_lock_);
    // Nothing was to be done, or a step towards the commit, or the commit.
    enum class progress : std::uint8_t { none, step, committed };
    progress commit_if_needed() REQUIRES(turn_lock_);
    // False when there was no background work.
    bool work_in_background() REQUIRES(turn_lock_);

    executor_host& host_;
    const std::uint32_t batch_max_;

    mutex turn_lock_;  // whoever holds it is the executor
    work_list<work> blocked_ GUARDED_BY(turn_lock_);
    work_list<work> for_commit_ GUARDED_BY(turn_lock_);
    work_list<work> for_space_ GUARDED_BY(turn_lock_);
    work_list<work> background_ GUARDED_BY(turn_lock_);
    std::uint32_t turns_without_slice_ GUARDED_BY(turn_lock_) = 0;
    std::chrono::nanoseconds asleep_for_ GUARDED_BY(turn_lock_){0};  // the thread, at most

    mutex lock_;
    condition work_added_;
    condition room_made_;
    work_list<work_queue> rotation_ GUARDED_BY(lock_);
    bool woken_ GUARDED_BY(lock_) = false;
    bool stopping_ GUARDED_BY(lock_) = false;

    std::atomic<bool> threaded_{false};
    // The thread is next: callers that only try for the lock would overtake it again and again.
    std::atomic<bool> thread_waits_{false};
    std::atomic<std::uint64_t> waiting_{0};  // requests in the queues
    std::atomic<std::uint64_t> turns_{0};
    std::atomic<std::uint64_t> requests_{0};
    thread thread_;
};

}  // namespace uthin::pool_engine
