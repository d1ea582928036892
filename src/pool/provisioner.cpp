#include "pool/provisioner.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/aligned_buffer.h"
#include "base/out_of_memory.h"
#include "pool/copier.h"
#include "pool/device_space.h"
#include "pool/trimmer.h"

namespace uthin::pool_engine {

namespace {

// Up to here a partly written block is put together in memory and written at once.
constexpr std::uint64_t small_block_bytes = 1 << 20;
// Zeros that are written, or space that is taken, for one block and, ahead, for its neighbours: a
// file system's lock and journal, or a disk's command, cost the same for all of them.
constexpr std::uint64_t together_bytes_max = 1 << 20;

// Memory for one block, kept by each thread while blocks are not large: allocating and clearing it
// takes longer than copying. What is in it is left over from the last use.
class block_scratch {
public:
    explicit block_scratch(std::uint64_t block_bytes) {
        constexpr std::uint64_t kept_bytes_max = 128 << 10;
        thread_local aligned_buffer kept;
        if (block_bytes > kept_bytes_max) {
            own_ = aligned_buffer(block_bytes);
            bytes_ = own_.span();
            return;
        }
        if (kept.size() < block_bytes) {
            kept = aligned_buffer(block_bytes);
        }
        bytes_ = kept.span().first(block_bytes);
    }
    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return bytes_; }

private:
    aligned_buffer own_;
    std::span<std::byte> bytes_;
};

result<void> metadata_full() {
    return fail(error_code::no_metadata_space, "the pool's metadata is full");
}

// Beside the reserve.
result<bool> has_metadata(engine& of) {
    const space_counts space = UTHIN_TRY(of.metadata().metadata_space());
    return space.free_blocks != 0;
}

// Finds new blocks for the first part of the plan: as many as there are.
class allocate_work final : public work {
public:
    allocate_work(engine& owner, const volume_state& state, std::span<block_plan> plan)
        : engine_(owner), state_(state), plan_(plan) {}

    [[nodiscard]] next run() override {
        era_ = engine_.era();
        if (auto allowed = engine_.may_change(); !allowed) {
            set_outcome(std::move(allowed));
            return next::done;
        }
        const auto room = has_metadata(engine_);
        if (!room) {
            return engine_.refuse(*this, room.error());
        }
        if (!*room) {
            if (!retried()) {
                engine_.changed(true);  // a commit gives back what the transaction replaced
                return next::space;
            }
            set_outcome(metadata_full());
            return next::done;
        }
        const auto granted = share_of_plan();
        if (!granted) {
            return engine_.refuse(*this, granted.error());
        }
        return *granted == 0 ? nothing_granted() : allocate(*granted);
    }

    // As long as it is done and failed: not for want of free blocks.
    [[nodiscard]] bool at_limit() const noexcept { return at_limit_; }
    [[nodiscard]] std::size_t count() const noexcept { return count_; }
    [[nodiscard]] std::uint64_t era() const noexcept { return era_; }

private:
    // The blocks at the front of the plan that the volume may have, as far as promises and limits
    // go.
    [[nodiscard]] result<std::size_t> share_of_plan() {
        space_shares& shares = engine_.shares();
        if (shares.empty()) {
            return plan_.size();
        }
        auto claim = UTHIN_TRY(
            shares.begin_claim(state_.id, UTHIN_TRY(engine_.free_blocks()), engine_.metadata()));
        std::size_t count = 0;
        while (count < plan_.size()) {
            verdict_ = claim.take(!plan_[count].old.has_value());
            if (verdict_ != space_shares::verdict::granted) {
                break;
            }
            ++count;
        }
        return count;
    }

    // ENOSPC for this volume alone: the pool's mode does not change.
    [[nodiscard]] next nothing_granted() {
        if (verdict_ == space_shares::verdict::promised_to_others && !retried() &&
            engine_.frees_pending()) {
            return next::space;
        }
        at_limit_ = true;
        set_outcome(fail(error_code::no_data_space,
                         verdict_ == space_shares::verdict::over_limit
                             ? fmt::format("device {} has reached its limit", state_.id.value())
                             : fmt::format("what is free is reserved for others than device {}",
                                           state_.id.value())));
        return next::done;
    }

