// Flush, discard, zeroing, resizing.
#include <algorithm>
#include <utility>

#include "base/interleaving.h"
#include "pool/barrier.h"
#include "pool/removal_slice.h"
#include "pool/volume_io.h"

namespace uthin::pool_engine {

namespace {

// ORDER: FLUSH rule. Taken from the queue before the commit that it waits for begins, so that this
// commit's data flush began after the FLUSH arrived. If a commit that was under way then made
// everything durable, that one's data flush does not count: the caller flushes the data itself.
class flush_work final : public work {
public:
    flush_work(engine& owner, const volume_state& state) : engine_(owner), state_(state) {}

    [[nodiscard]] next run() override {
        const metadata& metadata = engine_.metadata();
        if (metadata.last_change(*state_.device) <= metadata.durable_transaction()) {
            data_only_ = true;
            return next::done;
        }
        if (auto allowed = engine_.may_delete(); !allowed) {
            set_outcome(std::move(allowed));
            return next::done;
        }
        engine_.changed(false);
        wants_commit_ = true;
        return next::done;
    }

    [[nodiscard]] bool data_only() const noexcept { return data_only_; }

private:
    engine& engine_;
    const volume_state& state_;
    bool data_only_ = false;
};

// Discards may use the first half of the reserve: to empty what a snapshot shares takes a block
// that does not come back. The other half is for deletions, which always help. Asked in any mode:
// the commit after which the pool is called full may be put off (executor::commit_if_needed).
bool is_reserve_spent(engine& owner) {
    constexpr std::uint64_t transaction_blocks = 12;  // of one slice and its commit
    metadata& of = owner.metadata();
    if (owner.mode() != pool_mode::out_of_metadata_space) {
        return of.is_reserve_half_spent().value_or(true);
    }
    const auto space = of.metadata_space();
    return !space ||
           space->raw_free_blocks < std::max(of.metadata_reserve_blocks() / 2, transaction_blocks);
}

// Unmaps a range, in slices.
class remove_work final : public work {
public:
    remove_work(engine& owner, volume_state& state, range<virtual_block> blocks)
        : engine_(owner), state_(state), left_(blocks) {}

    [[nodiscard]] next run() override {
        if (auto allowed = engine_.may_delete(); !allowed) {
            set_outcome(std::move(allowed));
            return next::done;
        }
        if (engine_.mode() == pool_mode::out_of_metadata_space && !runs_alone_) {
            runs_alone_ = true;  // within a batch free blocks are those of its beginning
            return next::again;
        }
        if (is_reserve_spent(engine_)) {
            if (!retried()) {
                engine_.changed(true);  // a commit gives back what others replaced
                return next::space;
            }
            set_outcome(fail(error_code::no_metadata_space,
                             "the pool's metadata is full, half of its reserve is used up"));
            return next::done;
        }
        if (auto removed = remove_slice(); !removed) {
            return engine_.refuse(*this, std::move(removed).error());
        }
        return left_.empty() ? next::done : next::again;
    }

    void published() override {
        state_.cache.invalidate(slice_);
        slice_ = {};
    }

private:
    // Others may wait for the batch in which the first step runs.
    [[nodiscard]] result<void> remove_slice() {
        const virtual_block begin = left_.begin;
        const bool one_step = std::exchange(is_first_, false);
        removal_slice slice(engine_);
        engine_.expect_change(state_, left_);
        do {
            left_.begin = UTHIN_TRY(
                engine_.metadata().remove_some(*state_.device, left_, slice.step_blocks()));
            slice_ = {begin, left_.begin};
            engine_.changed(true);
        } while (!slice.is_over() && !left_.empty() && !one_step);
        engine_.shares().mapped_changed(state_.id);
        return {};
    }

