// What the pool may do, when that changes, and who is told.
//
// Source    the kernel's pool modes; docs/modes.md.
#include <algorithm>
#include <system_error>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "pool/engine.h"
#include "pool/trimmer.h"
#include "uthin/log.h"

namespace uthin::pool_engine {

std::string engine::mode_cause() const {
    lock_guard held(mode_lock_);
    return mode_cause_;
}

result<void> engine::alive() const {
    if (is_alive()) {
        return {};
    }
    return or_out_of_memory([&]() -> result<void> {
        return mode() == pool_mode::fail && !closed_.load() && !closing_.load()
                   ? fail(error_code::failed, "the pool failed: " + mode_cause())
                   : fail(error_code::failed, "the pool was closed");
    });
}

result<void> engine::may_change() const {
    return or_out_of_memory([&]() -> result<void> {
        switch (mode()) {
            case pool_mode::write:
            case pool_mode::out_of_data_space: return {};
            case pool_mode::out_of_metadata_space:
                return fail(error_code::no_metadata_space, "the pool's metadata is full");
            case pool_mode::read_only:
                return fail(error_code::read_only, "the pool is read-only: " + mode_cause());
            case pool_mode::fail: break;
        }
        return fail(error_code::failed, "the pool failed: " + mode_cause());
    });
}

result<void> engine::may_delete() const {
    return mode() == pool_mode::out_of_metadata_space ? result<void>() : may_change();
}

result<void> engine::allows(need wanted) const {
    switch (wanted) {
        case need::nothing: return {};
        case need::deleting: return may_delete();
        case need::changing: break;
    }
    return may_change();
}

// The mode changes, whether or not there is memory to tell why.
void engine::set_mode(pool_mode mode, std::string_view cause) {
    const pool_mode before = mode_.load();
    if (before == mode) {
        return;
    }
    std::string change;
    if_memory_allows([&] {
        const auto id = metadata_->transaction_id();
        change = fmt::format("{} -> {}{}{}", to_string(before), to_string(mode),
                             cause.empty() ? "" : ": ", cause);
        log(mode == pool_mode::write ? log_level::info : log_level::warning, "pool",
            fmt::format("mode {} (transaction id {})", change, id ? *id : 0));
    });
    {
        lock_guard held(mode_lock_);
        mode_cause_.clear();
        if_memory_allows([&]() NO_THREAD_SAFETY_ANALYSIS { mode_cause_ = cause; });
        if (mode == pool_mode::out_of_data_space) {
            out_of_space_since_ = clock_.monotonic();
        } else if (mode == pool_mode::write) {
            space_timed_out_ = false;
        }
        mode_.store(mode);
        space_.notify_all();
    }
    raise(pool_event::mode_changed, std::move(change));
}

void engine::raise(pool_event event, std::string text) {
    counters_.events.fetch_add(1, std::memory_order_relaxed);
    if_memory_allows([&] {
        if (event != pool_event::mode_changed) {
            log(log_level::warning, "pool", text);
        }
        events_.add({.event = event, .mode = mode(), .text = std::move(text)});
    });
    if (options_.on_event) {
        options_.on_event(event);
    }
}

void engine::out_of_data_space() {
    if (mode() == pool_mode::write) {
        set_mode(pool_mode::out_of_data_space, "no free data block");
    }
}

// ---- waiting for space

bool engine::is_waited_for_space() const {
    return mode() == pool_mode::out_of_data_space && !space_timed_out_ &&
           !error_if_no_space_.load() && !closing_.load();
}

std::optional<std::chrono::nanoseconds> engine::time_left_for_space() const {
    if (no_space_timeout_.count() == 0 || !is_waited_for_space()) {
        return std::nullopt;
    }
    return out_of_space_since_ + no_space_timeout_ - clock_.monotonic();
}

result<void> engine::wait_for_space(hold_limit* holds) {
    return hold(holds, std::chrono::nanoseconds(0), "no free data block in the pool");
}

result<void> engine::hold(hold_limit* holds, std::chrono::nanoseconds longest,
                          const std::string& in_vain_because) {
    // Without a thread nobody else could make space.
    if (!executor_.threaded()) {
        return fail(error_code::no_data_space, in_vain_because);
    }
    if (holds != nullptr && !holds->take()) {
        return fail(error_code::no_data_space,
                    "the pool is full and enough requests of this client wait for space");
    }
    counters_.held.fetch_add(1);
    bool in_vain = false;
    {
        lock_guard held(mode_lock_);
        if (longest.count() != 0 && is_waited_for_space()) {
            static_cast<void>(space_.wait_for(mode_lock_, longest));
        }
        while (longest.count() == 0 && is_waited_for_space()) {
            space_.wait(mode_lock_);
        }
        in_vain =
            (mode() == pool_mode::out_of_data_space && !is_waited_for_space()) || closing_.load();
    }
    counters_.held.fetch_sub(1);
    if (holds != nullptr) {
        holds->leave();
    }
    if (in_vain) {
        return fail(error_code::no_data_space, in_vain_because);
    }
    return {};
}

// Nobody tells when a file system has space again: those who wait try, and so do new writes.
result<void> engine::wait_for_device(const error& why, hold_limit* holds) {
    // The caller gave his ticket back: close() waits for this one.
    const io_ticket call = UTHIN_TRY(calls_.take(io_kind::read));
    constexpr std::chrono::nanoseconds pause = std::chrono::seconds(1);
    const std::string text =
        fmt::format("the data device has no space left: {} ({}); writes go on when it has some",
                    why.message(), std::generic_category().message(why.os_errno()));
    UTHIN_TRY(run(
        [&]() -> result<void> {
            if (mode() == pool_mode::write) {
                device_is_full_.store(true);
                set_mode(pool_mode::out_of_data_space, text);
            }
            return {};
        },
        {.needs = need::nothing, .counts_as_change = false}));
    if (mode() != pool_mode::write && mode() != pool_mode::out_of_data_space) {
        return fail(error_code::no_data_space, text);
    }
    return hold(holds, pause, text);
}

void engine::device_has_space() {
    if (!device_is_full_.load(std::memory_order_relaxed)) {
        return;
    }
    const auto call = calls_.take(io_kind::read);
    if (!call) {
        return;  // the pool is being closed
    }
    static_cast<void>(run(
        [this]() -> result<void> {
            device_is_full_.store(false);
            judge_space();
            return {};
        },
        {.needs = need::nothing, .counts_as_change = false}));
}

// Whether or not anybody waits, as in the kernel.
void engine::look_at_clock() {
    record_needs_check();
    if (mode() != pool_mode::out_of_data_space) {
        return;
    }
    {
        const lock_guard held(mode_lock_);
        const auto left = time_left_for_space();
        if (!left || left->count() > 0) {
            return;
        }
        space_timed_out_ = true;
        space_.notify_all();
    }
    if_memory_allows([this] {
        raise(pool_event::no_space_timeout, "no space for too long: writes fail from now on");
    });
}

void engine::set_error_if_no_space(bool error_out) {
    error_if_no_space_.store(error_out);
    const lock_guard held(mode_lock_);
    space_timed_out_ = false;
    out_of_space_since_ = clock_.monotonic();
    space_.notify_all();
}

void engine::set_no_space_timeout(std::chrono::nanoseconds timeout) {
    const lock_guard held(mode_lock_);
    no_space_timeout_ = timeout;
}

// ---- space

void engine::leave_read_only() {
    if (mode() == pool_mode::read_only && !options_.read_only) {
        needs_check_pending_ = false;
        static_cast<void>(trimmer_->let_go());  // ORDER: TR2, for what an abort let go
        metadata_->set_read_write();
        set_mode(pool_mode::write, "");
        judge_space();
    }
}

void engine::judge_space() {
    constexpr std::uint64_t resume_blocks_max = 64;
    if (mode() == pool_mode::read_only || mode() == pool_mode::fail) {
        return;  // space is not what they wait for
    }
    const auto data = metadata_->data_space();
    const auto metadata = metadata_->metadata_space();
    if (!data || !metadata) {
        return;
    }
    if (metadata->free_blocks == 0) {
        set_mode(pool_mode::out_of_metadata_space, "no free metadata block beside the reserve");
        return;
    }
    // Some distance, so that the blocks that come and go with each commit do not toggle the mode.
    const std::uint64_t resume = std::min(resume_blocks_max, metadata->total_blocks / 50 + 1);
    if (mode() == pool_mode::out_of_metadata_space && metadata->free_blocks >= resume) {
        set_mode(pool_mode::write, "");
    }
    if (mode() == pool_mode::out_of_data_space && data->free_blocks > 0 && !device_is_full_) {
        set_mode(pool_mode::write, "");
    }
}

// Judged on committed states only: within a transaction free blocks come and go, and near the mark
// each one would be another event.
void engine::judge_metadata_mark() {
    const auto space = metadata_->metadata_space();
    if (!space) {
        return;
    }
    const std::uint64_t mark = metadata_low_watermark_.load();
    const std::uint64_t free = space->raw_free_blocks;
    if (free > mark + mark / 8) {
        metadata_is_low_ = false;
    } else if (free <= mark && !metadata_is_low_) {
        metadata_is_low_ = true;
        if_memory_allows([&] {
            raise(pool_event::low_metadata_space,
                  fmt::format("only {} of {} metadata blocks are free", free, space->total_blocks));
        });
    }
}

}  // namespace uthin::pool_engine
