#include "pool/origin_job.h"

#include <utility>

#include "base/out_of_memory.h"

namespace uthin {

origin_job::origin_job(origin_job_info begun, device_id target,
                       std::unique_ptr<pool_engine::origin_mover> mover,
                       std::shared_ptr<block_device> origin,
                       pool_engine::origin_mover::finish_function finish)
    : target_(target),
      mover_(std::move(mover)),
      origin_(std::move(origin)),
      finish_(std::move(finish)),
      running_(true),
      info_(std::move(begun)) {
}

origin_job::origin_job(origin_job_info begun, device_id target, const error& cause)
    : target_(target), running_(false), info_(std::move(begun)) {
    const lock_guard held(lock_);
    info_.state = "failed";
    info_.failure = cause.to_string();
}

result<void> origin_job::start() {
    auto started = thread_.start([this] {
        if (const auto ran = or_out_of_memory([this] { return run({}); });
            !ran && ran.error().code() == error_code::out_of_memory) {
            end("failed", "out of memory");
        }
    });
    if (!started) {
        end("failed", started.error().to_string());
    }
    return started;
}

result<void> origin_job::run(const std::function<void()>& between) {
    while (!stop_.load()) {
        auto done = mover_->step(finish_);
        if (!done) {
            end("failed", done.error().to_string());
            return std::unexpected(std::move(done).error());
        }
        if (*done) {
            end("done", {});
            return {};
        }
        if (const auto left = mover_->bytes_left()) {
            const lock_guard held(lock_);
            info_.left_bytes = *left;
        }
        if (between) {
            between();
        }
    }
    end("stopped", {});
    return {};
}

void origin_job::end(std::string state, std::string failure) {
    mover_.reset();
    origin_.reset();
    {
        const lock_guard held(lock_);
        if (state == "done") {
            info_.left_bytes = 0;
        }
        info_.state = std::move(state);
        info_.failure = std::move(failure);
    }
    running_.store(false);
}

void origin_job::stop() {
    stop_.store(true);
    thread_.join();
}

origin_job_info origin_job::info() const {
    const lock_guard held(lock_);
    return info_;
}

}  // namespace uthin
