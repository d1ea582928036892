// Flush, discard, zeroing, resizing.
#include <algorithm>

#include "pool/barrier.h"
#include "pool/volume_io.h"

namespace uthin::pool_engine {

namespace {

// Exclusively owned metadata blocks that one slice of a discard visits.
constexpr std::uint64_t slice_blocks = 32;

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

// On a full pool discards may use the first half of the reserve: to empty what a snapshot shares
// takes a block that does not come back. The other half is for deletions, which always help.
bool is_reserve_spent(metadata& of) {
    constexpr std::uint64_t transaction_blocks = 12;  // of one slice and its commit
    const auto space = of.metadata_space();
    return !space ||
           space->raw_free_blocks < std::max(of.metadata_reserve_blocks() / 2, transaction_blocks);
}

// Unmaps a range, in slices. Passing discards down to the data device would begin here, where the
// blocks that became free are known; they stay allocated until it is done.
class remove_work final : public work {
public:
    remove_work(engine& owner, volume_state& state, range<virtual_block> blocks)
        : engine_(owner), state_(state), left_(blocks) {}

    [[nodiscard]] next run() override {
        if (auto allowed = engine_.may_delete(); !allowed) {
            set_outcome(std::move(allowed));
            return next::done;
        }
        if (engine_.mode() == pool_mode::out_of_metadata_space) {
            if (!runs_alone_) {
                runs_alone_ = true;  // within a batch free blocks are those of its beginning
                return next::again;
            }
            if (is_reserve_spent(engine_.metadata())) {
                if (!retried()) {
                    engine_.changed(true);  // a commit gives back what others replaced
                    return next::space;
                }
                set_outcome(fail(error_code::no_metadata_space,
                                 "the pool's metadata is full, half of its reserve is used up"));
                return next::done;
            }
        }
        auto reached = engine_.metadata().remove_some(*state_.device, left_, slice_blocks);
        if (!reached) {
            return engine_.refuse(*this, std::move(reached).error());
        }
        engine_.changed(true);
        engine_.spare_the_reserve();
        slice_ = {left_.begin, *reached};
        left_.begin = *reached;
        return left_.empty() ? next::done : next::again;
    }

    void published() override {
        state_.cache.invalidate(slice_);
        slice_ = {};
    }

private:
    engine& engine_;
    volume_state& state_;
    range<virtual_block> left_;
    range<virtual_block> slice_;
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
    return last > metadata.durable_transaction();
}

result<void> volume_io::flush() {
    UTHIN_TRY(engine_.alive());
    if (state_.lost_changes.load()) {
        return fail(error_code::io_error, "changes of the volume were lost; open it again");
    }
    engine_.count().flushes.add();
    if (!changed_since_durable()) {
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
    for (;;) {
        const write_gate::pass pass(state_.gate, blocks_of(offset_bytes, length_bytes));
        const io_ticket ticket = UTHIN_TRY(state_.tickets.take(io_kind::write));
        if (!pass.stale()) {
            return discard_held(offset_bytes, length_bytes);
        }
    }
}

// Under a write ticket.
result<void> volume_io::discard_held(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    UTHIN_TRY(in_range(offset_bytes, length_bytes));
    engine_.count().discards.fetch_add(1, std::memory_order_relaxed);
    const range<virtual_block> whole{
        virtual_block((offset_bytes + block_bytes_ - 1) / block_bytes_),
        virtual_block((offset_bytes + length_bytes) / block_bytes_)};
    if (whole.empty()) {
        return {};
    }
    if (!engine_.may_delete()) {
        engine_.count().ignored_discards.fetch_add(1, std::memory_order_relaxed);
        return {};
    }
    state_.gate.note_discard(whole);
    return remove_blocks(whole);
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
        if (zeroed.error().code() != error_code::no_data_space ||
            !engine_.wait_for_space(options.holds)) {
            return zeroed;
        }
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
    UTHIN_TRY(engine_.worker().execute(state_.queue, request));
    auto cut = cut_beyond(size_bytes);
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
    return flush();
}

}  // namespace uthin::pool_engine
