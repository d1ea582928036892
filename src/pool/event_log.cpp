#include "pool/event_log.h"

#include <utility>

namespace uthin::pool_engine {

namespace {

// EL1: more than a pool can raise in a second. 2^53 is not reached, so that every reader of JSON
// takes the numbers exactly.
constexpr std::uint64_t numbers_per_second = 1U << 20;

std::uint64_t first_number(const clock& time) {
    const std::int64_t now = time.unix_seconds();
    return now > 0 ? static_cast<std::uint64_t>(now) * numbers_per_second : 0;
}

}  // namespace

event_log::event_log(clock& time)
    : clock_(time), first_(first_number(time) + 1), last_(first_ - 1) {
}

void event_log::add(pool_event_record record) {
    const lock_guard held(lock_);
    record.number = ++last_;
    record.unix_seconds = clock_.unix_seconds();
    kept_.push_back(std::move(record));
    if (kept_.size() > kept_max) {
        kept_.pop_front();
    }
    added_.notify_all();
}

pool_events event_log::after(std::uint64_t number, std::chrono::nanoseconds wait) {
    const lock_guard held(lock_);
    const auto end = clock_.monotonic() + wait;
    const std::uint64_t begin = number == 0 ? first_ - 1 : number;
    // Other numbers, those of an earlier opening too, have an answer already.
    while (begin == last_ && !stopped_) {
        const auto left = end - clock_.monotonic();
        if (left <= std::chrono::nanoseconds::zero()) {
            break;
        }
        added_.wait_for(lock_, left);
    }
    pool_events found;
    found.last = last_;
    const std::uint64_t oldest = kept_.empty() ? last_ + 1 : kept_.front().number;
    found.some_lost = number == 0 ? oldest > first_ : number > last_ || number + 1 < oldest;
    for (const pool_event_record& record : kept_) {
        if (record.number > number) {
            found.events.push_back(record);
        }
    }
    return found;
}

void event_log::stop() {
    const lock_guard held(lock_);
    stopped_ = true;
    added_.notify_all();
}

}  // namespace uthin::pool_engine
