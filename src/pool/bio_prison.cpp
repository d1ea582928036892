#include "pool/bio_prison.h"

#include <new>

namespace uthin::pool_engine {

bio_prison::cells::cells(bio_prison& prison, device_id device, virtual_block first,
                         std::uint64_t count_max)
    : prison_(prison), device_(device), first_(first) {
    try {
        while (count_ < count_max && prison_.try_take({device_.value(), first_.value() + count_})) {
            ++count_;
        }
    } catch (const std::bad_alloc&) {
        keep(0);
        throw;
    }
    if (count_ == 0) {
        prison_.wait({device_.value(), first_.value()});
    }
}

bio_prison::cells::~cells() {
    keep(0);
}

void bio_prison::cells::keep(std::uint64_t count) {
    while (count_ > count) {
        --count_;
        prison_.release({device_.value(), first_.value() + count_});
    }
}

bool bio_prison::try_take(const key& cell) {
    shard& where = shard_of(cell);
    lock_guard held(where.lock);
    return where.held.insert(cell).second;
}

void bio_prison::wait(const key& cell) {
    shard& where = shard_of(cell);
    lock_guard held(where.lock);
    while (where.held.contains(cell)) {
        where.released.wait(where.lock);
    }
}

void bio_prison::release(const key& cell) {
    shard& where = shard_of(cell);
    lock_guard held(where.lock);
    where.held.erase(cell);
    where.released.notify_all();
}

}  // namespace uthin::pool_engine
