// Holds the writes to a range of a volume's blocks back while a background worker moves it between
// the volume and its external origin.
//
// Invariants
//   WG1  While a hold exists no pass overlaps it: no client writes, zeroes or discards there.
//   WG2  A pass that was made while the gate was shut off counts for nothing; after the gate was
//        put to work behind a barrier every writer finds out by stale() and gets a new one.
//   WG3  Who waits for a pass holds neither ticket, pin nor cell.
// Threads   Any. At most one hold at a time.
// Failures  None.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "uthin/units.h"

namespace uthin::pool_engine {

class write_gate {
public:
    // For the whole of a request, from before its ticket until after it.
    class pass {
    public:
        pass(write_gate& gate, range<virtual_block> blocks);
        ~pass();
        pass(const pass&) = delete;
        pass& operator=(const pass&) = delete;
        // Asked under the ticket: true when the gate was put to work since.
        [[nodiscard]] bool stale() const noexcept { return !counted_ && gate_.working(); }

    private:
        write_gate& gate_;
        const range<virtual_block> blocks_;
        bool counted_ = false;
    };
    class hold {
    public:
        // Waits for the passes that overlap; new ones wait from now on.
        hold(write_gate& gate, range<virtual_block> blocks);
        ~hold();
        hold(const hold&) = delete;
        hold& operator=(const hold&) = delete;

    private:
        write_gate& gate_;
    };

    [[nodiscard]] bool working() const noexcept { return working_.load(); }
    // False: it works already. While no write ticket exists (a barrier).
    [[nodiscard]] bool put_to_work();
    void shut_off();

    // Under a pass: these blocks are unmapped now.
    void note_discard(range<virtual_block> blocks);
    // Everything between the lowest and the highest block noted since the last call.
    [[nodiscard]] range<virtual_block> take_discards();

private:
    [[nodiscard]] bool is_held(range<virtual_block> blocks) const REQUIRES(lock_);
    [[nodiscard]] bool is_passed(range<virtual_block> blocks) const REQUIRES(lock_);

    std::atomic<bool> working_{false};
    mutex lock_;
    condition changed_;
    std::vector<range<virtual_block>> passes_ GUARDED_BY(lock_);
    std::optional<range<virtual_block>> held_ GUARDED_BY(lock_);
    range<virtual_block> discarded_ GUARDED_BY(lock_){};
};

}  // namespace uthin::pool_engine