    [[nodiscard]] next allocate(std::size_t granted) {
        while (count_ < granted) {
            auto found = engine_.metadata().alloc_data_range(granted - count_);
            if (!found) {
                if (found.error().code() != error_code::no_data_space) {
                    return engine_.refuse(*this, std::move(found).error());
                }
                if (const auto ready = engine_.ready().take()) {
                    plan_[count_++].fresh = ready->block;
                    continue;
                }
                if (engine_.space_trimmer().let_go()) {
                    continue;
                }
                if (count_ == 0) {
                    return nothing_found();
                }
                break;
            }
            for (data_block block = found->begin; block < found->end; ++block) {
                if (engine_.may_use(block)) {
                    plan_[count_].fresh = block;
                    ++count_;
                }
            }
        }
        const auto got = plan_.first(count_);
        engine_.shares().allocated(
            state_.id, static_cast<std::uint64_t>(std::ranges::count_if(
                           got, [](const block_plan& one) { return !one.old.has_value(); })));
        return next::done;
    }

    // Blocks freed in this transaction can be had after a commit.
    [[nodiscard]] next nothing_found() {
        if (!retried() && engine_.frees_pending()) {
            return next::space;
        }
        engine_.out_of_data_space();
        set_outcome(fail(error_code::no_data_space, "no free data block in the pool"));
        return next::done;
    }

    engine& engine_;
    const volume_state& state_;
    const std::span<block_plan> plan_;
    std::size_t count_ = 0;
    std::uint64_t era_ = 0;
    space_shares::verdict verdict_ = space_shares::verdict::granted;
    bool at_limit_ = false;
};

// Inserts the mappings, or gives the blocks back.
class insert_work final : public work {
public:
    insert_work(engine& owner, volume_state& state, std::span<block_plan> plan, std::uint64_t era,
                bool give_back)
        : engine_(owner), state_(state), plan_(plan), era_(era), give_back_(give_back) {}

    // The only block of the plan was ready; these were taken with it (RB2).
    void was_ready(const ready_blocks::taken& ready, range<data_block> neighbours, bool zeroed) {
        ready_ = ready;
        neighbours_ = neighbours;
        neighbours_are_zeroed_ = zeroed;
    }

    [[nodiscard]] next run() override {
        if (era_ != engine_.era()) {
            set_outcome(fail(error_code::io_error, "the transaction was aborted"));
            return next::done;
        }
        auto allowed = engine_.may_change();
        if (allowed && !give_back_) {
            const auto room = has_room();
            if (!room) {
                return engine_.refuse(*this, room.error());
            }
            if (!*room && !retried()) {
                engine_.changed(true);
                return next::space;
            }
            allowed = *room ? result<void>() : metadata_full();
        }
        for (block_plan& one : plan_) {
            auto settled = give_back_ || !allowed ? release(one) : insert(one);
            if (!settled) {
                return engine_.refuse(*this, std::move(settled).error());
            }
            if (!one.old) {
                engine_.shares().settled(state_.id);
            }
        }
        auto cared_for = care_for_others(allowed.has_value());
        if (!cared_for) {
            return engine_.refuse(*this, std::move(cared_for).error());
        }
        set_outcome(give_back_ ? result<void>() : allowed);
        return next::done;
    }

    void published() override {
        if (!outcome()) {
            return;
        }
        for (const block_plan& one : plan_) {
            if (one.inserted) {
                state_.cache.put(one.block, {one.fresh, false});
            }
        }
    }

private:
    // Whoever allocated was asked whether there is room beside the reserve; many who were at once
    // must not use all of that up. A ready block was allocated for nobody in particular.
    [[nodiscard]] result<bool> has_room() {
        if (UTHIN_TRY(engine_.metadata().is_reserve_half_spent())) {
            return false;
        }
        return ready_ ? has_metadata(engine_) : true;
    }

    // The next first writes find what they need.
    [[nodiscard]] result<void> care_for_others(bool allowed) {
        // Where space is wanted, a commit makes them free for whoever waits.
        const bool stay = allowed && neighbours_are_zeroed_ && engine_.mode() == pool_mode::write;
        if (!neighbours_.empty() && !(stay && engine_.ready().bring_back(neighbours_, *ready_))) {
            UTHIN_TRY(engine_.metadata().dec_data_range(neighbours_));
            engine_.ready().given_back(neighbours_.count());
            for (data_block one = neighbours_.begin; one < neighbours_.end; ++one) {
                engine_.never_used(one);
            }
            engine_.changed(true);
        }
        return allowed && plan_.size() == 1 ? engine_.allocate_ahead() : result<void>();
    }

    [[nodiscard]] result<void> insert(block_plan& one) {
        // PV2. Only we, the holder of the cell, may have inserted: an equal mapping is the same
        // one.
        engine_.expect_change(state_, {one.block, one.block + 1});
        if (!UTHIN_TRY(engine_.metadata().insert_block_if(*state_.device, one.block, one.old,
                                                          one.fresh))) {
            return release(one);
        }
        engine_.settle(one.fresh);
        engine_.changed(one.old.has_value());
        one.inserted = true;
        auto& counter = one.old ? engine_.count().broken : engine_.count().provisioned;
        counter.fetch_add(1, std::memory_order_relaxed);
        return {};
    }

