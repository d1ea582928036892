// A merge or a flattening on a thread of its own, or on the caller's.
//
// Threads   One owner; info() from any.
// Failures  They end up in info(): state failed, and the cause.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "base/mutex.h"
#include "base/thread.h"
#include "pool/origin_mover.h"
#include "pool/pool_service.h"

namespace uthin {

class origin_job {
public:
    // `origin`: what the mover writes to; kept as long as it.
    origin_job(origin_job_info begun, device_id target,
               std::unique_ptr<pool_engine::origin_mover> mover,
               std::shared_ptr<block_device> origin,
               pool_engine::origin_mover::finish_function finish);
    // One that could not begin.
    origin_job(origin_job_info begun, device_id target, const error& cause);
    ~origin_job() { stop(); }
    origin_job(const origin_job&) = delete;
    origin_job& operator=(const origin_job&) = delete;

    [[nodiscard]] result<void> start();
    // To its end, or until stop() is called; `between` after each step.
    [[nodiscard]] result<void> run(const std::function<void()>& between);
    // Waits for the step under way. What is done stays done.
    void stop();

    [[nodiscard]] origin_job_info info() const;
    [[nodiscard]] bool running() const { return running_.load(); }
    [[nodiscard]] device_id target() const noexcept { return target_; }

private:
    void end(std::string state, std::string failure);

    const device_id target_;
    std::unique_ptr<pool_engine::origin_mover> mover_;  // of the thread that runs
    std::shared_ptr<block_device> origin_;
    const pool_engine::origin_mover::finish_function finish_;
    std::atomic<bool> stop_{false};
    std::atomic<bool> running_;
    mutable mutex lock_;
    origin_job_info info_ GUARDED_BY(lock_);
    thread thread_;
};

}  // namespace uthin
