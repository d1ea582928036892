// Devices come and go: create, snapshot, delete, roll back, open, close.
#include <algorithm>

#include <fmt/format.h>

#include "pool/barrier.h"
#include "pool/deletion.h"
#include "pool/engine.h"

namespace uthin::pool_engine {

namespace {

std::unexpected<error> refuse_deleting(device_id id) {
    return fail(error_code::busy, fmt::format("device {} is being deleted", id.value()));
}

// All snapshots of one call, in one batch: published and committed together.
class snapshot_work final : public barrier {
public:
    snapshot_work(engine& owner, std::span<const snapshot_request> requests)
        : barrier(owner, origins(requests), false), requests_(requests) {
        wants_commit_ = true;
    }

private:
    [[nodiscard]] static std::vector<device_id> origins(
        std::span<const snapshot_request> requests) {
        std::vector<device_id> ids;
        for (const snapshot_request& one : requests) {
            ids.push_back(one.origin);
        }
        return ids;
    }

    [[nodiscard]] next act() override {
        if (auto allowed = engine_.may_change(); !allowed) {
            set_outcome(std::move(allowed));
            return next::done;
        }
        for (std::size_t made = 0; made < requests_.size(); ++made) {
            if (auto created = create(requests_[made]); !created) {
                // Told before undoing finds the transaction broken by it, which is no cause.
                static_cast<void>(engine_.refuse(*this, created.error()));
                undo(made);
                return engine_.refuse(*this, std::move(created).error());
            }
        }
        engine_.changed(false);
        engine_.count().snapshots.fetch_add(requests_.size(), std::memory_order_relaxed);
        return next::done;
    }

    [[nodiscard]] result<void> create(const snapshot_request& one) {
        if (engine_.is_being_deleted(one.origin)) {
            return refuse_deleting(one.origin);
        }
        return engine_.metadata().create_snap(one.id, one.origin);
    }

    // PO3 when a later one of the list was refused.
    void undo(std::size_t made) {
        while (made > 0) {
            --made;
            if (auto gone = engine_.metadata().delete_thin(requests_[made].id); !gone) {
                static_cast<void>(engine_.refuse(*this, std::move(gone).error()));
                return;
            }
            engine_.changed(true);
        }
    }

    const std::span<const snapshot_request> requests_;
};

class rollback_work final : public barrier {
public:
    rollback_work(engine& owner, device_id id, device_id source, device_id graveyard)
        : barrier(owner, {id, source}, true), id_(id), source_(source), graveyard_(graveyard) {
        wants_commit_ = true;
    }

private:
    [[nodiscard]] next act() override {
        if (auto allowed = engine_.may_change(); !allowed) {
            set_outcome(std::move(allowed));
            return next::done;
        }
        for (const device_id one : {id_, source_}) {
            if (engine_.is_being_deleted(one)) {
                set_outcome(refuse_deleting(one));
                return next::done;
            }
        }
        if (auto swapped = engine_.metadata().swap_root(id_, source_, graveyard_); !swapped) {
            return engine_.refuse(*this, std::move(swapped).error());
        }
        engine_.changed(true);
        engine_.shares().all_changed();
        // What was discarded of the old content says nothing about the new one.
        if (const auto state = engine_.find_open(id_)) {
            state->discarded_parts.clear();
        }
        return next::done;
    }

