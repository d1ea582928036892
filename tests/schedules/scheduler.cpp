#include "schedules/scheduler.h"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>

#include "base/scheduled.h"

namespace uthin::test {

namespace {

// What no schedule of a few requests comes near.
constexpr std::uint64_t steps_max = 2'000'000;
constexpr std::chrono::nanoseconds time_max = std::chrono::minutes(10);
// Of 8: how often a turn goes on with who waits for the device.
constexpr std::array<std::uint64_t, 3> device_odds{1, 4, 7};
// One in so many of the turns that are taken goes to a sleeper, before his time.
constexpr std::uint64_t early_timeouts = 5;
constexpr std::uint64_t lock_free_chances = 3;

// The handing over of turns takes longer between processors.
void stay_on_one_processor() {
    cpu_set_t all;
    CPU_ZERO(&all);
    CPU_SET(static_cast<std::size_t>(std::max(sched_getcpu(), 0)), &all);
    static_cast<void>(sched_setaffinity(0, sizeof(all), &all));
}

void wait_for_turn(sem_t& turn) {
    while (sem_wait(&turn) != 0) {
    }
}

}  // namespace

scheduler::scheduler() : random_(0) {
    stay_on_one_processor();
    tasks_.push_back(std::make_unique<task>());  // the first thread's
}

// Never destroyed: idle threads wait in it.
scheduler& scheduler::instance() {
    static scheduler* const only = new scheduler;
    return *only;
}

schedule_outcome scheduler::run(const schedule_choice& choice, std::string name,
                                const std::function<void()>& body) {
    name_ = std::move(name);
    random_ = random_generator(choice.seed);
    device_odds_ = choice.horizon == 0 ? 0 : device_odds[random_.below(device_odds.size())];
    choose_turns_to_take(choice);
    count_ = 1;
    current_ = 0;
    tasks_[0]->is = condition::ready;
    window_steps_ = 0;
    window_chances_ = 0;
    trace_ = 0;
    turns_taken_ = 0;
    first_step_ = step_;
    begun_ = clock_.now;
    active_ = true;
    body();
    for (std::uint32_t i = 1; i < count_; ++i) {
        if (tasks_[i]->is != condition::done) {
            give_up("a thread was left behind");
        }
    }
    active_ = false;
    in_window_ = false;
    return {.window_steps = window_steps_,
            .window_chances = window_chances_,
            .trace = trace_,
            .turns_taken = turns_taken_};
}

void scheduler::choose_turns_to_take(const schedule_choice& choice) {
    turns_to_take_.clear();
    holds_back_ = random_.one_in(2);
    if (choice.horizon == 0) {
        return;
    }
    const std::uint64_t count = 1 + random_.below(turns_taken_max);
    for (std::uint64_t i = 0; i < count; ++i) {
        turns_to_take_.push_back(1 + random_.below(choice.horizon));
    }
    std::ranges::sort(turns_to_take_, std::greater<>());
}

void scheduler::begin_window() {
    in_window_ = true;
}

void scheduler::end_window() {
    in_window_ = false;
    for (const auto& one : tasks_) {
        one->held_back = 0;
    }
}

void scheduler::note(const char* what, std::uint64_t chances) {
    ++step_;
    recent_[step_ % recent_.size()] = {step_, current_, what};
    if (step_ - first_step_ > steps_max) {
        give_up("it does not come to an end");
    }
    if (in_window_) {
        ++window_steps_;
        window_chances_ += chances;
        constexpr std::uint64_t fnv_prime = 0x100000001b3ULL;
        trace_ = (trace_ ^ (current_ + 1)) * fnv_prime;
        for (const char* at = what; *at != 0; ++at) {
            trace_ = (trace_ ^ static_cast<unsigned char>(*at)) * fnv_prime;
        }
    }
}

std::string scheduler::last_steps() const {
    constexpr std::uint64_t shown_max = 160;
    std::string text;
    const std::uint64_t count = std::min(shown_max, step_ - first_step_);
    for (std::uint64_t step = step_ - count + 1; step <= step_; ++step) {
        const step_record& one = recent_[step % recent_.size()];
        text +=
            fmt::format("  step {} thread {}: {}\n", one.step - first_step_, one.task, one.what);
    }
    return text;
}

void scheduler::give_up(const char* why) const {
    std::string states;
    for (std::uint32_t i = 0; i < count_; ++i) {
        constexpr std::array<const char*, 4> words{"can go on", "waits for a lock", "sleeps",
                                                   "ended"};
        states +=
            fmt::format("  thread {} {}\n", i, words[static_cast<std::size_t>(tasks_[i]->is)]);
    }
    std::printf("violation in %s: %s\n%sthe last steps:\n%s", name_.c_str(), why, states.c_str(),
                last_steps().c_str());
    std::fflush(stdout);
    std::_Exit(3);
}

// ---- whose turn it is

std::optional<std::uint32_t> scheduler::drawn_of(std::uint32_t held_back_min,
                                                 std::uint32_t held_back_max) {
    std::array<std::uint32_t, 32> ready{};
    std::size_t found = 0;
    for (std::uint32_t i = 0; i < count_; ++i) {
        const task& one = *tasks_[i];
        if (i != current_ && one.is == condition::ready && one.held_back >= held_back_min &&
            one.held_back <= held_back_max && found < ready.size()) {
            ready[found++] = i;
        }
    }
    if (found == 0) {
        return std::nullopt;
    }
    return ready[random_.below(found)];
}

std::optional<std::uint32_t> scheduler::any_ready() {
    return drawn_of(0, UINT32_MAX);
}

std::optional<std::uint32_t> scheduler::another_ready(std::uint32_t held_back_max) {
    std::uint32_t least = UINT32_MAX;
    for (std::uint32_t i = 0; i < count_; ++i) {
        if (i != current_ && tasks_[i]->is == condition::ready) {
            least = std::min(least, tasks_[i]->held_back);
        }
    }
    return least <= held_back_max ? drawn_of(least, least) : std::nullopt;
}

std::optional<std::uint32_t> scheduler::first_to_time_out() const {
    std::optional<std::uint32_t> first;
    for (std::uint32_t i = 0; i < count_; ++i) {
        if (tasks_[i]->is == condition::asleep && tasks_[i]->deadline &&
            (!first || *tasks_[i]->deadline < *tasks_[*first]->deadline)) {
            first = i;
        }
    }
    return first;
}

void scheduler::time_out(std::uint32_t sleeper) {
    task& one = *tasks_[sleeper];
    clock_.now = std::max(clock_.now, *one.deadline);
    one.timed_out = true;
    one.is = condition::ready;
    if (clock_.now - begun_ > time_max) {
        give_up("hours pass, and it does not come to an end");
    }
}

void scheduler::switch_to(std::uint32_t next) {
    task& self = *tasks_[current_];
    current_ = next;
    note("has the turn");
    sem_post(&tasks_[next]->turn);
    wait_for_turn(self.turn);
}

void scheduler::give_turn_away() {
    auto next = another_ready();
    if (tasks_[current_]->is == condition::ready && !next) {
        return;
    }
    if (!next) {
        next = first_to_time_out();
        if (!next) {
            give_up("all threads wait for each other");
        }
        time_out(*next);
    }
    if (*next != current_) {
        switch_to(*next);
    }
}

// Put off while nobody else can go on.
void scheduler::take_turn() {
    const auto sleeper = first_to_time_out();
    std::optional<std::uint32_t> next;
    if (sleeper && random_.one_in(early_timeouts)) {
        time_out(*sleeper);
        next = sleeper;
    } else {
        next = another_ready();
    }
    if (next) {
        turns_to_take_.pop_back();
        ++turns_taken_;
        tasks_[current_]->held_back = holds_back_ ? turns_taken_ : 0;
        switch_to(*next);
    }
}

void scheduler::point(const char* what, std::uint64_t chances) {
    if (!active_) {
        return;
    }
    note(what, chances);
    if (in_window_ && !turns_to_take_.empty() && window_chances_ >= turns_to_take_.back()) {
        take_turn();
    } else if (const std::uint32_t held_back = tasks_[current_]->held_back; held_back > 0) {
        if (const auto next = another_ready(held_back - 1)) {
            switch_to(*next);
        }
    }
}

void scheduler::lock_free_point() {
    point("goes on", lock_free_chances);
}

void scheduler::wait_for_device(const char* what) {
    if (active_ && in_window_ && random_.below(8) < device_odds_) {
        note(what);
        if (const auto next = another_ready(tasks_[current_]->held_back)) {
            switch_to(*next);
        }
        return;
    }
    point(what);
}

void scheduler::yield() {
    if (active_) {
        note("yields");
        if (const auto next = any_ready()) {
            switch_to(*next);
        }
    }
}

// ---- threads

void scheduler::serve(task& worker) {
    for (;;) {
        wait_for_turn(worker.turn);
        worker.body();
        worker.body = nullptr;
        worker.is = condition::done;
        note("ends");
        wake(&worker);
        auto next = another_ready();
        if (!next) {
            next = first_to_time_out();
            if (!next) {
                give_up("all threads wait for each other");
            }
            time_out(*next);
        }
        current_ = *next;
        note("has the turn");
        sem_post(&tasks_[*next]->turn);
    }
}

std::size_t scheduler::start(std::function<void()> body) {
    if (!active_) {
        give_up("a thread was started outside of a schedule");
    }
    const std::size_t number = count_;
    if (tasks_.size() == number) {
        tasks_.push_back(std::make_unique<task>());
        task& made = *tasks_.back();
        made.thread = std::thread([this, &made] { serve(made); });
    }
    task& worker = *tasks_[number];
    worker.body = std::move(body);
    worker.is = condition::ready;
    worker.held_back = 0;
    ++count_;
    point("starts a thread");
    return number;
}

void scheduler::join(std::size_t number) {
    task& other = *tasks_[number];
    point("joins");
    while (other.is != condition::done) {
        block(&other);
    }
}

void scheduler::block(const void* on) {
    task& self = *tasks_[current_];
    if (!active_) {
        give_up("a thread waits for itself");
    }
    self.is = condition::blocked;
    self.waits_for = on;
    note("waits");
    give_turn_away();
}

void scheduler::wake(const void* object) {
    for (std::uint32_t i = 0; i < count_; ++i) {
        if (tasks_[i]->is == condition::blocked && tasks_[i]->waits_for == object) {
            tasks_[i]->is = condition::ready;
        }
    }
}

void scheduler::fall_asleep(const void* on, std::optional<std::chrono::nanoseconds> timeout) {
    task& self = *tasks_[current_];
    self.is = condition::asleep;
    self.waits_for = on;
    self.timed_out = false;
    self.deadline.reset();
    if (timeout) {
        self.deadline = clock_.now + *timeout;
    }
}

bool scheduler::sleep() {
    const std::uint32_t me = current_;
    if (!active_) {
        if (!tasks_[me]->deadline) {
            give_up("a thread waits for itself");
        }
        time_out(me);
        return false;
    }
    note("sleeps");
    give_turn_away();
    return !tasks_[me]->timed_out;
}

void scheduler::wake_sleeper(const void* on, bool all) {
    std::array<std::uint32_t, 32> sleepers{};
    std::size_t found = 0;
    for (std::uint32_t i = 0; i < count_; ++i) {
        if (tasks_[i]->is == condition::asleep && tasks_[i]->waits_for == on &&
            found < sleepers.size()) {
            sleepers[found++] = i;
        }
    }
    if (!all && found > 1) {
        sleepers[0] = sleepers[random_.below(found)];
        found = 1;
    }
    for (std::size_t i = 0; i < found; ++i) {
        tasks_[sleepers[i]]->is = condition::ready;
    }
}

}  // namespace uthin::test

