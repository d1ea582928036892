// Writing: hits on the caller's thread, the rest through the provisioner.
#include <algorithm>

#include "pool/device_space.h"
#include "pool/extent_io.h"
#include "pool/provisioner.h"
#include "pool/volume_io.h"

namespace uthin::pool_engine {

namespace {

// Data provisioned in one step: bounds how long cells are held.
constexpr std::uint64_t provision_bytes_max = 4 << 20;

}  // namespace

result<void> volume_io::may_write() const {
    UTHIN_TRY(engine_.alive());
    if (engine_.options().read_only) {
        return fail(error_code::read_only, "the pool is opened read-only");
    }
    switch (state_.access.load()) {
        case write_access::open: return {};
        case write_access::asks_first: return ask_first();
        case write_access::read_only: break;
    }
    return fail(error_code::read_only, "the volume is opened read-only");
}

result<void> volume_io::ask_first() const {
    // close() waits for what `before` needs.
    const io_ticket call = UTHIN_TRY(engine_.calls().take(io_kind::read));
    const lock_guard held(state_.first_change_lock);
    if (state_.access.load() == write_access::asks_first) {
        UTHIN_TRY(state_.before_first_change());
        state_.access.store(write_access::open);
    }
    return {};
}

result<void> volume_io::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer,
                              bool fua, hold_limit* holds) {
    if (buffer.empty()) {
        return may_write();
    }
    if (!fua) {
        const auto done = write_cached(offset_bytes, buffer);
        if (!done && !is_full_device(done.error())) {
            return std::unexpected(done.error());
        }
        if (done && *done) {
            return {};
        }
    }
    return write_all(write_source(offset_bytes, buffer), offset_bytes, buffer.size(),
                     {.position_bytes = offset_bytes, .fua = fua, .holds = holds});
}

// Without a ticket: what frees space may be a snapshot's deletion that waits for tickets.
result<void> volume_io::wait_for_space(const error& failed, write_progress& progress) {
    if (is_full_device(failed)) {
        progress.met_full_device = true;
        return engine_.wait_for_device(failed, progress.holds);
    }
    if (failed.code() != error_code::no_data_space || progress.at_limit ||
        !engine_.wait_for_space(progress.holds)) {
        return std::unexpected(failed);
    }
    return {};
}

// As write_all() and what it calls, for the one case that is nearly all of them. Without a pass of
// the gate, as long as that is shut off under the ticket (WG2).
result<bool> volume_io::write_cached(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) {
    if (!engine_.is_alive() || state_.access.load() != write_access::open ||
        engine_.options().read_only) {
        return false;
    }
    const std::uint32_t thread = thread_number();
    const io_tickets::scope ticket(state_.tickets, io_kind::write, thread);
    if (!ticket.held() || state_.gate.working() || !fits(offset_bytes, buffer.size())) {
        return false;
    }
    // PD1.
    state_.discarded_parts.forget(block_bytes_, offset_bytes, offset_bytes + buffer.size());
    const data_epochs::scope pin(engine_.epochs(), thread);
    const auto hit = cached_whole(offset_bytes, buffer.size());
    if (!hit || hit->shared) {
        return false;
    }
    engine_.count().hits.add_here(1, thread);
    UTHIN_TRY(tell_full(engine_.data().write(data_offset(hit->block, offset_bytes), buffer)));
    return true;
}

result<void> volume_io::write_all(const write_source& source, std::uint64_t offset_bytes,
                                  std::uint64_t length_bytes, write_progress progress) {
    UTHIN_TRY(may_write());
    if (progress.fua && state_.lost_changes.load()) {
        return fail(error_code::io_error, "changes of the volume were lost; open it again");
    }
    for (;;) {
        result<void> written;
        {
            const write_gate::pass pass(state_.gate, blocks_of(offset_bytes, length_bytes));
            const io_ticket ticket = UTHIN_TRY(state_.tickets.take(io_kind::write));
            if (pass.stale()) {
                continue;
            }
            UTHIN_TRY(in_range(offset_bytes, length_bytes));
            written = write_held(source, offset_bytes + length_bytes, progress);
        }
        if (written) {
            break;
        }
        UTHIN_TRY(wait_for_space(written.error(), progress));
    }
    if (progress.met_full_device) {
        engine_.device_has_space();
    }
    // The ticket is gone: a commit must not make a snapshot wait.
    return progress.owes_flush ? flush() : result<void>();
}

