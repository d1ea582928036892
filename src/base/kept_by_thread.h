// One T of each thread's own, made at its first use: memory that it keeps for the next time.
//
// Threads   Any; the object is the calling thread's alone.
#pragma once

namespace uthin {

// Null once the thread's objects are gone: what has static life is dropped after them.
template <class T>
[[nodiscard]] T* kept_by_thread() {
    thread_local bool gone = false;
    struct holder {
        explicit holder(bool& flag) : gone_flag(flag) {}
        ~holder() { gone_flag = true; }
        holder(const holder&) = delete;
        holder& operator=(const holder&) = delete;
        bool& gone_flag;
        T kept;
    };
    if (gone) {
        return nullptr;
    }
    thread_local holder held(gone);
    return &held.kept;
}

}  // namespace uthin
