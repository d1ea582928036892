// Devices: create, snapshot, delete, open, list, root swaps.
#include <cstring>

#include <fmt/format.h>

#include "base/assert.h"
#include "thin_metadata/pool_metadata.h"

namespace uthin {

using thin_metadata::disk_device_details;

namespace {

device_details unpack(const std::byte* value) {
    disk_device_details disk;
    std::memcpy(&disk, value, sizeof disk);
    return {disk.mapped_blocks, disk.transaction_id, disk.creation_time, disk.snapshotted_time};
}

error unknown_device(device_id id) {
    return error(error_code::not_found, fmt::format("no device {} in the pool", id.value()));
}

error taken(device_id id) {
    return error(error_code::already_exists, fmt::format("device {} exists", id.value()));
}

result<void> check_id(device_id id) {
    if (id.value() > device_id_max) {
        return fail(
            error_code::invalid_argument,
            fmt::format("device id {} is over 24 bits ({} at most)", id.value(), device_id_max));
    }
    return {};
}

}  // namespace

result<std::optional<device_details>> metadata::impl::details_in(
    thin_metadata::block_source& source, const thin_metadata::metadata_roots& roots,
    device_id id) const {
    std::array<std::byte, sizeof(disk_device_details)> value{};
    if (!UTHIN_TRY(persistent_data::btree_lookup(source, roots.details, id.value(), value))) {
        return std::nullopt;
    }
    return unpack(value.data());
}

// The in-core record, made from the tree if there is none. Writer.
result<thin_device*> metadata::impl::device(device_id id) {
    {
        const shared_lock guard(state_lock_);
        if (const auto found = devices_.find(id.value()); found != devices_.end()) {
            if (found->second->creation_aborted.load()) {
                return std::unexpected(unknown_device(id));
            }
            return found->second.get();
        }
    }
    const auto details = UTHIN_TRY(details_in(open_->tm.source(), now_, id));
    if (!details) {
        return std::unexpected(unknown_device(id));
    }
    return add_device(id, *details);
}

thin_device* metadata::impl::add_device(device_id id, const device_details& details) {
    auto fresh = std::make_unique<thin_device>(id);
    fresh->set_details(details);
    const exclusive_lock guard(state_lock_);
    const auto [at, added] = devices_.emplace(id.value(), std::move(fresh));
    UTHIN_ASSERT(added);  // Somebody may hold a pointer to the record there is.
    return at->second.get();
}

// Whether a device with this id can be made. Writer.
result<void> metadata::impl::check_vacant(device_id id) {
    if (UTHIN_TRY(details_in(open_->tm.source(), now_, id))) {
        return std::unexpected(taken(id));
    }
    const shared_lock guard(state_lock_);
    const auto found = devices_.find(id.value());
    if (found == devices_.end()) {
        return {};
    }
    if (found->second->creation_aborted.load()) {
        return fail(error_code::busy,
                    fmt::format("device {} is open, and the abort took its creation back; close "
                                "it first",
                                id.value()));
    }
    return fail(error_code::corrupt,
                fmt::format("the details tree has lost device {}, which it had", id.value()));
}

void metadata::impl::forget_device(device_id id) {
    const exclusive_lock guard(state_lock_);
    const auto found = devices_.find(id.value());
    if (found != devices_.end() && found->second->open_count == 0) {
        if (found->second->changed.load()) {
            changed_devices_.fetch_sub(1);
        }
        devices_.erase(found);
    }
}

void metadata::impl::mark_changed(thin_device& device) {
    if (!device.changed.exchange(true)) {
        changed_devices_.fetch_add(1);
    }
    device.last_change.store(open_transaction_.load());
}

result<void> metadata::impl::put_details(device_id id, const device_details& details) {
    const disk_device_details disk{details.mapped_blocks, details.transaction_id,
                                   details.creation_time, details.snapshotted_time};
    std::array<std::byte, sizeof disk> value{};
    std::memcpy(value.data(), &disk, sizeof disk);
    now_.details = UTHIN_TRY(open_->details.insert(now_.details, id.value(), value.data())).root;
    return {};
}

result<metadata_block> metadata::impl::tree_of(device_id id) {
    const auto root =
        UTHIN_TRY(persistent_data::btree_lookup_u64(open_->tm.source(), now_.mapping, id.value()));
    if (!root) {
        return fail(error_code::corrupt,
                    fmt::format("device {} has details and no mapping tree", id.value()));
    }
    return metadata_block(*root);
}

result<metadata_block> metadata::impl::tree_of(const thin_device& device) {
    if (device.creation_aborted.load()) {
        return std::unexpected(unknown_device(device.id));
    }
    if (const auto remembered = remembered_tree(now_, device)) {
        return *remembered;
    }
    const metadata_block root = UTHIN_TRY(tree_of(device.id));
    remember_tree(now_, device, root);
    return root;
}

result<void> metadata::impl::insert_top(device_id id, metadata_block root) {
    top_changes();
    std::array<std::byte, 8> value{};
    store_le(value.data(), root.value());
    now_.mapping = UTHIN_TRY(open_->top.insert(now_.mapping, id.value(), value.data())).root;
    return {};
}

result<void> metadata::impl::remove_top(device_id id) {
    top_changes();
    now_.mapping =
        UTHIN_TRY(open_->top.remove_range(now_.mapping, id.value(), id.value() + 1)).root;
    return {};
}

result<std::uint32_t> metadata::impl::next_time() const {
    if (now_.time >= thin_metadata::time_limit - 1) {
        return fail(error_code::out_of_range,
                    "the pool has taken 2^24 - 1 snapshots; migrate its volumes to a new pool");
    }
    return now_.time + 1;
}

result<void> metadata::create_thin(device_id id) {
    return impl_->mutate([&]() -> result<void> {
        UTHIN_TRY(check_id(id));
        impl_->make_metadata_room();
        UTHIN_TRY(impl_->check_vacant(id));
        const metadata_block root = UTHIN_TRY(impl_->open_->bottom.create());
        UTHIN_TRY(impl_->insert_top(id, root));
        const device_details details{0, impl_->now_.transaction_id, impl_->now_.time,
                                     impl_->now_.time};
        UTHIN_TRY(impl_->put_details(id, details));
        impl_->mark_changed(*impl_->add_device(id, details));
        return {};
    });
}

result<void> metadata::create_snap(device_id id, device_id origin) {
    return impl_->mutate([&]() -> result<void> {
        UTHIN_TRY(check_id(id));
        impl_->make_metadata_room();
        UTHIN_TRY(impl_->check_vacant(id));
        thin_device* source = UTHIN_TRY(impl_->device(origin));
        const std::uint32_t time = UTHIN_TRY(impl_->next_time());
        const metadata_block root = UTHIN_TRY(impl_->tree_of(origin));
        UTHIN_TRY(impl_->open_->tm.inc(root));
        UTHIN_TRY(impl_->insert_top(id, root));
        impl_->now_.time = time;
        const device_details details{source->mapped_blocks.load(), impl_->now_.transaction_id, time,
                                     time};
        UTHIN_TRY(impl_->put_details(id, details));
        impl_->mark_changed(*impl_->add_device(id, details));
        source->snapshotted_time.store(time);
        impl_->mark_changed(*source);
        return {};
    });
}

result<void> metadata::delete_thin(device_id id) {
    return impl_->mutate([&]() -> result<void> {
        impl_->make_metadata_room();
        const thin_device* device = UTHIN_TRY(impl_->device(id));
        if (device->open_count != 0) {
            return fail(error_code::busy, fmt::format("device {} is open", id.value()));
        }
        impl_->now_.details = UTHIN_TRY(impl_->open_->details.remove_range(
                                            impl_->now_.details, id.value(), id.value() + 1))
                                  .root;
        UTHIN_TRY(impl_->remove_top(id));
        impl_->forget_device(id);
        return {};
    });
}

result<void> metadata::swap_root(device_id id, device_id source, device_id graveyard) {
    return impl_->mutate([&]() -> result<void> {
        UTHIN_TRY(check_id(graveyard));
        UTHIN_TRY(impl_->check_vacant(graveyard));
        thin_device* target = UTHIN_TRY(impl_->device(id));
        thin_device* from = UTHIN_TRY(impl_->device(source));
        const std::uint32_t time = UTHIN_TRY(impl_->next_time());
        const metadata_block old_root = UTHIN_TRY(impl_->tree_of(id));
        const metadata_block new_root = UTHIN_TRY(impl_->tree_of(source));
        // Each new entry brings its own reference; overwriting `id` drops the one on the old tree.
        UTHIN_TRY(impl_->open_->tm.inc(old_root));
        UTHIN_TRY(impl_->insert_top(graveyard, old_root));
        UTHIN_TRY(impl_->open_->tm.inc(new_root));
        UTHIN_TRY(impl_->insert_top(id, new_root));
        impl_->now_.time = time;
        const device_details buried{target->mapped_blocks.load(), impl_->now_.transaction_id, time,
                                    time};
        UTHIN_TRY(impl_->put_details(graveyard, buried));
        impl_->mark_changed(*impl_->add_device(graveyard, buried));
        target->mapped_blocks.store(from->mapped_blocks.load());
        target->snapshotted_time.store(time);
        from->snapshotted_time.store(time);
        impl_->mark_changed(*target);
        impl_->mark_changed(*from);
        return {};
    });
}

result<void> metadata::replace_root(device_id id, device_id donor, device_id graveyard) {
    return impl_->mutate([&]() -> result<void> {
        UTHIN_TRY(check_id(graveyard));
        UTHIN_TRY(impl_->check_vacant(graveyard));
        thin_device* target = UTHIN_TRY(impl_->device(id));
        const thin_device* from = UTHIN_TRY(impl_->device(donor));
        if (from->open_count != 0) {
            return fail(error_code::busy, fmt::format("device {} is open", donor.value()));
        }
        const metadata_block old_root = UTHIN_TRY(impl_->tree_of(id));
        const metadata_block new_root = UTHIN_TRY(impl_->tree_of(donor));
        const device_details given = from->details();
        UTHIN_TRY(impl_->open_->tm.inc(old_root));
        UTHIN_TRY(impl_->insert_top(graveyard, old_root));
        UTHIN_TRY(impl_->open_->tm.inc(new_root));
        UTHIN_TRY(impl_->insert_top(id, new_root));
        UTHIN_TRY(impl_->remove_top(donor));
        impl_->now_.details = UTHIN_TRY(impl_->open_->details.remove_range(
                                            impl_->now_.details, donor.value(), donor.value() + 1))
                                  .root;
        const device_details buried{target->mapped_blocks.load(), impl_->now_.transaction_id,
                                    impl_->now_.time, impl_->now_.time};
        UTHIN_TRY(impl_->put_details(graveyard, buried));
        impl_->mark_changed(*impl_->add_device(graveyard, buried));
        target->mapped_blocks.store(given.mapped_blocks);
        target->snapshotted_time.store(given.snapshotted_time);
        impl_->mark_changed(*target);
        impl_->forget_device(donor);
        return {};
    });
}

result<thin_device*> metadata::open_device(device_id id) {
    return or_out_of_memory([&]() -> result<thin_device*> {
        UTHIN_TRY(impl_->usable());
        thin_device* device = UTHIN_TRY(impl_->device(id));
        if (device->open_count == 0) {
            device->aborted_with_changes.store(false);
        }
        ++device->open_count;
        return device;
    });
}

void metadata::forget_aborted_changes(thin_device& device) noexcept {
    device.aborted_with_changes.store(false);
}

void metadata::close_device(thin_device* device) {
    UTHIN_ASSERT(device->open_count > 0);
    --device->open_count;
    if (device->open_count == 0 && !device->changed.load()) {
        impl_->forget_device(device->id);
    }
}

device_id metadata::id_of(const thin_device& device) noexcept {
    return device.id;
}

result<std::vector<thin_device_info>> metadata::list_devices() const {
    // Entries taken under one hold of the lock; a missing block repeats one portion only.
    constexpr std::size_t portion = 512;
    std::vector<thin_device_info> devices;
    std::uint64_t next = 0;
    bool done = false;
    while (!done) {
        const auto part = UTHIN_TRY(impl_->read_published(
            [&](thin_metadata::block_source& source, const thin_metadata::metadata_roots& roots)
                -> result<std::vector<thin_device_info>> {
                std::vector<thin_device_info> found;
                persistent_data::btree_cursor cursor(source, roots.details,
                                                     sizeof(disk_device_details));
                UTHIN_TRY(cursor.seek(next));
                while (!cursor.at_end() && found.size() < portion) {
                    found.push_back({device_id(cursor.key()), unpack(cursor.value())});
                    UTHIN_TRY(cursor.next());
                }
                return found;
            }));
        done = part.size() < portion;
        UTHIN_TRY(or_out_of_memory([&]() -> result<void> {
            devices.insert(devices.end(), part.begin(), part.end());
            return {};
        }));
        if (!done) {
            next = part.back().id.value() + 1;
            done = next == 0;
        }
    }
    const shared_lock guard(impl_->state_lock_);
    for (thin_device_info& info : devices) {
        if (const auto found = impl_->devices_.find(info.id.value());
            found != impl_->devices_.end()) {
            info.details = found->second->details();
        }
    }
    return devices;
}

result<device_details> metadata::get_details(device_id id) const {
    const auto found = UTHIN_TRY(impl_->read_published(
        [&](thin_metadata::block_source& source, const thin_metadata::metadata_roots& roots) {
            return impl_->details_in(source, roots, id);
        }));
    if (!found) {
        return std::unexpected(unknown_device(id));
    }
    const shared_lock guard(impl_->state_lock_);
    const auto in_core = impl_->devices_.find(id.value());
    return in_core != impl_->devices_.end() ? in_core->second->details() : *found;
}

bool metadata::changed_this_transaction(const thin_device& device) const noexcept {
    return device.changed.load();
}

bool metadata::aborted_changes(const thin_device& device) const noexcept {
    return device.aborted_with_changes.load();
}

std::uint64_t metadata::last_change(const thin_device& device) const noexcept {
    return device.last_change.load();
}

}  // namespace uthin