    [[nodiscard]] result<void> release(const block_plan& one) {
        UTHIN_TRY(engine_.metadata().dec_data_range({one.fresh, one.fresh + 1}));
        engine_.never_used(one.fresh);
        engine_.changed(true);
        return {};
    }

    engine& engine_;
    volume_state& state_;
    const std::span<block_plan> plan_;
    const std::uint64_t era_;
    const bool give_back_;
    std::optional<ready_blocks::taken> ready_;
    range<data_block> neighbours_{};
    bool neighbours_are_zeroed_ = false;
};

}  // namespace

result<provisioner::allocated_blocks> provisioner::allocate(std::span<block_plan> plan) {
    if (plan.size() == 1) {
        ready_ = engine_.ready().take();
        if (ready_) {
            plan[0].fresh = ready_->block;
            return allocated_blocks{1, ready_->era};
        }
    }
    allocate_work request(engine_, state_, plan);
    auto done = engine_.worker().execute(state_.queue, request);
    at_limit_ = request.at_limit();
    UTHIN_TRY(std::move(done));
    return allocated_blocks{request.count(), request.era()};
}

result<std::size_t> provisioner::write(std::span<block_plan> plan, const write_source& source,
                                       std::uint64_t begin_bytes, std::uint64_t end_bytes) {
    const allocated_blocks allocated = UTHIN_TRY(allocate(plan));
    const std::span<block_plan> got = plan.first(allocated.count);
    const std::uint64_t got_end =
        std::min(end_bytes, (got.back().block.value() + 1) * engine_.block_bytes());

    // ORDER: PO1, PV1.
    const auto filled = or_out_of_memory([&] { return fill(got, source, begin_bytes, got_end); });
    insert_work insertion(engine_, state_, got, allocated.era, !filled);
    if (ready_) {
        insertion.was_ready(*ready_, neighbours_, neighbours_are_zeroed_);
    }
    auto inserted = engine_.worker().execute(state_.queue, insertion);
    UTHIN_TRY(result<void>(filled));
    if (!source.is_zeros()) {  // zeros can be a hole
        engine_.device_has_space();
    }
    UTHIN_TRY(std::move(inserted));
    const auto stop =
        std::find_if(got.begin(), got.end(), [](const block_plan& one) { return !one.inserted; });
    return static_cast<std::size_t>(stop - got.begin());
}

// Whole blocks that are neighbours on the device are one write; the ends may be partial.
result<void> provisioner::fill(std::span<const block_plan> plan, const write_source& source,
                               std::uint64_t begin_bytes, std::uint64_t end_bytes) {
    const std::uint64_t block_bytes = engine_.block_bytes();
    std::size_t i = 0;
    while (i < plan.size()) {
        const std::uint64_t first = plan[i].block.value() * block_bytes;
        if (first < begin_bytes || first + block_bytes > end_bytes) {
            UTHIN_TRY(fill_part(plan[i], source, std::max(first, begin_bytes),
                                std::min(first + block_bytes, end_bytes)));
            ++i;
            continue;
        }
        std::size_t run = 1;
        while (i + run < plan.size() && first + (run + 1) * block_bytes <= end_bytes &&
               plan[i + run].fresh == plan[i].fresh + run) {
            ++run;
        }
        UTHIN_TRY(put(source, plan[i].fresh.value() * block_bytes, first, run * block_bytes));
        i += run;
    }
    return {};
}

result<void> provisioner::fill_part(const block_plan& one, const write_source& source,
                                    std::uint64_t begin_bytes, std::uint64_t end_bytes) {
    const std::uint64_t block_bytes = engine_.block_bytes();
    const std::uint64_t on_device = one.fresh.value() * block_bytes + begin_bytes % block_bytes;
    const bool fills_rest =
        one.old.has_value() || engine_.zero_new_blocks() || covers_origin(one.block);
    if (fills_rest && block_bytes <= small_block_bytes) {
        return fill_small(one, source, begin_bytes, end_bytes);
    }
    if (fills_rest) {
        const std::uint64_t begin_in_block = begin_bytes % block_bytes;
        UTHIN_TRY(fill_rest(one, 0, begin_in_block));
        UTHIN_TRY(fill_rest(one, begin_in_block + (end_bytes - begin_bytes), block_bytes));
    }
    return put(source, on_device, begin_bytes, end_bytes - begin_bytes);
}