namespace uthin::scheduled {

namespace {

test::scheduler& turns() {
    return test::scheduler::instance();
}

}  // namespace

void mutex::acquire() {
    while (held_) {
        turns().block(this);
    }
    held_ = true;
}

void mutex::release() {
    held_ = false;
    turns().wake(this);
}

void mutex::lock() {
    turns().point("lock");
    acquire();
}

bool mutex::try_lock() {
    turns().point("try_lock");
    if (held_) {
        return false;
    }
    held_ = true;
    return true;
}

// The object may be gone when another thread had its turn.
void mutex::unlock() {
    release();
    turns().point("unlock");
}

void shared_mutex::lock() {
    turns().point("lock");
    while (held_ || readers_ != 0) {
        turns().block(this);
    }
    held_ = true;
}

void shared_mutex::unlock() {
    held_ = false;
    turns().wake(this);
    turns().point("unlock");
}

void shared_mutex::lock_shared() {
    turns().point("lock shared");
    while (held_) {
        turns().block(this);
    }
    ++readers_;
}

void shared_mutex::unlock_shared() {
    if (--readers_ == 0) {
        turns().wake(this);
    }
    turns().point("unlock shared");
}

std::cv_status condition_variable::wait_on(mutex& held,
                                           std::optional<std::chrono::nanoseconds> timeout) {
    turns().fall_asleep(this, timeout);
    held.release();
    const bool notified = turns().sleep();
    held.acquire();
    return notified ? std::cv_status::no_timeout : std::cv_status::timeout;
}

void condition_variable::notify_one() noexcept {
    turns().wake_sleeper(this, false);
}

void condition_variable::notify_all() noexcept {
    turns().wake_sleeper(this, true);
}

thread::thread(std::function<void()> body) : task_(turns().start(std::move(body))) {
}

void thread::join() {
    turns().join(task_);
    task_ = 0;
}

void yield() noexcept {
    turns().yield();
}

void point() noexcept {
    turns().lock_free_point();
}

std::uint32_t number() noexcept {
    return turns().current();
}

}  // namespace uthin::scheduled
