#include "pool/trimmer.h"

#include <algorithm>

#include "base/out_of_memory.h"
#include "pool/engine.h"
#include "uthin/log.h"

namespace uthin::pool_engine {

namespace {

// Pieces of 16 bytes that wait; more are forgotten.
constexpr std::size_t pieces_max = 1U << 16;
// One step: how long an allocation that needs the blocks may have to wait.
constexpr std::size_t looks_per_step = 64;
constexpr std::uint64_t bytes_per_step = 64ULL << 20;
// Where the rate is limited.
constexpr std::uint64_t steps_per_s = 4;

}  // namespace

bool trimmer::enabled() const {
    return engine_.discards() == discard_mode::passdown && !engine_.options().read_only &&
           engine_.data().capabilities().can_discard && !refused_.load();
}

result<void> trimmer::start() {
    {
        lock_guard held(lock_);
        threaded_ = true;
    }
    return thread_.start([this] { work(); });
}

void trimmer::stop() {
    {
        lock_guard held(lock_);
        stopping_ = true;
        changed_.notify_all();
    }
    thread_.join();
}

// ---- what the executor reports

// What there is no memory for is forgotten: a discard is a hint.
void trimmer::freed(data_block block) {
    if (!freed_.empty() && freed_.back().end == block) {
        ++freed_.back().end;
        return;
    }
    if_memory_allows([&] {
        if (freed_.size() >= pieces_max) {
            merge_freed();
            // Not to be sorted again for each block: too scattered, the rest is forgotten.
            overflown_ = overflown_ || freed_.size() > pieces_max / 2;
        }
        if (!overflown_ && enabled()) {
            freed_.push_back({block, block + 1});
        }
    });
}

void trimmer::merge_freed() {
    std::ranges::sort(freed_, {}, &run::begin);
    std::vector<run> merged;
    for (const run& one : freed_) {
        if (!merged.empty() && merged.back().end >= one.begin) {
            merged.back().end = std::max(merged.back().end, one.end);
        } else {
            merged.push_back(one);
        }
    }
    freed_ = std::move(merged);
}

void trimmer::aborted() {
    freed_.clear();
    overflown_ = false;
}

// ORDER: TR1.
void trimmer::committed() {
    overflown_ = false;
    if (freed_.empty()) {
        return;
    }
    if_memory_allows([this] {
        merge_freed();
        add_pending(freed_);
    });
    freed_.clear();
}

// Executor.
void trimmer::add_pending(std::span<const run> blocks) {
    {
        lock_guard held(lock_);
        const std::size_t room = pieces_max - std::min(pieces_max, pending_.size());
        const auto taken = blocks.first(std::min(room, blocks.size()));
        pending_.insert(pending_.end(), taken.begin(), taken.end());
        changed_.notify_all();
        if (threaded_) {
            return;
        }
    }
    for (bool left = true; left;) {
        bool is_done = false;
        if_memory_allows([&] {
            discard(take_some());
            is_done = true;
        });
        engine_.metadata().release_held_data();
        lock_guard held(lock_);
        if (!is_done) {
            pending_.clear();
        }
        left = !pending_.empty();
    }
}

bool trimmer::let_go() {
    {
        lock_guard held(lock_);
        if (phase_ == phase::idle) {
            return false;
        }
        while (phase_ == phase::at_device) {
            changed_.wait(lock_);
        }
        phase_ = phase::idle;  // the thread sees that nothing is its own any more
    }
    engine_.metadata().release_held_data();
    return true;
}

// ---- the work

// Executor. Holds what is free of the pending pieces, up to the bounds of a step.
std::vector<trimmer::run> trimmer::take_some() {
    std::vector<run> held;
    held.reserve(looks_per_step);  // before anything is held
    const std::uint64_t rate = engine_.discard_bytes_per_s();
    const std::uint64_t bytes_max =
        rate == 0 ? bytes_per_step : std::min(bytes_per_step, rate / steps_per_s);
    std::uint64_t left = std::max<std::uint64_t>(bytes_max / engine_.block_bytes(), 1);
    lock_guard locked(lock_);
    // ORDER: TR1. In `fail` nobody knows whether the state that was read back, in which a block is
    // free, is the one that a restart finds.
    if (!enabled() || engine_.mode() == pool_mode::fail) {
        pending_.clear();
    }
    for (std::size_t looks = 0; looks < looks_per_step && !pending_.empty() && left > 0; ++looks) {
        run& next = pending_.front();
        const auto found = engine_.metadata().hold_free_data(next, left);
        if (!found || !*found) {
            pending_.pop_front();
            continue;
        }
        held.push_back(**found);
        left -= (*found)->end - (*found)->begin;
        next.begin = (*found)->end;
        if (next.empty()) {
            pending_.pop_front();
        }
    }
    if (threaded_ && !held.empty()) {
        phase_ = phase::held;
    }
    return held;
}

void trimmer::discard(const std::vector<run>& blocks) {
    for (const run& one : blocks) {
        const std::uint64_t count = one.end - one.begin;
        const auto done = engine_.data().discard(one.begin.value() * engine_.block_bytes(),
                                                 count * engine_.block_bytes());
        if (done) {
            discarded_.fetch_add(count, std::memory_order_relaxed);
        } else if (done.error().code() == error_code::unsupported) {
            refused_.store(true);
            return;
        } else {
            log(log_level::warning, "pool", "passing a discard down: " + done.error().to_string());
        }
    }
}

void trimmer::step() {
    step_bytes_ = 0;
    constexpr engine::run_style style{.needs = engine::need::nothing, .counts_as_change = false};
    std::vector<run> blocks;
    const auto taken = engine_.run(
        [&]() -> result<void> {
            blocks = take_some();
            return {};
        },
        style);
    {
        lock_guard held(lock_);
        if (!taken) {
            // No memory for a step, or another one's request failed: nothing is left to discard,
            // and what is held is let go below.
            pending_.clear();
            blocks.clear();
        } else if (phase_ != phase::held) {
            // Nothing was free, or an allocation needed it: later, if it is free then.
            if_memory_allows([&]() NO_THREAD_SAFETY_ANALYSIS {
                pending_.insert(pending_.end(), blocks.begin(), blocks.end());
            });
            changed_.notify_all();
            return;
        }
        phase_ = phase::at_device;
    }
    // Whatever becomes of it: an allocation may wait for its end.
    if_memory_allows([&] { discard(blocks); });
    for (const run& one : blocks) {
        step_bytes_ += (one.end - one.begin) * engine_.block_bytes();
    }
    {
        lock_guard held(lock_);
        phase_ = phase::discarded;
        changed_.notify_all();
    }
    static_cast<void>(engine_.run(
        [&]() -> result<void> {
            static_cast<void>(let_go());
            return {};
        },
        style));
    lock_guard held(lock_);
    changed_.notify_all();
}

void trimmer::work() {
    for (;;) {
        {
            lock_guard held(lock_);
            while (pending_.empty() && !stopping_) {
                changed_.wait(lock_);
            }
            if (stopping_) {
                return;
            }
        }
        step();
        pause();
    }
}

// As long as the bytes of the last step may take. A change of the rate is heeded at once.
void trimmer::pause() {
    const std::chrono::nanoseconds begun = engine_.now();
    lock_guard held(lock_);
    while (!stopping_) {
        const std::uint64_t rate = engine_.discard_bytes_per_s();
        if (rate == 0) {
            return;
        }
        const double seconds = static_cast<double>(step_bytes_) / static_cast<double>(rate);
        const double left = seconds - std::chrono::duration<double>(engine_.now() - begun).count();
        if (left <= 0) {
            return;
        }
        constexpr double look_again_s = 0.1;
        changed_.wait_for(lock_, std::chrono::duration<double>(std::min(left, look_again_s)));
    }
}

result<std::uint64_t> trimmer::trim() {
    if (!enabled()) {
        return fail(error_code::unsupported,
                    "the pool passes no discards down, or its data device takes none");
    }
    const std::uint64_t before = discarded_blocks();
    UTHIN_TRY(engine_.run(
        [&]() -> result<void> {
            const run all{data_block(0), data_block(engine_.data_blocks())};
            add_pending(std::span(&all, 1));
            return {};
        },
        {.needs = engine::need::nothing, .counts_as_change = false}));
    lock_guard held(lock_);
    while (threaded_ && !stopping_ && (!pending_.empty() || phase_ != phase::idle)) {
        changed_.wait(lock_);
    }
    return (discarded_blocks() - before) * engine_.block_bytes();
}

}  // namespace uthin::pool_engine