result<void> provisioner::fill_small(const block_plan& one, const write_source& source,
                                     std::uint64_t begin_bytes, std::uint64_t end_bytes) {
    const std::uint64_t block_bytes = engine_.block_bytes();
    const std::uint64_t begin = begin_bytes % block_bytes;
    const std::uint64_t length = end_bytes - begin_bytes;
    const std::uint64_t on_device = one.fresh.value() * block_bytes;
    const bool from_origin = !one.old && covers_origin(one.block);
    if (!one.old && !from_origin && engine_.data().capabilities().fast_write_zeroes) {
        UTHIN_TRY(zero_whole(one.fresh));
        return source.is_zeros() ? result<void>()
                                 : put(source, on_device + begin, begin_bytes, length);
    }
    take_space();
    const block_scratch scratch(block_bytes);
    const std::span<std::byte> whole = scratch.bytes();
    if (one.old) {
        UTHIN_TRY(engine_.data().read(one.old->value() * block_bytes, whole));
    } else if (from_origin) {
        UTHIN_TRY(state_.origin->read(one.block.value() * block_bytes, whole));
    } else {
        std::memset(whole.data(), 0, begin);
        std::memset(whole.data() + begin + length, 0, block_bytes - begin - length);
    }
    if (source.is_zeros()) {
        std::memset(whole.data() + begin, 0, length);
    } else {
        std::memcpy(whole.data() + begin, source.at(begin_bytes, length).data(), length);
    }
    return tell_full(engine_.data().write(on_device, whole));
}

void provisioner::take_space() {
    if (!ready_) {
        return;
    }
    const std::uint64_t block_bytes = engine_.block_bytes();
    const range<data_block> blocks =
        engine_.ready().take_space(*ready_, together_bytes_max / block_bytes);
    if (!blocks.empty()) {
        engine_.data().take_space(blocks.begin.value() * block_bytes, blocks.count() * block_bytes);
    }
}

result<void> provisioner::zero_whole(data_block fresh) {
    const std::uint64_t block_bytes = engine_.block_bytes();
    if (ready_ && ready_->zeroed) {
        return {};
    }
    if (ready_) {
        neighbours_ =
            engine_.ready().take_neighbours(*ready_, together_bytes_max / block_bytes - 1);
        const std::uint64_t together_bytes = (1 + neighbours_.count()) * block_bytes;
        neighbours_are_zeroed_ =
            !neighbours_.empty() &&
            engine_.data().write_zeroes(fresh.value() * block_bytes, together_bytes).has_value();
        if (neighbours_are_zeroed_) {
            return {};
        }
    }
    // There may be space for one where there is none for all.
    return tell_full(engine_.data().write_zeroes(fresh.value() * block_bytes, block_bytes));
}

result<void> provisioner::fill_rest(const block_plan& one, std::uint64_t begin_in_block,
                                    std::uint64_t end_in_block) {
    if (begin_in_block >= end_in_block) {
        return {};
    }
    const std::uint64_t to = one.fresh.value() * engine_.block_bytes() + begin_in_block;
    const std::uint64_t length = end_in_block - begin_in_block;
    if (!one.old && covers_origin(one.block)) {
        return copy_from_origin(one.block.value() * engine_.block_bytes() + begin_in_block, to,
                                length);
    }
    if (!one.old) {
        return tell_full(engine_.data().write_zeroes(to, length));
    }
    const std::uint64_t from = one.old->value() * engine_.block_bytes() + begin_in_block;
    return copy_range(engine_.data(), from, to, length);
}

bool provisioner::covers_origin(virtual_block block) const noexcept {
    return state_.origin != nullptr &&
           block.value() * engine_.block_bytes() < state_.origin->size_bytes();
}

result<void> provisioner::copy_from_origin(std::uint64_t from, std::uint64_t to,
                                           std::uint64_t length) {
    aligned_buffer piece(std::min<std::uint64_t>(length, small_block_bytes));
    for (std::uint64_t done = 0; done < length; done += piece.size()) {
        const auto part = piece.span().first(std::min<std::uint64_t>(length - done, piece.size()));
        UTHIN_TRY(state_.origin->read(from + done, part));
        UTHIN_TRY(tell_full(engine_.data().write(to + done, part)));
    }
    return {};
}

result<void> provisioner::put(const write_source& source, std::uint64_t on_device,
                              std::uint64_t begin_bytes, std::uint64_t length_bytes) {
    return tell_full(source.is_zeros()
                         ? engine_.data().write_zeroes(on_device, length_bytes)
                         : engine_.data().write(on_device, source.at(begin_bytes, length_bytes)));
}

}  // namespace uthin::pool_engine