    const device_id id_;
    const device_id source_;
    const device_id graveyard_;
};

}  // namespace

result<void> engine::create_thin(device_id id) {
    UTHIN_TRY(alive());
    return run([&] { return metadata_->create_thin(id); }, {.commit = true});
}

result<void> engine::create_snapshots(std::span<const snapshot_request> requests) {
    UTHIN_TRY(alive());
    snapshot_work request(*this, requests);
    return executor_.execute(pool_queue_, request);
}

result<void> engine::delete_thin(device_id id) {
    UTHIN_TRY(alive());
    return run(
        [&]() -> result<void> {
            if (is_being_deleted(id)) {
                return refuse_deleting(id);
            }
            return metadata_->delete_thin(id);
        },
        {.needs = need::deleting, .commit = true});
}

result<void> engine::delete_in_background(device_id id) {
    UTHIN_TRY(alive());
    UTHIN_TRY(may_delete());
    UTHIN_TRY(metadata_->get_details(id));
    auto request = std::make_shared<deletion>(*this, id);
    {
        lock_guard held(volumes_lock_);
        auto& slot = deletions_[id];
        if (slot != nullptr && slot->running()) {
            return {};
        }
        if (volumes_.contains(id)) {
            if (slot == nullptr) {
                deletions_.erase(id);
            }
            return fail(error_code::busy, fmt::format("device {} is open", id.value()));
        }
        slot = request;
    }
    request->keep(request);
    executor_.submit(pool_queue_, *request);
    if (!executor_.threaded()) {
        executor_.wait_for(*request);
    }
    return {};
}

std::vector<deletion_status> engine::deletions() const {
    std::vector<deletion_status> all;
    lock_guard held(volumes_lock_);
    for (const auto& [id, request] : deletions_) {
        all.push_back(request->status());
    }
    return all;
}

result<void> engine::wait_for_deletion(device_id id) {
    std::shared_ptr<deletion> request;
    {
        lock_guard held(volumes_lock_);
        const auto at = deletions_.find(id);
        if (at == deletions_.end()) {
            return fail(error_code::not_found,
                        fmt::format("no deletion of device {} was begun", id.value()));
        }
        request = at->second;
    }
    return request->wait();
}

bool engine::is_being_deleted(device_id id) const {
    lock_guard held(volumes_lock_);
    const auto at = deletions_.find(id);
    return at != deletions_.end() && at->second->running();
}

result<void> engine::rollback(device_id id, device_id to_snapshot, device_id graveyard_id) {
    UTHIN_TRY(alive());
    rollback_work request(*this, id, to_snapshot, graveyard_id);
    return executor_.execute(pool_queue_, request);
}

// ---- open volumes

std::shared_ptr<volume_state> engine::find_open(device_id id) const {
    lock_guard held(volumes_lock_);
    const auto at = volumes_.find(id);
    return at == volumes_.end() ? nullptr : at->second.state;
}

std::vector<std::shared_ptr<volume_state>> engine::open_states() const {
    std::vector<std::shared_ptr<volume_state>> all;
    lock_guard held(volumes_lock_);
    for (const auto& [id, entry] : volumes_) {
        all.push_back(entry.state);
    }
    return all;
}

std::shared_ptr<volume_state> engine::open_after(std::optional<device_id> id) const {
    lock_guard held(volumes_lock_);
    const auto at = id ? volumes_.upper_bound(*id) : volumes_.begin();
    return at == volumes_.end() ? nullptr : at->second.state;
}

std::size_t engine::open_volume_count() const {
    lock_guard held(volumes_lock_);
    return volumes_.size();
}

result<std::shared_ptr<volume_state>> engine::open_state(device_id id, std::uint64_t size_bytes) {
    auto state = std::make_shared<volume_state>(id, size_bytes, options_.mapping_cache_entries,
                                                [this] { executor_.wake(); });
    state->device = UTHIN_TRY(metadata_->open_device(id));
    // The last handle of an older opening is gone, if the device is not closed yet.
    metadata_->forget_aborted_changes(*state->device);
    return state;
}

// On the executor, so that it is in order with barriers and deletions. The last handle of an older
// opening may just be going away; then a new state takes its place in the table.
result<std::shared_ptr<volume>> engine::open_volume(device_id id, std::uint64_t size_bytes,
                                                    bool read_only,
                                                    std::shared_ptr<external_origin> origin) {
    UTHIN_TRY(alive());
    if (size_bytes > static_cast<std::uint64_t>(INT64_MAX)) {
        return fail(error_code::invalid_argument, "a volume is smaller than 2^63 bytes");
    }
    std::shared_ptr<volume> opened;
    UTHIN_TRY(run(
        [&]() -> result<void> {
            if (is_being_deleted(id)) {
                return refuse_deleting(id);
            }
            {
                lock_guard held(volumes_lock_);
                const auto at = volumes_.find(id);
                if (at != volumes_.end() && (opened = at->second.handle.lock()) != nullptr) {
                    auto access = write_access::read_only;
                    if (!read_only) {
                        at->second.state->access.compare_exchange_strong(access,
                                                                         write_access::open);
                    }
                    return {};
                }
            }
            // What needs memory comes first: a handle that is dropped here would call the executor.
            opened.reset(new volume({}, {}));
            auto state = UTHIN_TRY(open_state(id, size_bytes));
            state->access.store(read_only ? write_access::read_only : write_access::open);
            state->origin = origin;
            lock_guard held(volumes_lock_);
            try {
                volumes_[id] = {opened, state};
            } catch (const std::bad_alloc&) {
                metadata_->close_device(std::exchange(state->device, nullptr));
                throw;
            }
            opened->engine_ = shared_from_this();
            opened->state_ = std::move(state);
            return {};
        },
        {.needs = need::nothing, .alone = true, .counts_as_change = false}));
    return opened;
}

// Once the pool is being closed, the volume's device is close_devices()'.
void engine::close_volume(const std::shared_ptr<volume_state>& state) {
    const io_tickets::scope call(calls_, io_kind::read, thread_number());
    if (!call.held()) {
        return;
    }
    static_cast<void>(run(
        [&]() -> result<void> {
            {
                lock_guard held(volumes_lock_);
                const auto at = volumes_.find(state->id);
                if (at != volumes_.end() && at->second.state == state) {
                    volumes_.erase(at);
                }
            }
            if (state->device != nullptr) {
                metadata_->close_device(std::exchange(state->device, nullptr));
            }
            return {};
        },
        {.needs = need::nothing, .alone = true, .counts_as_change = false}));
}

result<void> engine::close_devices() {
    std::map<device_id, open_entry> still_open;
    {
        lock_guard held(volumes_lock_);
        still_open.swap(volumes_);
    }
    for (auto& [id, entry] : still_open) {
        metadata_->close_device(std::exchange(entry.state->device, nullptr));
    }
    return {};
}

}  // namespace uthin::pool_engine