result<void> volume_io::write_held(const write_source& source, std::uint64_t end_bytes,
                                   write_progress& progress) {
    // PD1.
    state_.discarded_parts.forget(block_bytes_, progress.position_bytes, end_bytes);
    while (progress.position_bytes < end_bytes) {
        UTHIN_TRY(write_hits(source, end_bytes, progress));
        if (progress.position_bytes < end_bytes) {
            UTHIN_TRY(write_misses(source, end_bytes, progress));
        }
    }
    return {};
}

// As far as blocks are mapped and not shared. The ticket keeps "not shared" true until the I/O
// ended; the pin keeps the blocks from being reused if they are unmapped meanwhile.
result<void> volume_io::write_hits(const write_source& source, std::uint64_t end_bytes,
                                   write_progress& progress) {
    const data_pin pin = engine_.epochs().pin();
    extent_io io(engine_.data(), io_kind::write);
    std::uint64_t at = progress.position_bytes;
    progress.hole.reset();
    while (at < end_bytes && !io.full()) {
        const auto found = UTHIN_TRY(lookup(block_of(at)));
        if (!found) {
            progress.hole = block_of(at);
        }
        if (!found || found->shared) {
            break;
        }
        const std::uint64_t length = piece_length(at, end_bytes);
        if (source.is_zeros()) {
            UTHIN_TRY(
                tell_full(engine_.data().write_zeroes(data_offset(found->block, at), length)));
            progress.owes_flush = progress.owes_flush || progress.fua;
        } else {
            const auto bytes = source.at(at, length);
            // extent_io is for both kinds; it does not change what it writes.
            UTHIN_TRY(io.add(data_offset(found->block, at),
                             {const_cast<std::byte*>(bytes.data()), bytes.size()}));
        }
        at += length;
    }
    // ORDER: FLUSH rule. Asked after the lookups: if all changes are durable now, these mappings
    // are, and the data alone is left to be made durable.
    const bool durable_mappings = progress.fua && !changed_since_durable() && !has_lost_changes();
    const bool direct_fua = durable_mappings && !progress.owes_flush;
    progress.owes_flush = progress.owes_flush || (progress.fua && !direct_fua);
    // What makes itself durable may fail as a flush does, after which nothing is tried again.
    UTHIN_TRY(direct_fua ? io.run(true) : tell_full(io.run(false)));
    progress.position_bytes = at;
    return {};
}

result<void> volume_io::write_misses(const write_source& source, std::uint64_t end_bytes,
                                     write_progress& progress) {
    const std::uint64_t begin = progress.position_bytes;
    const virtual_block first = block_of(begin);
    const std::uint64_t wanted = block_of(end_bytes - 1) - first + 1;
    const std::uint64_t count_max =
        std::clamp<std::uint64_t>(provision_bytes_max / block_bytes_, 1,
                                  std::min<std::uint64_t>(wanted, provisioner::blocks_max));
    bio_prison::cells cells(engine_.prison(), state_.id, first, count_max);
    if (cells.empty()) {
        return {};  // its holder has left; look again
    }
    // Most writes lie in one block, and to clear the plan of many takes as long as a lookup.
    std::array<block_plan, 1> plan_of_one;
    std::optional<std::array<block_plan, provisioner::blocks_max>> plan_of_many;
    const std::span<block_plan> plan =
        cells.count() == 1 ? std::span<block_plan>(plan_of_one) : plan_of_many.emplace();
    std::size_t count = 0;
    if (progress.hole == first && !progress.only_mapped) {
        plan[count++].block = first;
    }
    while (count < cells.count()) {
        const auto found = UTHIN_TRY(lookup(first + count));
        if ((found && !found->shared) || (!found && progress.only_mapped)) {
            break;
        }
        plan[count].block = first + count;
        plan[count].old = found ? std::optional(found->block) : std::nullopt;
        ++count;
    }
    if (count == 0) {
        const auto found = UTHIN_TRY(lookup(first));
        if (!found && progress.only_mapped) {
            const virtual_block stop = UTHIN_TRY(hole_end(first, first + wanted));
            progress.position_bytes = std::min(end_bytes, stop.value() * block_bytes_);
        }
        return {};
    }
    cells.keep(count);
    const std::uint64_t end = std::min(end_bytes, (first.value() + count) * block_bytes_);
    provisioner maker(engine_, state_);
    const auto done = maker.write(plan.first(count), source, begin, end);
    progress.at_limit = maker.at_limit();
    if (!done) {
        return std::unexpected(done.error());
    }
    if (*done > 0) {
        progress.position_bytes = std::min(end, (first.value() + *done) * block_bytes_);
        progress.owes_flush = progress.owes_flush || progress.fua;
    }
    return {};
}

}  // namespace uthin::pool_engine
