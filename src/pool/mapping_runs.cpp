#include "pool/mapping_runs.h"

#include <algorithm>
#include <bit>

#include "base/interleaving.h"
#include "pool/versioned_line.h"

namespace uthin::pool_engine {

namespace {

using versioned_line::epoch_high;
using versioned_line::epoch_low;

constexpr std::uint64_t base_mask = (1ULL << 41) - 1;
constexpr std::uint64_t valid_bit = 1ULL << 41;
constexpr std::uint64_t known_mask = (1ULL << 32) - 1;

}  // namespace

mapping_runs::mapping_runs(std::uint64_t lines, std::uint32_t unit_bits) : unit_bits_(unit_bits) {
    const std::uint64_t count = std::bit_ceil(std::max<std::uint64_t>(1, lines));
    line_mask_ = count - 1;
    lines_ = std::make_unique<line[]>(count);
}

std::uint64_t mapping_runs::first_word(virtual_block block, std::uint64_t epoch) const {
    return group_of(block) << 16 | epoch_low(epoch);
}

std::uint64_t mapping_runs::second_word(virtual_block block, data_block mapped_to,
                                        std::uint64_t epoch) const {
    const std::uint64_t base = mapped_to.value() + (span() - 1) - index_of(block);
    return (base & base_mask) | valid_bit | epoch_high(epoch);
}

std::uint64_t mapping_runs::bit_of(virtual_block block, bool shared) const {
    const std::uint64_t known = 1ULL << unit_of(block);
    return known | (shared ? known << 32 : 0);
}

// Memory orders: as mapping_cache::find_single(), with one word more.
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
    const std::uint64_t unit = unit_of(block);
    for (const run& one : where.runs) {
        const std::uint64_t first = one.first.load(std::memory_order_acquire);
        interleaving_point();
        if (first != wanted) {
            continue;
        }
        const std::uint64_t second = one.second.load(std::memory_order_acquire);
        const std::uint64_t bits = one.bits.load(std::memory_order_acquire);
        if ((second & ~base_mask) != (valid_bit | epoch_high(epoch)) || (bits >> unit & 1) == 0) {
            continue;
        }
        interleaving_point();
        if (where.version.load(std::memory_order_relaxed) != version) {
            break;
        }
        return lookup_result{data_block((second & base_mask) + index_of(block) - (span() - 1)),
                             (bits >> (unit + 32) & 1) != 0};
    }
    return std::nullopt;
}

mapping_runs::kept mapping_runs::add(line& where, virtual_block block, std::uint64_t epoch,
                                     const lookup_result& mapping) {
    const std::uint64_t first = first_word(block, epoch);
    const std::uint64_t second = second_word(block, mapping.block, epoch);
    for (run& one : where.runs) {
        if (one.first.load(std::memory_order_relaxed) != first ||
            one.second.load(std::memory_order_relaxed) != second) {
            continue;
        }
        const std::uint64_t bits =
            (one.bits.load(std::memory_order_relaxed) & ~bit_of(block, true)) |
            bit_of(block, mapping.shared);
        one.bits.store(bits, std::memory_order_release);
        return bits == known_mask || bits == UINT64_MAX ? kept::whole : kept::yes;
    }
    return kept::no;
}

// A dead or empty run, else the shorter one as soon as as many wanted its place as it has units.
mapping_runs::run* mapping_runs::victim(line& where, std::uint64_t epoch) {
    run* shortest = nullptr;
    int units_least = 0;
    for (run& one : where.runs) {
        const std::uint64_t first = one.first.load(std::memory_order_relaxed);
        const std::uint64_t second = one.second.load(std::memory_order_relaxed);
        const int units = std::popcount(one.bits.load(std::memory_order_relaxed) & known_mask);
        const bool alive = epoch_low(first) == epoch_low(epoch) &&
                           (second & ~base_mask) == (valid_bit | epoch_high(epoch));
        if (!alive || units == 0) {
            return &one;
        }
        if (shortest == nullptr || units < units_least) {
            shortest = &one;
            units_least = units;
        }
    }
    if (++where.contenders < static_cast<std::uint64_t>(units_least)) {
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
        if (one.first.load(std::memory_order_relaxed) >> 16 == group_of(block)) {
            one.bits.store(one.bits.load(std::memory_order_relaxed) & ~bit_of(block, true),
                           std::memory_order_release);
        }
    }
}

mapping_runs::kept mapping_runs::fill(virtual_block block, std::uint64_t epoch,
                                      std::uint64_t& version, const lookup_result& mapping) {
    line& where = line_of(block);
    if (!versioned_line::try_hold(where.version, version)) {
        return kept::no;
    }
    const kept how = add(where, block, epoch, mapping);
    versioned_line::release(where.version);
    version += 2;
    return how;
}

bool mapping_runs::start(virtual_block block, std::uint64_t epoch, std::uint64_t& version,
                         const lookup_result& mapping) {
    line& where = line_of(block);
    if (!versioned_line::try_hold(where.version, version)) {
        return false;
    }
    const bool begun = begin(where, block, epoch, mapping);
    versioned_line::release(where.version);
    version += 2;
    return begun;
}

mapping_runs::kept mapping_runs::put(virtual_block block, std::uint64_t epoch,
                                     const lookup_result& mapping, bool starts) {
    line& where = line_of(block);
    versioned_line::hold(where.version);
    forget(where, block);
    kept how = add(where, block, epoch, mapping);
    if (how == kept::no && starts && begin(where, block, epoch, mapping)) {
        how = kept::yes;
    }
    versioned_line::release(where.version);
    return how;
}

void mapping_runs::invalidate(virtual_block block) {
    line& where = line_of(block);
    versioned_line::hold(where.version);
    forget(where, block);
    versioned_line::release(where.version);
}

}  // namespace uthin::pool_engine