    engine& engine_;
    volume_state& state_;
    bool is_first_ = true;
    range<virtual_block> left_;
    range<virtual_block> slice_;
};

// Unmaps a block of which every part was discarded.
//
// A hit that writes to another part of it takes no cell and does not look at the discards that come
// after it, so the writes in flight have to end first. Whoever had begun by then has made the block
// incomplete (PD1); whoever comes later waits at the door.
class complete_work final : public barrier {
public:
    complete_work(engine& owner, volume_state& state, virtual_block block)
        : barrier(owner, {state.id}, false), state_(state), block_(block) {}

private:
    [[nodiscard]] next act() override {
        const std::uint64_t begin = block_.value() * engine_.block_bytes();
        const std::uint64_t size = state_.size_bytes.load();
        // While blocks are moved to or from the external origin none goes behind the mover's back.
        // Nor is the reserve of full metadata used up for it.
        if (!engine_.may_delete() || state_.gate.working() || begin >= size ||
            is_reserve_spent(engine_) ||
            !state_.discarded_parts.covers(block_, std::min(size - begin, engine_.block_bytes()))) {
            return next::done;
        }
        engine_.expect_change(state_, {block_, block_ + 1});
        for (range<virtual_block> left{block_, block_ + 1}; !left.empty();) {
            auto reached = engine_.metadata().remove_some(*state_.device, left, UINT64_MAX);
            if (!reached) {
                return engine_.refuse(*this, std::move(reached).error());
            }
            left.begin = *reached;
        }
        state_.discarded_parts.forget_block(block_);
        engine_.changed(true);
        engine_.shares().mapped_changed(state_.id);
        engine_.spare_the_reserve();
        engine_.count().pieced.fetch_add(1, std::memory_order_relaxed);
        return next::done;
    }
    // Nothing else was changed.
    void renew(mapping_cache& cache) override { cache.invalidate({block_, block_ + 1}); }

    volume_state& state_;
    const virtual_block block_;
};

// The new end becomes visible while no request is in flight.
class shrink_work final : public barrier {
public:
    shrink_work(engine& owner, volume_state& state, std::uint64_t size_bytes)
        : barrier(owner, {state.id}, true), state_(state), size_bytes_(size_bytes) {}

private:
    [[nodiscard]] next act() override {
        if (auto allowed = engine_.may_change(); !allowed) {
            set_outcome(std::move(allowed));
        } else {
            state_.size_bytes.store(size_bytes_);
            state_.discarded_parts.clear();
        }
        return next::done;
    }

    volume_state& state_;
    const std::uint64_t size_bytes_;
};

}  // namespace

// last_change is read first: durable_transaction only grows.
bool volume_io::changed_since_durable() const noexcept {
    const metadata& metadata = engine_.metadata();
    const std::uint64_t last = metadata.last_change(*state_.device);
    interleaving_point();
    return last > metadata.durable_transaction();
}

bool volume_io::has_lost_changes() const noexcept {
    return state_.lost_changes.load() || engine_.metadata().aborted_changes(*state_.device);
}

result<void> volume_io::flush() {
    UTHIN_TRY(engine_.alive());
    const io_ticket call = UTHIN_TRY(engine_.calls().take(io_kind::read));
    const bool changed = changed_since_durable();
    if (has_lost_changes()) {
        return fail(error_code::io_error, "changes of the volume were lost; open it again");
    }
    engine_.count().flushes.add();
    if (!changed) {
        engine_.count().clean_flushes.add();
        return engine_.flush_data();
    }
    flush_work request(engine_, state_);
    UTHIN_TRY(engine_.worker().execute(state_.queue, request));
    if (state_.lost_changes.load()) {
        return fail(error_code::io_error, "changes of the volume were lost; open it again");
    }
    return request.data_only() ? engine_.flush_data() : result<void>();
}

result<void> volume_io::remove_blocks(range<virtual_block> blocks) {
    remove_work request(engine_, state_, blocks);
    return engine_.worker().execute(state_.queue, request);
}

result<void> volume_io::discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    UTHIN_TRY(may_write());
    if (engine_.discards() == discard_mode::ignore) {
        return fail(error_code::unsupported, "the pool ignores discards");
    }
    const io_ticket call = UTHIN_TRY(engine_.calls().take(io_kind::read));
    std::vector<virtual_block> completed;
    for (bool done = false; !done;) {
        const write_gate::pass pass(state_.gate, blocks_of(offset_bytes, length_bytes));
        const io_ticket ticket = UTHIN_TRY(state_.tickets.take(io_kind::write));
        if (!pass.stale()) {
            completed = UTHIN_TRY(discard_held(offset_bytes, length_bytes));
            done = true;
        }
    }
    // Without the ticket: writes of the volume are waited for.
    for (const virtual_block block : completed) {
        complete_work request(engine_, state_, block);
        UTHIN_TRY(engine_.worker().execute(state_.queue, request));
    }
    return {};
}

