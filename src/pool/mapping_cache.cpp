#include "pool/mapping_cache.h"

#include <algorithm>
#include <bit>

#include "base/interleaving.h"
#include "pool/versioned_line.h"

namespace uthin::pool_engine {

namespace {

using versioned_line::epoch_high;
using versioned_line::epoch_low;
using versioned_line::virtual_block_limit;

constexpr std::uint64_t data_block_mask = (1ULL << 40) - 1;
constexpr std::uint64_t shared_bit = 1ULL << 40;
constexpr std::uint64_t valid_bit = 1ULL << 41;

constexpr std::uint64_t first_word(virtual_block block, std::uint64_t epoch) {
    return block.value() << 16 | epoch_low(epoch);
}

constexpr std::uint64_t runs_part = 8;

}  // namespace

mapping_cache::mapping_cache(std::uint32_t entries)
    : runs_(entries / runs_part, 0),
      long_runs_(entries / runs_part >> mapping_runs::run_bits, mapping_runs::run_bits) {
    const std::uint64_t sets = std::bit_ceil(std::max<std::uint64_t>(1, entries / ways));
    set_mask_ = sets - 1;
    sets_ = std::make_unique<set[]>(sets);
}

bool mapping_cache::matches(std::uint64_t first, std::uint64_t second, virtual_block block,
                            std::uint64_t epoch) {
    constexpr std::uint64_t not_epoch = data_block_mask | shared_bit | valid_bit;
    return first == first_word(block, epoch) && (second & valid_bit) != 0 &&
           (second & ~not_epoch) == epoch_high(epoch);
}

// Memory orders. A writer makes the version odd (acquire RMW), stores the words with release, and
// makes it even with release. A reader loads the version and the words with acquire, then the
// version again. If it saw a word of some writer, that writer's odd version happens before the
// second load, which then differs from the first: a torn pair is never used. The epoch is loaded
// before them, with acquire: it pairs with the release in advance_epoch(), so who sees the new
// epoch also sees the published change that it stands for, and an entry stored under an older epoch
// can not match.
std::optional<lookup_result> mapping_cache::find(virtual_block block, miss& on_miss) const {
    // ORDER: MC4. Before the epoch and the entries: who reads 0 because the executor has told what
    // he did sees it.
    if ((expected_.load(std::memory_order_acquire) >> block.value() % 64 & 1) != 0) {
        on_miss.long_run_version = on_miss.run_version = on_miss.version = 1;  // fill() will refuse
        return std::nullopt;
    }
    interleaving_point();
    on_miss.epoch = epoch_.load(std::memory_order_acquire);
    if (const auto found = long_runs_.find(block, on_miss.epoch, on_miss.long_run_version)) {
        return found;
    }
    if (const auto found = runs_.find(block, on_miss.epoch, on_miss.run_version)) {
        return found;
    }
    return find_single(block, on_miss.epoch, on_miss.version);
}

std::optional<lookup_result> mapping_cache::find_single(virtual_block block, std::uint64_t epoch,
                                                        std::uint64_t& version) const {
    const set& where = set_of(block);
    interleaving_point();
    version = where.version.load(std::memory_order_acquire);
    if ((version & 1) != 0 || block.value() >= virtual_block_limit) {
        version |= 1;  // fill() will refuse
        return std::nullopt;
    }
    const std::uint64_t wanted = first_word(block, epoch);
    for (const entry& one : where.entries) {
        const std::uint64_t first = one.first.load(std::memory_order_acquire);
        interleaving_point();
        if (first != wanted) {
            continue;
        }
        const std::uint64_t second = one.second.load(std::memory_order_acquire);
        if (matches(first, second, block, epoch)) {
            interleaving_point();
            if (where.version.load(std::memory_order_relaxed) != version) {
                break;
            }
            return lookup_result{data_block(second & data_block_mask), (second & shared_bit) != 0};
        }
    }
    return std::nullopt;
}

// Only a hint: what it says may be over when the caller uses it.
bool mapping_cache::continues(virtual_block block, std::int64_t step, std::uint64_t epoch,
                              const lookup_result& mapping) const {
    const auto distance = static_cast<std::uint64_t>(step);  // -1 wraps to what it should
    const virtual_block neighbour(block.value() + distance);
    std::uint64_t unused = 0;
    auto found = runs_.find(neighbour, epoch, unused);
    if (!found) {
        found = find_single(neighbour, epoch, unused);
    }
    return found && found->block.value() == mapping.block.value() + distance;
}

void mapping_cache::store(entry& where, virtual_block block, const lookup_result& mapping,
                          std::uint64_t epoch) {
    const std::uint64_t second = (mapping.block.value() & data_block_mask) |
                                 (mapping.shared ? shared_bit : 0) | valid_bit | epoch_high(epoch);
    where.first.store(first_word(block, epoch), std::memory_order_release);
    interleaving_point();
    where.second.store(second, std::memory_order_release);
}

// The block's own entry, else a dead one, else they take turns.
mapping_cache::entry& mapping_cache::victim(set& where, virtual_block block, std::uint64_t epoch) {
    entry* dead = nullptr;
    for (entry& one : where.entries) {
        const std::uint64_t first = one.first.load(std::memory_order_relaxed);
        const std::uint64_t second = one.second.load(std::memory_order_relaxed);
        if (first >> 16 == block.value()) {
            return one;
        }
        if (!matches(first, second, virtual_block(first >> 16), epoch)) {
            dead = &one;
        }
    }
    if (dead != nullptr) {
        return *dead;
    }
    return where.entries[(where.version.load(std::memory_order_relaxed) >> 1) % ways];
}

// Refused when a line changed since the miss: by an invalidation (then the mapping may be old) or
// by another fill (then we lose a little).
void mapping_cache::fill(virtual_block block, const miss& from, const lookup_result& mapping) {
    std::uint64_t run_version = from.run_version;
    auto in_run = runs_.fill(block, from.epoch, run_version, mapping);
    if (in_run == mapping_runs::kept::no &&
        (continues(block, -1, from.epoch, mapping) || continues(block, 1, from.epoch, mapping)) &&
        runs_.start(block, from.epoch, run_version, mapping)) {
        in_run = mapping_runs::kept::yes;
    }
    for (const std::int64_t step : {-1, 1}) {
        if (in_run == mapping_runs::kept::yes) {
            in_run = gather(block, step, from.epoch, run_version, mapping);
        }
    }
    if (in_run == mapping_runs::kept::whole) {
        // ORDER: MC3.
        std::uint64_t version = from.long_run_version;
        if (long_runs_.fill(block, from.epoch, version, mapping) == mapping_runs::kept::no) {
            static_cast<void>(long_runs_.start(block, from.epoch, version, mapping));
        }
    }
    if (in_run != mapping_runs::kept::no) {
        return;
    }
    set& where = set_of(block);
    if (!versioned_line::try_hold(where.version, from.version)) {
        return;
    }
    store(victim(where, block, from.epoch), block, mapping, from.epoch);
    versioned_line::release(where.version);
}

// ORDER: MC3. `run_version` is of before the single mappings are looked at.
mapping_runs::kept mapping_cache::gather(virtual_block block, std::int64_t step,
                                         std::uint64_t epoch, std::uint64_t& run_version,
                                         const lookup_result& mapping) {
    const std::uint64_t run = block.value() >> mapping_runs::run_bits;
    for (std::uint64_t distance = 1;; ++distance) {
        const std::uint64_t away = static_cast<std::uint64_t>(step) * distance;  // wraps below 0
        const virtual_block next(block.value() + away);
        std::uint64_t unused = 0;
        if (next.value() >> mapping_runs::run_bits != run) {
            return mapping_runs::kept::yes;
        }
        const auto single = find_single(next, epoch, unused);
        if (!single || single->block.value() != mapping.block.value() + away) {
            return mapping_runs::kept::yes;
        }
        const auto in_run = runs_.fill(next, epoch, run_version, *single);
        if (in_run != mapping_runs::kept::yes) {
            return in_run == mapping_runs::kept::whole ? in_run : mapping_runs::kept::yes;
        }
    }
}

void mapping_cache::put(virtual_block block, const lookup_result& mapping) {
    if (block.value() >= virtual_block_limit) {
        return;
    }
    const std::uint64_t epoch = epoch_.load(std::memory_order_relaxed);  // only we store it
    const bool starts = continues(block, -1, epoch, mapping);
    // ORDER: MC3. Until it is released nobody finds what the set holds.
    set& where = set_of(block);
    versioned_line::hold(where.version);
    const auto in_run = runs_.put(block, epoch, mapping, starts);
    if (in_run == mapping_runs::kept::whole) {
        static_cast<void>(long_runs_.put(block, epoch, mapping, true));
    } else {
        long_runs_.invalidate(block);
    }
    if (in_run != mapping_runs::kept::no) {
        remove(where, block);
    } else {
        store(victim(where, block, epoch), block, mapping, epoch);
    }
    versioned_line::release(where.version);
}

void mapping_cache::remove(set& where, virtual_block block) {
    for (entry& one : where.entries) {
        if (one.first.load(std::memory_order_relaxed) >> 16 == block.value()) {
            one.second.store(0, std::memory_order_release);
        }
    }
}

void mapping_cache::invalidate(virtual_block block) {
    set& where = set_of(block);
    versioned_line::hold(where.version);
    remove(where, block);
    versioned_line::release(where.version);
    runs_.invalidate(block);       // ORDER: MC3
    long_runs_.invalidate(block);  // ORDER: MC3
}

void mapping_cache::invalidate(range<virtual_block> blocks) {
    if (blocks.count() > set_mask_ / 8) {
        advance_epoch();
        return;
    }
    for (virtual_block block = blocks.begin; block < blocks.end; ++block) {
        invalidate(block);
    }
}

// The publication that follows releases it, and told() what was told.
void mapping_cache::expect(range<virtual_block> blocks) {
    std::uint64_t bits = blocks.count() >= 64 ? UINT64_MAX : 0;
    for (virtual_block block = blocks.begin; bits != UINT64_MAX && block < blocks.end; ++block) {
        bits |= 1ULL << block.value() % 64;
    }
    expected_.fetch_or(bits, std::memory_order_seq_cst);
    interleaving_point();
}

void mapping_cache::told() {
    interleaving_point();
    expected_.store(0, std::memory_order_release);
}

void mapping_cache::advance_epoch() {
    interleaving_point();
    epoch_.fetch_add(1, std::memory_order_acq_rel);
}

}  // namespace uthin::pool_engine
