#include "pool/executor.h"

#include <chrono>

#include "base/interleaving.h"
#include "base/out_of_memory.h"

namespace uthin::pool_engine {

namespace {

// A copy, as far as there is memory for its text.
result<void> copy_of(const result<void>& outcome) {
    return or_out_of_memory([&] { return outcome; });
}

}  // namespace

void work::finish() {
    lock_guard held(lock_);
    done_ = true;
    completed_.notify_all();
}

result<void> executor::start() {
    threaded_.store(true);
    auto started = thread_.start([this] { loop(); });
    if (!started) {
        threaded_.store(false);
    }
    return started;
}

void executor::stop() {
    {
        lock_guard held(lock_);
        stopping_ = true;
        work_added_.notify_all();
    }
    thread_.join();
    threaded_.store(false);
    lock_guard held(lock_);
    stopping_ = false;
}

void executor::push(work& request) {
    work_queue& queue = *request.queue_;
    queue.waiting_.push_back(request);
    waiting_.fetch_add(1);
    if (!queue.in_rotation_) {
        queue.in_rotation_ = true;
        rotation_.push_back(queue);
    }
    work_added_.notify_one();
}

void executor::submit(work_queue& queue, work& request) {
    lock_guard held(lock_);
    while (queue.waiting_.size() >= queue_limit && threaded_.load()) {
        room_made_.wait(lock_);
    }
    request.queue_ = &queue;
    push(request);
}

// Another caller's request mostly ends before two switches of threads would have.
bool executor::take_turn() noexcept {
    constexpr int tries = 100;
    for (int i = 0; i < tries && !thread_waits_.load(std::memory_order_relaxed); ++i) {
        if (turn_lock_.native().try_lock()) {
            return true;
        }
        pause_thread();
    }
    return false;
}

// The lock that was only tried for is beyond the analysis.
bool executor::run_here(work& request) NO_THREAD_SAFETY_ANALYSIS {
    if (!threaded_.load() || !take_turn()) {
        return false;
    }
    {
        // EX2: whoever came first goes first. Who comes from now on waits for turn_lock_.
        lock_guard held(lock_);
        if (!rotation_.empty() || stopping_) {
            turn_lock_.unlock();
            return false;
        }
    }
    interleaving_point();
    const bool had_changes = host_.has_changes();
    turns_.fetch_add(1, std::memory_order_relaxed);
    requests_.fetch_add(1, std::memory_order_relaxed);
    if (request.runs_alone()) {
        run_alone(request);
    } else {
        work_list<work> batch;
        batch.push_back(request);
        run_batch(batch);
    }
    if (request.wants_commit()) {
        while (commit_if_needed() == progress::step && !should_yield()) {
        }
    }
    // Other commits are the thread's. It sleeps until the next one is due; if there were no changes
    // when it fell asleep, for as long as it likes, which may be too long for those of now.
    interleaving_point();
    const bool wanted = !for_commit_.empty() || !for_space_.empty() || !background_.empty() ||
                        (!had_changes && host_.has_changes() && oversleeps()) ||
                        host_.commit_is_due();
    if (wanted) {
        wake();
    }
    turn_lock_.unlock();
    return true;
}

// A change has just been made.
bool executor::oversleeps() {
    constexpr std::chrono::nanoseconds just_made = std::chrono::milliseconds(1);
    return host_.idle_time() + just_made < asleep_for_;
}

result<void> executor::execute(work_queue& queue, work& request) {
    request.queue_ = &queue;
    if (!run_here(request)) {
        submit(queue, request);
    }
    wait_for(request);
    return copy_of(request.outcome());
}

void executor::wait_for(work& request) {
    if (threaded_.load()) {
        lock_guard held(request.lock_);
        while (!request.done_) {
            request.completed_.wait(request.lock_);
        }
        return;
    }
    for (;;) {
        bool moved = false;
        {
            lock_guard held(turn_lock_);
            moved = turn();
        }
        {
            lock_guard held(request.lock_);
            if (request.done_) {
                return;
            }
        }
        if (!moved) {
            lock_guard held(lock_);
            if (!woken_ && rotation_.empty()) {
                work_added_.wait_for(lock_, std::chrono::milliseconds(10));
            }
        }
    }
}

void executor::wake() {
    lock_guard held(lock_);
    woken_ = true;
    work_added_.notify_one();
}

void executor::loop() {
    for (;;) {
        std::chrono::nanoseconds idle{0};
        thread_waits_.store(true, std::memory_order_relaxed);
        {
            lock_guard alone(turn_lock_);
            thread_waits_.store(false, std::memory_order_relaxed);
            if (turn()) {
                continue;
            }
            idle = host_.idle_time();
            asleep_for_ = idle;
            // Under both locks: nobody is in run_here(), whose request might need a commit yet.
            lock_guard held(lock_);
            if (rotation_.empty() && !woken_ && stopping_) {
                return;
            }
        }
        lock_guard held(lock_);
        if (rotation_.empty() && !woken_ && !stopping_) {
            work_added_.wait_for(lock_, idle);
        }
    }
}

void executor::take(work_list<work>& batch) {
    const std::size_t size_max = batch.size() + batch_max_;
    lock_guard held(lock_);
    woken_ = false;
    while (batch.size() < size_max && !rotation_.empty()) {
        work_queue& queue = rotation_.pop_front();
        batch.push_back(queue.waiting_.pop_front());
        waiting_.fetch_sub(1);
        queue.in_rotation_ = !queue.waiting_.empty();
        if (queue.in_rotation_) {
            rotation_.push_back(queue);
        }
        if (queue.waiting_.size() + 1 == queue_limit) {
            room_made_.notify_all();
        }
    }
}

bool executor::turn() {
    host_.look_at_clock();
    const std::size_t blocked_before = blocked_.size();
    work_list<work> batch;
    batch.take_all(blocked_);
    take(batch);
    const std::size_t fresh = batch.size() - blocked_before;
    if (!batch.empty()) {
        turns_.fetch_add(1, std::memory_order_relaxed);
        requests_.fetch_add(fresh, std::memory_order_relaxed);
        run_batch(batch);
    }
    // What a slice changes would have to be prepared for the commit again.
    const bool moved = commit_if_needed() != progress::none || work_in_background();
    return fresh != 0 || moved || blocked_.size() < blocked_before;
}

bool executor::work_in_background() {
    if (background_.empty()) {
        return false;
    }
    if (should_yield() && ++turns_without_slice_ < turns_per_slice) {
        return true;
    }
    turns_without_slice_ = 0;
    requests_.fetch_add(1, std::memory_order_relaxed);
    work_list<work> batch;
    batch.push_back(background_.pop_front());
    run_batch(batch);
    return true;
}

void executor::run_one(work& request) {
    try {
        request.verdict_ = request.run();
    } catch (const std::bad_alloc&) {
        host_.ran_out_of_memory();
        request.verdict_ = work::next::done;
        request.set_outcome(out_of_memory());
    }
}

void executor::run_batch(work_list<work>& batch) {
    work_list<work> ran;
    work_list<work> alone;
    host_.begin_batch();
    while (!batch.empty()) {
        work& request = batch.pop_front();
        if (request.runs_alone()) {
            alone.push_back(request);
        } else {
            run_one(request);
            ran.push_back(request);
        }
    }
    const auto ended = host_.end_batch();
    ran.for_each([&](work& one) {
        if (!ended && one.verdict_ != work::next::blocked) {
            one.verdict_ = work::next::done;
            one.set_outcome(copy_of(ended));
        }
        one.published();
    });
    host_.caches_told();  // ORDER: MC4. Before anybody is told that his request has ended.
    while (!ran.empty()) {
        sort(ran.pop_front());
    }
    while (!alone.empty()) {
        run_alone(alone.pop_front());
    }
}

void executor::run_alone(work& request) {
    host_.begin_alone();
    run_one(request);
    if (auto ended = host_.end_alone(); !ended) {
        request.verdict_ = work::next::done;
        request.set_outcome(std::move(ended));
    }
    request.published();
    host_.caches_told();
    sort(request);
}

void executor::sort(work& ran) {
    switch (ran.verdict_) {
        case work::next::blocked: blocked_.push_back(ran); break;
        case work::next::space: for_space_.push_back(ran); break;
        case work::next::again: background_.push_back(ran); break;
        case work::next::done:
            if (ran.wants_commit() && ran.outcome()) {
                for_commit_.push_back(ran);
            } else {
                ran.finish();
            }
            break;
    }
}

// While a request is blocked, doors are closed and writes wait behind them: a commit would make
// them wait for its flushes too. It is put off until the doors are open, unless somebody who may
// himself be what is waited for needs its space.
executor::progress executor::commit_if_needed() {
    if (!blocked_.empty() && for_space_.empty()) {
        return progress::none;
    }
    if (for_commit_.empty() && for_space_.empty() && !host_.commit_is_due()) {
        return progress::none;
    }
    if (host_.prepare_commit()) {
        return progress::step;
    }
    const auto committed = host_.commit();
    while (!for_commit_.empty()) {
        work& request = for_commit_.pop_front();
        if (!committed) {
            request.set_outcome(copy_of(committed));
        }
        request.finish();
    }
    while (!for_space_.empty()) {
        work& request = for_space_.pop_front();
        if (!committed) {
            request.set_outcome(copy_of(committed));
            request.finish();
            continue;
        }
        request.retried_ = true;
        lock_guard held(lock_);
        push(request);
    }
    return progress::committed;
}

}  // namespace uthin::pool_engine
