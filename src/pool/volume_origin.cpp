// Moving content between a volume and the image that it stands on.
#include <algorithm>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/zero.h"
#include "pool/volume_io.h"

namespace uthin::pool_engine {

namespace {

// Read or written at once.
constexpr std::uint64_t piece_bytes_max = 1 << 20;
// Written of a block when the provisioner is to take the rest from the origin.
constexpr std::uint64_t head_bytes_max = 4096;

}  // namespace

result<bool> volume_io::reads_as_zeros(std::uint64_t begin_bytes, std::uint64_t end_bytes) {
    end_bytes = std::min(end_bytes, origin_end());
    if (begin_bytes >= end_bytes) {
        return true;
    }
    aligned_buffer piece(std::min(end_bytes - begin_bytes, piece_bytes_max));
    for (std::uint64_t at = begin_bytes; at < end_bytes; at += piece.size()) {
        const auto part = piece.span().first(std::min<std::uint64_t>(piece.size(), end_bytes - at));
        UTHIN_TRY(state_.origin->read(at, part));
        if (!is_zero(part)) {
            return false;
        }
    }
    return true;
}

// Holes without a gap between them, under a write ticket.
result<void> volume_io::copy_run_up(std::uint64_t begin_bytes, std::uint64_t end_bytes) {
    write_progress progress{.position_bytes = begin_bytes};
    if (begin_bytes >= origin_end()) {
        return write_held(write_source::zeros(), end_bytes, progress);
    }
    if (end_bytes - begin_bytes <= piece_bytes_max) {
        aligned_buffer content(end_bytes - begin_bytes);
        UTHIN_TRY(state_.origin->read(begin_bytes, content.span()));
        return write_held(write_source(begin_bytes, content.span()), end_bytes, progress);
    }
    // A single block that is too large for memory: what is not written the provisioner copies.
    aligned_buffer head(std::min(end_bytes - begin_bytes, head_bytes_max));
    UTHIN_TRY(state_.origin->read(begin_bytes, head.span()));
    return write_held(write_source(begin_bytes, head.span()), begin_bytes + head.size(), progress);
}

result<std::uint64_t> volume_io::copy_up(range<virtual_block> blocks, bool zeros_too) {
    const io_ticket ticket = UTHIN_TRY(state_.tickets.take(io_kind::write));
    const std::uint64_t size = state_.size_bytes.load();
    std::uint64_t copied = 0;
    std::uint64_t run_begin = 0;
    std::uint64_t run_end = 0;
    const auto copy_run = [&]() -> result<void> {
        if (run_begin < run_end) {
            UTHIN_TRY(copy_run_up(run_begin, run_end));
        }
        run_begin = run_end;
        return {};
    };
    for (virtual_block block = blocks.begin; block < blocks.end; ++block) {
        if (block.value() > (size - 1) / block_bytes_ || size == 0) {
            break;
        }
        const std::uint64_t begin = block.value() * block_bytes_;
        const std::uint64_t end = std::min(begin + block_bytes_, size);
        if (UTHIN_TRY(lookup(block)) || (!zeros_too && UTHIN_TRY(reads_as_zeros(begin, end)))) {
            continue;
        }
        const bool joins = run_end == begin && end - run_begin <= piece_bytes_max &&
                           (begin < origin_end()) == (run_begin < origin_end());
        if (!joins) {
            UTHIN_TRY(copy_run());
            run_begin = begin;
        }
        run_end = end;
        ++copied;
    }
    UTHIN_TRY(copy_run());
    return copied;
}

// False: the block holds data that the origin has no place for.
result<bool> volume_io::store_in_origin(virtual_block block, data_block stored,
                                        block_device& origin, std::uint64_t origin_bytes) {
    const std::uint64_t begin = block.value() * block_bytes_;
    const std::uint64_t end = std::min(begin + block_bytes_, state_.size_bytes.load());
    const std::uint64_t fits = std::clamp(origin_bytes, begin, end);
    aligned_buffer piece(std::min(end - begin, piece_bytes_max));
    // The part without a place first: nothing is written of a block that stays.
    for (const bool behind : {true, false}) {
        const std::uint64_t stop = behind ? end : fits;
        std::uint64_t at = behind ? fits : begin;
        while (at < stop) {
            const auto part = piece.span().first(std::min<std::uint64_t>(piece.size(), stop - at));
            UTHIN_TRY(engine_.data().read(data_offset(stored, at), part));
            if (behind && !is_zero(part)) {
                return false;
            }
            if (!behind) {
                UTHIN_TRY(origin.write(at, part));
            }
            at += part.size();
        }
    }
    return true;
}

result<std::uint64_t> volume_io::push_down(range<virtual_block> blocks, block_device& origin) {
    const io_ticket ticket = UTHIN_TRY(state_.tickets.take(io_kind::write));
    const std::uint64_t size = state_.size_bytes.load();
    std::vector<range<virtual_block>> stored;
    std::uint64_t kept = 0;
    for (virtual_block block = blocks.begin; block < blocks.end; ++block) {
        const auto found = UTHIN_TRY(lookup(block));
        // What a pool maps behind the volume's end nobody can see.
        const bool visible = block.value() < size / block_bytes_ + (size % block_bytes_ != 0);
        if (!found) {
            continue;
        }
        if (visible && !UTHIN_TRY(store_in_origin(block, found->block, origin, origin_end()))) {
            ++kept;
            continue;
        }
        if (!stored.empty() && stored.back().end == block) {
            stored.back().end = block + 1;
        } else {
            stored.push_back({block, block + 1});
        }
    }
    if (stored.empty()) {
        return kept;
    }
    // ORDER: OM1. The origin is durable before the blocks that hide it go: until the commit that
    // unmaps them they are what the volume shows, afterwards the origin shows the same.
    UTHIN_TRY(origin.flush());
    for (const range<virtual_block>& run : stored) {
        UTHIN_TRY(remove_blocks(run));
    }
    return kept;
}

}  // namespace uthin::pool_engine
