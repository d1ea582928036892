// Looking up and reading.
#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "pool/extent_io.h"
#include "pool/volume_io.h"

namespace uthin::pool_engine {

result<void> volume_io::in_range(std::uint64_t offset_bytes, std::uint64_t length_bytes) const {
    if (!fits(offset_bytes, length_bytes)) {
        return fail(
            error_code::out_of_range,
            fmt::format("volume {}: {} bytes at {} are beyond its {} bytes", state_.id.value(),
                        length_bytes, offset_bytes, state_.size_bytes.load()));
    }
    return {};
}

result<std::optional<lookup_result>> volume_io::lookup(virtual_block block) {
    mapping_cache::miss miss;
    if (const auto hit = state_.cache.find(block, miss)) {
        engine_.count().hits.add();
        return hit;
    }
    engine_.count().misses.add();
    const auto found = UTHIN_TRY(engine_.metadata().find_block(*state_.device, block));
    if (found) {
        if (found->block.value() >= engine_.data_blocks()) {
            return fail(error_code::corrupt,
                        fmt::format("volume {}: block {} is mapped to data block {}, beyond the "
                                    "data device",
                                    state_.id.value(), block.value(), found->block.value()));
        }
        state_.cache.fill(block, miss, *found);
    }
    return found;
}

result<virtual_block> volume_io::hole_end(virtual_block block, virtual_block end) {
    const auto next =
        UTHIN_TRY(engine_.metadata().find_mapped_range(*state_.device, {block + 1, end}));
    return next ? next->begin : end;
}

result<void> volume_io::read_hole(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    if (state_.origin != nullptr) {
        return state_.origin->read(offset_bytes, buffer);
    }
    std::memset(buffer.data(), 0, buffer.size());
    return {};
}

// One pin for the whole request: it waits for nothing but devices.
result<void> volume_io::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    if (!engine_.is_alive()) {
        return engine_.alive();
    }
    const std::uint32_t thread = thread_number();
    const io_tickets::scope ticket(state_.tickets, io_kind::read, thread);
    if (!ticket.held()) {
        return fail(error_code::failed, "the pool was closed");
    }
    if (!fits(offset_bytes, buffer.size())) {
        return in_range(offset_bytes, buffer.size());
    }
    const data_epochs::scope pin(engine_.epochs(), thread);
    if (const auto hit = cached_whole(offset_bytes, buffer.size())) {
        engine_.count().hits.add_here(1, thread);
        return engine_.data().read(data_offset(hit->block, offset_bytes), buffer);
    }
    return read_pieces(offset_bytes, buffer);
}

result<void> volume_io::read_pieces(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    extent_io io(engine_.data(), io_kind::read);
    const std::uint64_t end = offset_bytes + buffer.size();
    std::uint64_t at = offset_bytes;
    while (at < end) {
        const virtual_block block = block_of(at);
        std::uint64_t length = piece_length(at, end);
        const auto found = UTHIN_TRY(lookup(block));
        if (found) {
            UTHIN_TRY(
                io.add(data_offset(found->block, at), buffer.subspan(at - offset_bytes, length)));
        } else {
            if (at + length < end) {
                const virtual_block stop = UTHIN_TRY(hole_end(block, block_of(end - 1) + 1));
                length = std::min(end, stop.value() * block_bytes_) - at;
            }
            UTHIN_TRY(read_hole(at, buffer.subspan(at - offset_bytes, length)));
        }
        at += length;
    }
    return io.run(false);
}

result<io_ticket> volume_io::begin(io_kind kind) {
    UTHIN_TRY(engine_.alive());
    if (kind == io_kind::write) {
        UTHIN_TRY(may_write());
    }
    return state_.tickets.take(kind);
}

result<mapped_extent> volume_io::map(const io_ticket& ticket, std::uint64_t offset_bytes,
                                     std::uint64_t length_bytes) {
    if (!ticket.held() || length_bytes == 0) {
        return fail(error_code::invalid_argument, "map needs a ticket and at least a byte");
    }
    UTHIN_TRY(in_range(offset_bytes, length_bytes));
    if (ticket.kind() == io_kind::write) {
        state_.discarded_parts.forget(block_bytes_, offset_bytes, offset_bytes + length_bytes);
    }
    mapped_extent extent;
    // ORDER: PO2. The pin comes before the lookup.
    extent.pin = engine_.epochs().pin();
    const std::uint64_t end = offset_bytes + length_bytes;
    std::uint64_t at = offset_bytes;
    while (at < end) {
        const auto found = UTHIN_TRY(lookup(block_of(at)));
        mapped_extent::place where = mapped_extent::place::data_device;
        if (!found) {
            where = ticket.kind() == io_kind::read && at >= origin_end()
                        ? mapped_extent::place::zeros
                        : mapped_extent::place::engine;
        } else if (ticket.kind() == io_kind::write && (found->shared || state_.gate.working())) {
            // WG2: a gate that works is asked by the engine.
            where = mapped_extent::place::engine;
        }
        const std::uint64_t on_device = found ? data_offset(found->block, at) : 0;
        if (at == offset_bytes) {
            extent.where = where;
            extent.data_offset_bytes = on_device;
        } else if (where != extent.where ||
                   (where == mapped_extent::place::data_device &&
                    on_device != extent.data_offset_bytes + (at - offset_bytes))) {
            break;
        }
        at += piece_length(at, end);
    }
    extent.length_bytes = at - offset_bytes;
    return extent;
}

result<std::vector<volume_extent>> volume_io::block_status(std::uint64_t offset_bytes,
                                                           std::uint64_t length_bytes,
                                                           std::size_t extents_max) {
    UTHIN_TRY(engine_.alive());
    const io_ticket ticket = UTHIN_TRY(state_.tickets.take(io_kind::read));
    UTHIN_TRY(in_range(offset_bytes, length_bytes));
    std::vector<volume_extent> extents;
    const std::uint64_t end = offset_bytes + length_bytes;
    // False when the list is full.
    const auto add = [&](std::uint64_t begin, std::uint64_t stop, extent_kind kind) {
        if (!extents.empty() && extents.back().kind == kind) {
            extents.back().length_bytes += stop - begin;
            return true;
        }
        if (extents.size() >= std::max<std::size_t>(extents_max, 1)) {
            return false;
        }
        extents.push_back({begin, stop - begin, kind});
        return true;
    };
    std::uint64_t at = offset_bytes;
    while (at < end) {
        const virtual_block limit = block_of(end - 1) + 1;
        const auto run =
            UTHIN_TRY(engine_.metadata().find_mapped_range(*state_.device, {block_of(at), limit}));
        const std::uint64_t data_begin =
            run ? std::clamp(run->begin.value() * block_bytes_, at, end) : end;
        const std::uint64_t origin_stop = std::clamp(origin_end(), at, data_begin);
        if (origin_stop > at && !add(at, origin_stop, extent_kind::data)) {
            break;
        }
        if (data_begin > origin_stop && !add(origin_stop, data_begin, extent_kind::hole)) {
            break;
        }
        if (run) {
            const std::uint64_t data_end = std::min(run->end.value() * block_bytes_, end);
            if (!add(data_begin, data_end, extent_kind::data)) {
                break;
            }
            at = data_end;
        } else {
            at = end;
        }
    }
    return extents;
}

}  // namespace uthin::pool_engine
