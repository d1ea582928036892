#include "io/range_lock.h"

#include <algorithm>

namespace uthin::io {

void range_lock::acquire(const guard::entry& wanted) {
    const lock_guard held(lock_);
    const auto conflicts = [&wanted](const guard::entry& other) {
        return other.begin_bytes < wanted.end_bytes && wanted.begin_bytes < other.end_bytes &&
               (other.exclusive || wanted.exclusive);
    };
    while (std::any_of(held_.begin(), held_.end(), conflicts)) {
        released_.wait(lock_);
    }
    held_.push_back(wanted);
}

void range_lock::release(const guard::entry& entry) {
    const lock_guard held(lock_);
    const auto found = std::find(held_.begin(), held_.end(), entry);
    *found = held_.back();
    held_.pop_back();
    released_.notify_all();
}

}  // namespace uthin::io
