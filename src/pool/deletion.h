// A device that is emptied in slices and then deleted.
//
// Invariants
//   DL1  A crash at any point leaves a smaller device; a new deletion goes on from there.
// Threads   run, finish: the executor. status, wait: any.
// Failures  status().failure; the device stays, closed.
#pragma once

#include <memory>
#include <optional>

#include "base/mutex.h"
#include "pool/executor.h"
#include "uthin/pool.h"

namespace uthin::pool_engine {

class engine;

class deletion final : public work {
public:
    deletion(engine& owner, device_id id) : engine_(owner), id_(id) {}

    [[nodiscard]] next run() override;
    void finish() override;

    [[nodiscard]] deletion_status status() const;
    [[nodiscard]] bool running() const;
    // Keeps itself alive until the executor is through with it.
    void keep(std::shared_ptr<deletion> self) { self_ = std::move(self); }
    [[nodiscard]] result<void> wait();

private:
    [[nodiscard]] next stop(error why);
    [[nodiscard]] result<bool> remove_slice();

    engine& engine_;
    const device_id id_;
    // Executor only.
    thin_device* device_ = nullptr;
    virtual_block next_{0};
    std::uint64_t era_ = 0;
    std::shared_ptr<deletion> self_;

    mutable mutex status_lock_;
    condition ended_;
    deletion_status status_ GUARDED_BY(status_lock_);
};

}  // namespace uthin::pool_engine