// Under a write ticket. The blocks of which every part was discarded by now.
result<std::vector<virtual_block>> volume_io::discard_held(std::uint64_t offset_bytes,
                                                           std::uint64_t length_bytes) {
    UTHIN_TRY(in_range(offset_bytes, length_bytes));
    engine_.count().discards.fetch_add(1, std::memory_order_relaxed);
    const std::uint64_t end_bytes = offset_bytes + length_bytes;
    const range<virtual_block> whole{
        virtual_block((offset_bytes + block_bytes_ - 1) / block_bytes_),
        virtual_block(end_bytes / block_bytes_)};
    if (!engine_.may_delete()) {
        engine_.count().ignored_discards.fetch_add(whole.empty() ? 0U : 1U,
                                                   std::memory_order_relaxed);
        return std::vector<virtual_block>();
    }
    if (!whole.empty()) {
        state_.gate.note_discard(whole);
        UTHIN_TRY(remove_blocks(whole));
    }
    return engine_.options().remember_partial_discards ? remember_ends(offset_bytes, end_bytes)
                                                       : std::vector<virtual_block>();
}

result<std::vector<virtual_block>> volume_io::remember_ends(std::uint64_t begin_bytes,
                                                            std::uint64_t end_bytes) {
    std::vector<virtual_block> completed;
    const auto remember = [&](std::uint64_t begin, std::uint64_t end) -> result<void> {
        const virtual_block block = block_of(begin);
        const std::uint64_t in_block = begin % block_bytes_;
        if (UTHIN_TRY(remember_part(block, in_block, in_block + (end - begin)))) {
            completed.push_back(block);
        }
        return {};
    };
    const std::uint64_t head_end =
        std::min(end_bytes, (begin_bytes + block_bytes_ - 1) / block_bytes_ * block_bytes_);
    if (begin_bytes < head_end) {
        UTHIN_TRY(remember(begin_bytes, head_end));
    }
    const std::uint64_t tail_begin = end_bytes / block_bytes_ * block_bytes_;
    if (std::max(head_end, tail_begin) < end_bytes) {
        UTHIN_TRY(remember(tail_begin, end_bytes));
    }
    return completed;
}

// Nothing is to be remembered of a hole.
result<bool> volume_io::remember_part(virtual_block block, std::uint64_t begin_bytes,
                                      std::uint64_t end_bytes) {
    if (!UTHIN_TRY(lookup(block))) {
        state_.discarded_parts.forget_block(block);
        return false;
    }
    state_.discarded_parts.add(block, begin_bytes, end_bytes);
    const std::uint64_t begin = block.value() * block_bytes_;
    return state_.discarded_parts.covers(block,
                                         std::min(state_.size_bytes.load() - begin, block_bytes_));
}

// Whole blocks are unmapped, which makes them read as zeros; at the ends, and where unmapping is
// not possible, zeros are written over what is mapped. All under one ticket.
result<void> volume_io::unmap_and_zero(std::uint64_t begin_bytes, std::uint64_t end_bytes,
                                       bool unmap, write_progress& progress) {
    // Where the external origin would show through, the zeros are stored.
    const std::uint64_t origin_blocks = (origin_end() + block_bytes_ - 1) / block_bytes_;
    const std::uint64_t origin_stop = std::min(end_bytes, origin_blocks * block_bytes_);
    if (progress.position_bytes < origin_stop) {
        progress.only_mapped = false;
        UTHIN_TRY(write_held(write_source::zeros(), origin_stop, progress));
        progress.only_mapped = true;
    }
    begin_bytes = std::max(begin_bytes, origin_stop);
    const std::uint64_t whole_begin =
        (begin_bytes + block_bytes_ - 1) / block_bytes_ * block_bytes_;
    const std::uint64_t whole_end = end_bytes / block_bytes_ * block_bytes_;
    if (!unmap || whole_begin >= whole_end) {
        return write_held(write_source::zeros(), end_bytes, progress);
    }
    UTHIN_TRY(write_held(write_source::zeros(), whole_begin, progress));
    if (progress.position_bytes < whole_end) {
        UTHIN_TRY(remove_blocks({block_of(whole_begin), block_of(whole_end)}));
        progress.position_bytes = whole_end;
        progress.owes_flush = progress.owes_flush || progress.fua;
    }
    return write_held(write_source::zeros(), end_bytes, progress);
}

