#include "pool/deletion.h"

#include "base/out_of_memory.h"
#include "pool/engine.h"
#include "pool/removal_slice.h"

namespace uthin::pool_engine {

// Empties the rest of the device by a slice; true when nothing is left.
result<bool> deletion::remove_slice() {
    metadata& metadata = engine_.metadata();
    const virtual_block end(UINT64_MAX);
    removal_slice slice(engine_);
    do {
        next_ = UTHIN_TRY(metadata.remove_some(*device_, {next_, end}, slice.step_blocks()));
        engine_.changed(true);
    } while (!slice.is_over() && next_ != end);
    const std::uint64_t left = UTHIN_TRY(metadata.mapped_count(*device_));
    {
        lock_guard held(status_lock_);
        status_.blocks_left = left;
    }
    return next_ == end;
}

work::next deletion::run() {
    metadata& metadata = engine_.metadata();
    if (auto allowed = engine_.may_delete(); !allowed) {
        return stop(std::move(allowed).error());
    }
    if (engine_.stopping()) {
        return stop(error(error_code::cancelled, "the pool is being closed"));
    }
    if (device_ == nullptr) {
        // Asked again: an opening may have been under way when the deletion was begun. From here on
        // openings, which run on the executor too, see that it is running.
        if (engine_.find_open(id_) != nullptr) {
            return stop(error(error_code::busy, "the device is open"));
        }
        auto opened = metadata.open_device(id_);
        if (!opened) {
            return engine_.refuse(*this, std::move(opened).error());
        }
        device_ = *opened;
        era_ = engine_.era();
        return next::again;  // from here on it is background work
    }
    if (era_ != engine_.era()) {
        return stop(error(error_code::io_error, "the transaction was aborted"));
    }
    auto empty = or_out_of_memory([this] { return remove_slice(); });
    if (!empty) {
        if (empty.error().code() == error_code::out_of_memory) {
            engine_.ran_out_of_memory();
        } else {
            static_cast<void>(engine_.refuse(*this, empty.error()));
        }
        return stop(std::move(empty).error());
    }
    if (!*empty) {
        return next::again;
    }
    metadata.close_device(device_);
    device_ = nullptr;
    if (auto gone = metadata.delete_thin(id_); !gone) {
        return engine_.refuse(*this, std::move(gone).error());
    }
    engine_.changed(true);
    engine_.shares().all_changed();
    wants_commit_ = true;
    return next::done;
}

work::next deletion::stop(error why) {
    if (device_ != nullptr) {
        engine_.metadata().close_device(device_);
        device_ = nullptr;
    }
    set_outcome(std::unexpected(std::move(why)));
    return next::done;
}

void deletion::finish() {
    if (device_ != nullptr) {
        // Another request broke the batch in which this one opened it.
        engine_.metadata().close_device(device_);
        device_ = nullptr;
    }
    work::finish();
    const std::shared_ptr<deletion> last = std::move(self_);
    lock_guard held(status_lock_);
    status_.id = id_;
    status_.done = true;
    if (!outcome()) {
        status_.failure = out_of_memory().error();
        if_memory_allows([this]()
                             NO_THREAD_SAFETY_ANALYSIS { status_.failure = outcome().error(); });
    } else {
        status_.blocks_left = 0;
    }
    ended_.notify_all();
}

deletion_status deletion::status() const {
    lock_guard held(status_lock_);
    deletion_status copy = status_;
    copy.id = id_;
    return copy;
}

bool deletion::running() const {
    lock_guard held(status_lock_);
    return !status_.done;
}

result<void> deletion::wait() {
    lock_guard held(status_lock_);
    while (!status_.done) {
        ended_.wait(status_lock_);
    }
    if (status_.failure) {
        return std::unexpected(*status_.failure);
    }
    return {};
}

}  // namespace uthin::pool_engine
