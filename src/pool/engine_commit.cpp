// What makes changes durable, and what happens when that fails.
#include <algorithm>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "pool/engine.h"
#include "pool/trimmer.h"
#include "uthin/log.h"

namespace uthin::pool_engine {

namespace {

bool is_refusal(error_code code) {
    switch (code) {
        case error_code::already_exists:
        case error_code::not_found:
        case error_code::busy:
        case error_code::invalid_argument:
        case error_code::out_of_range:
        case error_code::no_data_space:
        case error_code::unsupported:
        case error_code::cancelled:
        case error_code::needs_check:
        case error_code::read_only:
        case error_code::not_permitted:
        case error_code::view_expired:
        case error_code::failed: return true;
        default: return false;
    }
}

}  // namespace

work::next simple_work::run() {
    if (auto allowed = engine_.allows(style_.needs); !allowed) {
        set_outcome(std::move(allowed));
        return next::done;
    }
    if (!style_.counts_as_change) {
        auto outcome = or_out_of_memory(change_);
        if (!outcome && outcome.error().code() != error_code::out_of_memory) {
            return engine_.refuse(*this, std::move(outcome).error());
        }
        set_outcome(std::move(outcome));  // without memory it has changed nothing either
        return next::done;
    }
    if (auto outcome = change_(); !outcome) {
        return engine_.refuse(*this, std::move(outcome).error());
    }
    if (style_.may_only_read && !engine_.metadata().has_changes()) {
        return next::done;
    }
    engine_.changed(true);
    engine_.shares().all_changed();
    return next::done;
}

result<void> engine::run(const std::function<result<void>()>& change, run_style style) {
    simple_work request(*this, change, style);
    return executor_.execute(pool_queue_, request);
}

void engine::changed(bool frees) {
    if (!changed_) {
        changed_ = true;
        changed_since_ = clock_.monotonic();
    }
    frees_pending_ = frees_pending_ || frees;
}

void engine::expect_change(volume_state& state, range<virtual_block> blocks) {
    state.cache.expect(blocks);
    if (!std::exchange(state.expects_changes, true)) {
        state.expecting_next = std::exchange(expecting_, &state);
    }
}

void engine::caches_told() noexcept {
    while (expecting_ != nullptr) {
        volume_state& state = *expecting_;
        expecting_ = std::exchange(state.expecting_next, nullptr);
        state.expects_changes = false;
        state.cache.told();
    }
}

void engine::spare_the_reserve() {
    const auto space = metadata_->metadata_space();
    if (mode() == pool_mode::out_of_metadata_space || (space && space->free_blocks == 0)) {
        request_commit();
    }
}

// ORDER: PO2. I/O that looked up the block's earlier mapping may still be in flight, and no commit
// with its grace lies in between.
bool engine::may_use(data_block allocated) {
    constexpr std::size_t remembered_max = 1U << 18;
    ++allocated_in_batch_;
    if (!used_since_commit_.insert(allocated)) {
        parked_.push_back(allocated.value());
        return false;
    }
    if (used_since_commit_.size() >= remembered_max) {
        request_commit();
    }
    in_flight_.insert(allocated);
    return true;
}

result<std::uint64_t> engine::free_blocks() const {
    const space_counts published = UTHIN_TRY(metadata_->data_space());
    return published.free_blocks - std::min(published.free_blocks, allocated_in_batch_);
}

void engine::settle(data_block block) {
    in_flight_.erase(block);
}

void engine::never_used(data_block block) {
    in_flight_.erase(block);
    used_since_commit_.erase(block);
}

// Where little is left, exactness is worth more than speed: a write that is refused must be refused
// for want of space, not for what others might write.
result<void> engine::allocate_ahead() {
    if (ready_.count() != 0 || has_shares_.load() || mode() != pool_mode::write) {
        return {};
    }
    const std::uint64_t free = UTHIN_TRY(free_blocks());
    const space_counts metadata = UTHIN_TRY(metadata_->metadata_space());
    if (free < low_water_blocks_.load() + 4 * ahead_ || metadata.free_blocks < 4 * ahead_) {
        return {};
    }
    const bool may_be_lent = free >= low_water_blocks_.load() + 16 * ready_blocks::blocks_max;
    std::size_t count = 0;
    while (count < ahead_) {
        const auto found = metadata_->alloc_data_range(ahead_ - count);
        if (!found) {
            return found.error().code() == error_code::no_data_space
                       ? result<void>()
                       : std::unexpected(found.error());
        }
        for (data_block block = found->begin; block < found->end; ++block) {
            ++count;
            if (may_use(block)) {
                ready_.add(block, era_, may_be_lent);
            }
        }
    }
    ahead_ = std::min(2 * ahead_, ready_blocks::blocks_max);
    return {};
}

work::next engine::refuse(work& request, error why) {
    if (!is_refusal(why.code()) && !broken_by_) {
        broken_by_ = why;
    }
    request.set_outcome(std::unexpected(std::move(why)));
    return work::next::done;
}

void engine::begin_batch() {
    broken_by_.reset();
    allocated_in_batch_ = 0;
    metadata_->begin_batch();
}

result<void> engine::end_batch() {
    metadata_->publish_batch();
    allocated_in_batch_ = 0;
    if (metadata_->failed() && mode() != pool_mode::fail) {
        ran_out_of_memory();  // publishing fails for nothing else
    }
    return end_alone();
}

void engine::ran_out_of_memory() noexcept {
    if (!broken_by_) {
        broken_by_ = out_of_memory().error();
    }
}

result<void> engine::end_alone() {
    if (!broken_by_) {
        return {};
    }
    error why = std::move(*broken_by_);
    broken_by_.reset();
    // Nothing was changed since the last commit, and a commit of nothing is refused if a change got
    // half-way: something could not be read, and there is nothing to undo.
    const bool untouched =
        why.code() == error_code::io_error && !changed_ && in_flight_.empty() && parked_.empty();
    if (!untouched || !metadata_->commit()) {
        metadata_failed(why);
    }
    return std::unexpected(std::move(why));
}

// ---- failure

void engine::mark_all_lost() {
    for_each_open([](volume_state& state) { state.lost_changes.store(true); });
}

// Without the record a crash now would end in a pool that opens as if nothing had been.
void engine::record_needs_check() {
    constexpr std::chrono::seconds pause(1);
    if (!needs_check_pending_ || mode() != pool_mode::read_only) {
        return;
    }
    if (clock_.monotonic() - needs_check_tried_ < pause && !closing_.load()) {
        return;
    }
    needs_check_tried_ = clock_.monotonic();
    needs_check_pending_ = !metadata_->set_needs_check();
}

// The kernel's procedure: abort, record that a check is needed, read-only. Where it cannot be
// recorded the state read back is still the last commit: reads and overwrites go on. Fail when it
// cannot be read, or is another state: then nobody knows which one a restart would find.
void engine::metadata_failed(const error& why) {
    if_memory_allows(
        [&] { log(log_level::error, "pool", "the metadata failed: " + why.to_string()); });
    if (mode() == pool_mode::fail || (mode() == pool_mode::read_only && !metadata_->failed())) {
        return;
    }
    try {
        give_transaction_up(why);
    } catch (const std::bad_alloc&) {
        mark_all_lost();
        set_mode(pool_mode::fail, "out of memory");
        caches_told();
    }
}

void engine::give_transaction_up(const error& why) {
    const range<virtual_block> all{virtual_block(0), virtual_block(UINT64_MAX)};
    for_each_open([&](volume_state& state) { expect_change(state, all); });
    auto restored = metadata_->abort();
    ++era_;
    ready_.clear();
    ahead_ = ahead_least;
    in_flight_.clear();
    parked_.clear();
    used_since_commit_.clear();
    trimmer_->aborted();
    shares_.aborted();
    changed_ = false;
    frees_pending_ = false;
    commit_requested_ = false;
    preparation_left_.reset();
    for_each_open([&](volume_state& state) {
        if (!restored || metadata_->aborted_changes(*state.device)) {
            state.lost_changes.store(true);
        }
        state.cache.advance_epoch();
    });
    caches_told();
    if (const auto space = metadata_->data_space()) {
        data_blocks_.store(space->total_blocks);  // a growth that was not durable is gone
    }
    if (restored) {
        restored = metadata_->set_needs_check();
        needs_check_pending_ = !restored && restored.error().code() == error_code::needs_check;
        needs_check_tried_ = clock_.monotonic();
    }
    if (restored || needs_check_pending_) {
        metadata_->set_read_only();
    }
    std::string cause = "out of memory";
    if_memory_allows([&] {
        cause = restored || needs_check_pending_
                    ? why.to_string()
                    : why.to_string() + "; then " + restored.error().to_string();
    });
    set_mode(restored || needs_check_pending_ ? pool_mode::read_only : pool_mode::fail, cause);
}

// A failed flush may have dropped anything written since the last good one, and a later flush would
// not tell: no mapping to such data may become durable any more.
result<void> engine::flush_data() {
    if (options_.read_only) {
        return {};
    }
    // Whatever it failed of. Without memory for the text the cause has none.
    auto flushed = or_out_of_memory([this] { return data_device_->flush(); });
    if (flushed) {
        return {};
    }
    mark_all_lost();
    const error& why = flushed.error();
    auto given_up = run(
        [&why, this]() -> result<void> {
            error cause(error_code::io_error, "data flush", why.os_errno());
            if_memory_allows([&] {
                cause = error(error_code::io_error, "flushing the data device: " + why.message(),
                              why.os_errno());
            });
            metadata_failed(cause);
            return {};
        },
        {.needs = need::nothing, .alone = true, .counts_as_change = false});
    return flushed;
}

// ---- commit

result<void> engine::give_ready_back() {
    result<void> given;
    const bool outer = std::exchange(giving_back_, true);
    ready_.end_round();
    while (const auto one = ready_.take()) {
        given = metadata_->dec_data_range({one->block, one->block + 1});
        if (!given) {
            break;
        }
        never_used(one->block);
    }
    giving_back_ = outer;
    ahead_ = ahead_least;
    return given;
}

// EN2: in the committed state blocks in flight are free. Parked ones are let go.
result<void> engine::give_in_flight_back() {
    UTHIN_TRY(give_ready_back());
    for (const std::uint64_t block : parked_) {
        UTHIN_TRY(metadata_->dec_data_range({data_block(block), data_block(block + 1)}));
    }
    parked_.clear();
    return in_flight_.for_each([this](data_block block) {
        return metadata_->dec_data_range({block, block + 1});
    });
}

result<void> engine::take_in_flight_again() {
    used_since_commit_.clear();
    return in_flight_.for_each([this](data_block block) {
        used_since_commit_.insert(block);
        return metadata_->inc_data_range({block, block + 1});
    });
}

// A long deletion leaves thousands of changed bitmaps behind: to write them while the next request
// waits would take too long. Requests change a few more meanwhile, so the amount is fixed at first.
bool engine::prepare_commit() {
    constexpr std::uint64_t step_blocks = 32;
    if (!changed_ || !may_delete()) {
        return false;
    }
    if (!preparation_left_) {
        preparation_left_ = metadata_->statistics().dirty_blocks;
    }
    if (*preparation_left_ <= step_blocks) {
        return false;
    }
    *preparation_left_ -= step_blocks;
    return metadata_->write_back(step_blocks).has_value();
}

result<void> engine::commit() {
    UTHIN_TRY(may_delete());
    commit_requested_ = false;
    preparation_left_.reset();
    if (!changed_) {
        return {};
    }
    // ORDER: PO2. Whatever this transaction freed is unpublished and out of the caches by now. I/O
    // that looked it up earlier holds a pin of the generation that ends here. commit() makes the
    // blocks allocatable; nobody allocates (only we do) before those pins have ended.
    const bool frees = frees_pending_;
    const std::uint32_t grace = frees ? epochs_.begin_grace() : 0;
    // ORDER: EN2. Nobody allocates between giving back and taking again.
    giving_back_ = true;
    auto committed = or_out_of_memory([this] { return give_in_flight_back(); });
    giving_back_ = false;
    if (committed) {
        committed = metadata_->commit();
    }
    if (frees) {
        epochs_.wait(grace);
    }
    if (committed) {
        counters_.commits.fetch_add(1, std::memory_order_relaxed);
        changed_ = false;
        frees_pending_ = false;
        committed = or_out_of_memory([this] { return take_in_flight_again(); });
    }
    if (committed) {
        trimmer_->committed();
    }
    if (!committed) {
        if (data_flush_failed_) {
            mark_all_lost();
        }
        metadata_failed(committed.error());
        return committed;
    }
    judge_space();
    judge_metadata_mark();
    return {};
}

bool engine::commit_is_due() {
    if (!changed_ || !may_delete()) {
        return false;
    }
    if (commit_requested_ || (frees_pending_ && mode() == pool_mode::out_of_data_space)) {
        return true;
    }
    const metadata_statistics counts = metadata_->statistics();
    if (counts.dirty_blocks * metadata_block_size_bytes > options_.metadata_cache_bytes / 2) {
        return true;
    }
    return clock_.monotonic() - changed_since_ >= options_.commit_interval;
}

std::chrono::nanoseconds engine::idle_time() {
    constexpr std::chrono::nanoseconds longest = std::chrono::seconds(1);
    constexpr std::chrono::nanoseconds shortest = std::chrono::milliseconds(1);
    std::chrono::nanoseconds left = longest;
    if (changed_ && may_delete()) {
        left = changed_since_ + options_.commit_interval - clock_.monotonic();
    }
    if (mode() == pool_mode::out_of_data_space) {
        const lock_guard held(mode_lock_);
        left = std::min(left, time_left_for_space().value_or(longest));
    }
    return std::clamp(left, shortest, longest);
}

}  // namespace uthin::pool_engine