result<void> volume_io::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                     zero_options options) {
    write_progress progress{
        .position_bytes = offset_bytes, .fua = options.fua, .holds = options.holds};
    if (!options.may_unmap || length_bytes == 0) {
        return write_all(write_source::zeros(), offset_bytes, length_bytes, progress);
    }
    UTHIN_TRY(may_write());
    if (options.fua && state_.lost_changes.load()) {
        return fail(error_code::io_error, "changes of the volume were lost; open it again");
    }
    progress.only_mapped = true;
    for (;;) {
        result<void> zeroed;
        {
            const write_gate::pass pass(state_.gate, blocks_of(offset_bytes, length_bytes));
            const io_ticket ticket = UTHIN_TRY(state_.tickets.take(io_kind::write));
            if (pass.stale()) {
                continue;
            }
            UTHIN_TRY(in_range(offset_bytes, length_bytes));
            const bool unmap = engine_.discards() != discard_mode::ignore && engine_.may_delete();
            zeroed = unmap_and_zero(offset_bytes, offset_bytes + length_bytes, unmap, progress);
        }
        if (zeroed) {
            break;
        }
        UTHIN_TRY(wait_for_space(zeroed.error(), progress));
    }
    if (progress.met_full_device) {
        engine_.device_has_space();
    }
    // A hole that was left alone may be one since a change that is not durable yet.
    return options.fua ? flush() : result<void>();
}

// ---- size

result<void> volume_io::set_size(std::uint64_t size_bytes) {
    UTHIN_TRY(engine_.alive());
    if (engine_.options().read_only) {
        return fail(error_code::read_only, "the pool is opened read-only");
    }
    if (size_bytes > static_cast<std::uint64_t>(INT64_MAX)) {
        return fail(error_code::invalid_argument, "a volume is smaller than 2^63 bytes");
    }
    const io_ticket call = UTHIN_TRY(engine_.calls().take(io_kind::read));
    lock_guard held(state_.resize_lock);
    if (size_bytes < state_.size_bytes.load()) {
        const write_gate::pass pass(state_.gate, {virtual_block(0), virtual_block(UINT64_MAX)});
        return shrink(size_bytes);
    }
    state_.size_bytes.store(size_bytes);
    return {};
}

result<void> volume_io::shrink(std::uint64_t size_bytes) {
    UTHIN_TRY(engine_.may_change());
    const std::uint64_t old_size_bytes = state_.size_bytes.load();
    shrink_work request(engine_, state_, size_bytes);
    auto cut = engine_.worker().execute(state_.queue, request);
    if (cut) {
        cut = cut_beyond(size_bytes);
    }
    if (!cut) {
        // A repeated call must cut again: what is left would show when the volume grows.
        state_.size_bytes.store(old_size_bytes);
    }
    return cut;
}

result<void> volume_io::cut_beyond(std::uint64_t size_bytes) {
    const virtual_block first((size_bytes + block_bytes_ - 1) / block_bytes_);
    const auto highest = UTHIN_TRY(engine_.metadata().highest_mapped_block(*state_.device));
    if (highest && *highest >= first) {
        UTHIN_TRY(remove_blocks({first, *highest + 1}));
    }
    {
        const io_ticket ticket = UTHIN_TRY(state_.tickets.take(io_kind::write));
        write_progress progress{.position_bytes = size_bytes, .only_mapped = true};
        UTHIN_TRY(write_held(write_source::zeros(), first.value() * block_bytes_, progress));
    }
    // ORDER: durable before anybody writes down the smaller size.
    return flush();
}

}  // namespace uthin::pool_engine
