#include "pool/mapping_runs.h"

#include <algorithm>
#include <bit>

#include "base/interleaving.h"
#include "pool/versioned_line.h"

namespace uthin::pool_engine {

namespace {

constexpr std::uint64_t run_blocks = 32;
constexpr std::uint64_t index_mask = run_blocks - 1;
constexpr std::uint64_t base_mask = (1ULL << 41) - 1;
constexpr std::uint64_t valid_bit = 1ULL << 41;
constexpr std::uint64_t known_mask = (1ULL << 32) - 1;

constexpr std::uint64_t index_of(virtual_block block) {
    return block.value() & index_mask;
}

constexpr std::uint64_t first_word(virtual_block block, std::uint64_t epoch) {
    return block.value() / run_blocks << 16 | versioned_line::epoch_low(epoch);
}

constexpr std::uint64_t second_word(virtual_block block, data_block mapped_to,
                                    std::uint64_t epoch) {
    const std::uint64_t base = mapped_to.value() + index_mask - index_of(block);
    return (base & base_mask) | valid_bit | versioned_line::epoch_high(epoch);
}

constexpr std::uint64_t bit_of(virtual_block block, bool shared) {
    const std::uint64_t known = 1ULL << index_of(block);
    return known | (shared ? known << 32 : 0);
}

}  // namespace

mapping_runs::mapping_runs(std::uint64_t lines) {
    const std::uint64_t count = std::bit_ceil(std::max<std::uint64_t>(1, lines));
    line_mask_ = count - 1;
    lines_ = std::make_unique<line[]>(count);
}

// Memory orders: as mapping_cache::find(), with one word more.
std::optional<lookup_result> mapping_runs::find(virtual_block block, std::uint64_t epoch,
                                                std::uint64_t& version) const {
    const line& where = line_of(block);
    interleaving_point();
    version = where.version.load(std::memory_order_acquire);
    if ((version & 1) != 0 || block.value() >= versioned_line::virtual_block_limit) {
        version |= 1;  // fill() and start() will refuse
        return std::nullopt;
    }
    const std::uint64_t wanted = first_word(block, epoch);
    for (const run& one : where.runs) {
        const std::uint64_t first = one.first.load(std::memory_order_acquire);
        interleaving_point();
        if (first != wanted) {
            continue;
        }
        const std::uint64_t second = one.second.load(std::memory_order_acquire);
        const std::uint64_t bits = one.bits.load(std::memory_order_acquire);
        if ((second & ~base_mask) != (valid_bit | versioned_line::epoch_high(epoch)) ||
            (bits >> index_of(block) & 1) == 0) {
            continue;
        }
        interleaving_point();
        if (where.version.load(std::memory_order_relaxed) != version) {
            break;
        }
        return lookup_result{data_block((second & base_mask) + index_of(block) - index_mask),
                             (bits >> (index_of(block) + 32) & 1) != 0};
    }
    return std::nullopt;
}

bool mapping_runs::add(line& where, virtual_block block, std::uint64_t epoch,
                       const lookup_result& mapping) {
    const std::uint64_t first = first_word(block, epoch);
    const std::uint64_t second = second_word(block, mapping.block, epoch);
    const std::uint64_t both = bit_of(block, true);
    for (run& one : where.runs) {
        if (one.first.load(std::memory_order_relaxed) == first &&
            one.second.load(std::memory_order_relaxed) == second) {
            const std::uint64_t bits = one.bits.load(std::memory_order_relaxed);
            one.bits.store((bits & ~both) | bit_of(block, mapping.shared),
                           std::memory_order_release);
            return true;
        }
    }
    return false;
}

// A dead or empty run, else the shorter one as soon as as many wanted its place as it has blocks.
mapping_runs::run* mapping_runs::victim(line& where, std::uint64_t epoch) {
    run* shortest = nullptr;
    int blocks_least = 0;
    for (run& one : where.runs) {
        const std::uint64_t first = one.first.load(std::memory_order_relaxed);
        const std::uint64_t second = one.second.load(std::memory_order_relaxed);
        const int blocks = std::popcount(one.bits.load(std::memory_order_relaxed) & known_mask);
        const bool alive = versioned_line::epoch_low(first) == versioned_line::epoch_low(epoch) &&
                           (second & ~base_mask) == (valid_bit | versioned_line::epoch_high(epoch));
        if (!alive || blocks == 0) {
            return &one;
        }
        if (shortest == nullptr || blocks < blocks_least) {
            shortest = &one;
            blocks_least = blocks;
        }
    }
    if (++where.contenders < static_cast<std::uint64_t>(blocks_least)) {
        return nullptr;
    }
    where.contenders = 0;
    return shortest;
}

bool mapping_runs::begin(line& where, virtual_block block, std::uint64_t epoch,
                         const lookup_result& mapping) {
    run* const place = victim(where, epoch);
    if (place == nullptr) {
        return false;
    }
    place->first.store(first_word(block, epoch), std::memory_order_release);
    interleaving_point();
    place->second.store(second_word(block, mapping.block, epoch), std::memory_order_release);
    place->bits.store(bit_of(block, mapping.shared), std::memory_order_release);
    return true;
}

// In every run of the group, whatever its epoch.
void mapping_runs::forget(line& where, virtual_block block) {
    for (run& one : where.runs) {
        if (one.first.load(std::memory_order_relaxed) >> 16 == block.value() / run_blocks) {
            one.bits.store(one.bits.load(std::memory_order_relaxed) & ~bit_of(block, true),
                           std::memory_order_release);
        }
    }
}

bool mapping_runs::fill(virtual_block block, std::uint64_t epoch, std::uint64_t& version,
                        const lookup_result& mapping) {
    line& where = line_of(block);
    if (!versioned_line::try_hold(where.version, version)) {
        return false;
    }
    const bool kept = add(where, block, epoch, mapping);
    versioned_line::release(where.version);
    version += 2;
    return kept;
}

bool mapping_runs::start(virtual_block block, std::uint64_t epoch, std::uint64_t version,
                         const lookup_result& mapping) {
    line& where = line_of(block);
    if (!versioned_line::try_hold(where.version, version)) {
        return false;
    }
    const bool kept = begin(where, block, epoch, mapping);
    versioned_line::release(where.version);
    return kept;
}

bool mapping_runs::put(virtual_block block, std::uint64_t epoch, const lookup_result& mapping,
                       bool starts) {
    line& where = line_of(block);
    versioned_line::hold(where.version);
    forget(where, block);
    const bool kept =
        add(where, block, epoch, mapping) || (starts && begin(where, block, epoch, mapping));
    versioned_line::release(where.version);
    return kept;
}

void mapping_runs::invalidate(virtual_block block) {
    line& where = line_of(block);
    versioned_line::hold(where.version);
    forget(where, block);
    versioned_line::release(where.version);
}

}  // namespace uthin::pool_engine
