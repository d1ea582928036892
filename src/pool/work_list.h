// A queue of objects that are linked through themselves: whoever waits for the executor is taken
// in, moved and let go without memory being asked for.
//
// Invariants
//   WL1  An object is in at most one list at a time; it outlives its stay.
// Threads   One at a time.
// Failures  None.
#pragma once

#include <cstddef>
#include <utility>

#include "base/assert.h"

namespace uthin::pool_engine {

// T has a member `T* following_`, null outside of lists.
template <class T>
class work_list {
public:
    work_list() = default;
    work_list(const work_list&) = delete;
    work_list& operator=(const work_list&) = delete;

    [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

    void push_back(T& one) noexcept {
        UTHIN_ASSERT(one.following_ == nullptr && &one != last_);
        (last_ == nullptr ? first_ : last_->following_) = &one;
        last_ = &one;
        ++size_;
    }
    // Of a list that is not empty.
    T& pop_front() noexcept {
        T& one = *first_;
        first_ = std::exchange(one.following_, nullptr);
        last_ = first_ == nullptr ? nullptr : last_;
        --size_;
        return one;
    }
    // All of `other`, behind what is here.
    void take_all(work_list& other) noexcept {
        while (!other.empty()) {
            push_back(other.pop_front());
        }
    }
    template <class Fn>
    void for_each(const Fn& fn) {
        for (T* one = first_; one != nullptr; one = one->following_) {
            fn(*one);
        }
    }

private:
    T* first_ = nullptr;
    T* last_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace uthin::pool_engine
