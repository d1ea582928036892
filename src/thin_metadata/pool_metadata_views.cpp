// Metadata snapshot (the kernel's held root) and read views.
#include <algorithm>

#include <fmt/format.h>

#include "thin_metadata/pool_metadata.h"
#include "uthin/log.h"

namespace uthin {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using thin_metadata::disk_superblock;
using thin_metadata::live_view;

// ---- metadata snapshot

result<void> metadata::reserve_metadata_snap() {
    if (auto allowed = impl_->writable(); !allowed) {
        return allowed;
    }
    if (impl_->now_.held.value() != 0) {
        return fail(error_code::busy,
                    fmt::format("a metadata snapshot is held at block {}; release it first",
                                impl_->now_.held.value()));
    }
    // ORDER: committed first, so that what is held is a whole transaction.
    UTHIN_TRY(commit());
    return impl_->mutate([&]() -> result<void> {
        const persistent_data::shadow copy =
            UTHIN_TRY(impl_->open_->tm.new_block(block_kind::superblock));
        disk_superblock held = impl_->committed_;
        held.blocknr = copy.where.value();
        held.held_root = 0;
        // Space maps are not published: they would not be those of the held trees.
        held.data_sm_root = {};
        held.metadata_sm_root = {};
        thin_metadata::store_superblock(held, copy.bytes);
        UTHIN_TRY(impl_->open_->tm.inc(impl_->now_.mapping));
        UTHIN_TRY(impl_->open_->tm.inc(impl_->now_.details));
        impl_->now_.held = copy.where;
        return {};
    });
}

result<void> metadata::release_metadata_snap() {
    return impl_->mutate([&]() -> result<void> {
        const metadata_block at = impl_->now_.held;
        if (at.value() == 0) {
            return fail(error_code::invalid_argument, "no metadata snapshot is held");
        }
        const persistent_data::block_ref copy =
            UTHIN_TRY_CTX(impl_->open_->tm.read(at, block_kind::superblock), "metadata snapshot");
        const disk_superblock held = thin_metadata::load_superblock(copy.bytes());
        UTHIN_TRY_CTX(impl_->open_->top.destroy(metadata_block(held.data_mapping_root)),
                      "metadata snapshot");
        UTHIN_TRY_CTX(impl_->open_->details.destroy(metadata_block(held.device_details_root)),
                      "metadata snapshot");
        UTHIN_TRY(impl_->open_->tm.dec(at));
        impl_->now_.held = metadata_block(0);
        return {};
    });
}

result<std::optional<metadata_block>> metadata::metadata_snap() const {
    UTHIN_TRY(impl_->usable());
    const shared_lock guard(impl_->state_lock_);
    const metadata_block held = impl_->published_.held;
    return held.value() != 0 ? std::optional(held) : std::nullopt;
}

// ---- read views

result<std::shared_ptr<thin_metadata::metadata_view>> metadata::create_view() {
    return or_out_of_memory([&]() -> result<std::shared_ptr<thin_metadata::metadata_view>> {
        UTHIN_TRY(impl_->usable());
        auto view = std::make_shared<live_view>(impl_->blocks, impl_->committed_,
                                                durable_transaction(), impl_->memo_);
        const lock_guard guard(impl_->views_lock_);
        impl_->views_.push_back(view);
        return view;
    });
}

bool metadata::revoke_oldest_view() {
    return impl_->revoke_oldest();
}

void metadata::impl::release_dead_views() {
    std::uint64_t oldest = UINT64_MAX;
    {
        const lock_guard guard(views_lock_);
        std::erase_if(views_, [](const std::weak_ptr<live_view>& view) { return view.expired(); });
        for (const std::weak_ptr<live_view>& view : views_) {
            if (const auto live = view.lock()) {
                oldest = std::min(oldest, live->transaction());
            }
        }
    }
    open_->data_map.quarantine().release_before(oldest);
    open_->data_map.forget_exhaustion();
    open_->tm.metadata_map().quarantine().release_before(oldest);
    open_->tm.metadata_map().forget_exhaustion();
}

bool metadata::impl::any_view() {
    const lock_guard guard(views_lock_);
    return !views_.empty();
}

bool metadata::impl::revoke_oldest() {
    bool revoked = false;
    {
        const lock_guard guard(views_lock_);
        std::shared_ptr<live_view> oldest;
        for (const std::weak_ptr<live_view>& view : views_) {
            const auto live = view.lock();
            if (live && (!oldest || live->transaction() < oldest->transaction())) {
                oldest = live;
            }
        }
        if (oldest) {
            // ORDER: PM4 marked before its blocks can be reused; a reader tests the mark after each
            // read.
            oldest->expire();
            std::erase_if(views_, [&](const std::weak_ptr<live_view>& view) {
                return view.lock() == oldest;
            });
            log(log_level::warning, "metadata", "a read view was given up: its space was needed");
            revoked = true;
        }
    }
    release_dead_views();
    return revoked;
}

void metadata::impl::revoke_all_views() {
    const lock_guard guard(views_lock_);
    for (const std::weak_ptr<live_view>& view : views_) {
        if (const auto live = view.lock()) {
            live->expire();
        }
    }
    views_.clear();
}

// Before a change starts, so that it does not run dry half-way because of blocks that views keep.
void metadata::impl::make_metadata_room() {
    persistent_data::space_map_metadata& map = open_->tm.metadata_map();
    const std::uint64_t wanted = reserve_blocks();
    while (map.quarantine().kept_blocks() != 0 &&
           map.nr_free() < map.quarantine().kept_blocks() + wanted) {
        release_dead_views();
        if (map.quarantine().kept_blocks() != 0 && !revoke_oldest()) {
            break;
        }
    }
}

}  // namespace uthin
