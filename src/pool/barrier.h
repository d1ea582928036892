// A request that needs the client requests of some volumes to have ended: snapshots, rollback,
// shrinking.
//
// It closes the doors of the volumes, lets the executor go on with other work (which the requests
// in flight may need) until their tickets have ended, acts, and opens the doors when the change is
// published: not when it is durable.
//
// Invariants
//   BA1  act() runs while no ticket of the kinds waited for exists in any of the volumes, whichever
//        were opened or closed meanwhile.
//   BA2  Whoever passes a door afterwards finds no mapping in the volume's cache that was stored
//        before act().
// Threads   The executor.
// Failures  Those of act().
#pragma once

#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "pool/engine.h"

namespace uthin::pool_engine {

class barrier : public work {
public:
    barrier(engine& owner, std::vector<device_id> devices, bool reads_too)
        : engine_(owner), devices_(std::move(devices)), reads_too_(reads_too) {}

    [[nodiscard]] next run() final {
        for (const device_id id : devices_) {
            auto state = engine_.find_open(id);
            if (state != nullptr &&
                std::find(closed_.begin(), closed_.end(), state) == closed_.end()) {
                remember(std::move(state));
                closed_.back()->tickets.close_door(reads_too_);
            }
        }
        for (const auto& state : closed_) {
            if (!state->tickets.drained(reads_too_)) {
                return next::blocked;
            }
        }
        acted_ = true;
        return act();
    }

    // ORDER: BA2. Published first, then the caches die, then the doors open.
    void published() final {
        if (!acted_) {
            return;
        }
        for (const auto& state : closed_) {
            renew(state->cache);
            state->tickets.open_door(reads_too_);
        }
        closed_.clear();
    }

protected:
    // Never next::blocked or next::space.
    [[nodiscard]] virtual next act() = 0;
    // BA2.
    virtual void renew(mapping_cache& cache) { cache.advance_epoch(); }

    engine& engine_;

private:
    void remember(std::shared_ptr<volume_state> state) {
        try {
            closed_.push_back(std::move(state));
        } catch (const std::bad_alloc&) {
            acted_ = true;  // as far as it ever will: the doors closed so far are opened
            throw;
        }
    }

    const std::vector<device_id> devices_;
    const bool reads_too_;
    bool acted_ = false;
    std::vector<std::shared_ptr<volume_state>> closed_;
};

}  // namespace uthin::pool_engine
