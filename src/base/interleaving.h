// Marks the places in lock-free code between which another thread may do something that matters.
// The build variant UTHIN_SCHEDULES tries that out (base/scheduled.h); everywhere else it is
// nothing.
//
// Threads   Any.
#pragma once

#if defined(UTHIN_SCHEDULES)
#include "base/scheduled.h"
#endif

namespace uthin {

inline void interleaving_point() noexcept {
#if defined(UTHIN_SCHEDULES)
    scheduled::point();
#endif
}

}  // namespace uthin
