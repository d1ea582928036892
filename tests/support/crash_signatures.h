// Tells crash states apart without building them, so that none is checked twice.
//
// Threads   One.
#pragma once

#include <cstdint>
#include <unordered_set>

#include "io/crash_device.h"

namespace uthin::test {

class crash_signatures {
public:
    // In the order of the history, each operation that lies before the next cut.
    void completed(const io::recorded_operation& operation);
    // False when a state of the same bytes was seen under the same `duties` (what the state must
    // hold). `in_flight`: the operation at the cut, null when it is a flush or there is none.
    [[nodiscard]] bool is_new(const io::power_cut& cut, const io::crash_choice& choice,
                              const io::recorded_operation* in_flight, std::uint64_t duties);

private:
    std::uint64_t written_before_ = 0;
    std::unordered_set<std::uint64_t> seen_;
};

}  // namespace uthin::test
