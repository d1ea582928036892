// The public face of a volume.
#include <cerrno>

#include "base/out_of_memory.h"
#include "base/thread.h"
#include "pool/volume_io.h"

namespace uthin {

using pool_engine::io_tickets;
using pool_engine::volume_io;

int to_io_errno(const error& failure) noexcept {
    switch (failure.code()) {
        case error_code::no_data_space:
        case error_code::no_metadata_space: return ENOSPC;
        case error_code::invalid_argument:
        case error_code::out_of_range: return EINVAL;
        case error_code::unsupported: return EOPNOTSUPP;
        case error_code::out_of_memory: return ENOMEM;
        default: return EIO;
    }
}

bool hold_limit::take() noexcept {
    if (held_.fetch_add(1) < held_max_) {
        return true;
    }
    held_.fetch_sub(1);
    return false;
}

void hold_limit::leave() noexcept {
    held_.fetch_sub(1);
}

volume::volume(std::shared_ptr<pool_engine::engine> engine,
               std::shared_ptr<pool_engine::volume_state> state)
    : engine_(std::move(engine)), state_(std::move(state)) {
}

volume::~volume() {
    if (engine_ != nullptr) {
        engine_->close_volume(state_);
    }
}

device_id volume::id() const noexcept {
    return state_->id;
}

std::uint64_t volume::size_bytes() const noexcept {
    return state_->size_bytes.load();
}

bool volume::read_only() const noexcept {
    return state_->access.load() == pool_engine::write_access::read_only ||
           engine_->options().read_only;
}

result<void> volume::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    return or_out_of_memory(
        [&] { return volume_io(*engine_, *state_).read(offset_bytes, buffer); });
}

result<void> volume::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer, bool fua,
                           hold_limit* holds) {
    return or_out_of_memory(
        [&] { return volume_io(*engine_, *state_).write(offset_bytes, buffer, fua, holds); });
}

result<void> volume::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                  zero_options options) {
    return or_out_of_memory([&] {
        return volume_io(*engine_, *state_).write_zeroes(offset_bytes, length_bytes, options);
    });
}

result<void> volume::discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    return or_out_of_memory(
        [&] { return volume_io(*engine_, *state_).discard(offset_bytes, length_bytes); });
}

result<void> volume::flush() {
    return or_out_of_memory([&] { return volume_io(*engine_, *state_).flush(); });
}

result<std::vector<volume_extent>> volume::block_status(std::uint64_t offset_bytes,
                                                        std::uint64_t length_bytes,
                                                        std::size_t extents_max) {
    return or_out_of_memory([&] {
        return volume_io(*engine_, *state_).block_status(offset_bytes, length_bytes, extents_max);
    });
}

result<io_ticket> volume::begin(io_kind kind) {
    return or_out_of_memory([&] { return volume_io(*engine_, *state_).begin(kind); });
}

result<mapped_extent> volume::map(const io_ticket& ticket, std::uint64_t offset_bytes,
                                  std::uint64_t length_bytes) {
    return or_out_of_memory(
        [&] { return volume_io(*engine_, *state_).map(ticket, offset_bytes, length_bytes); });
}

result<void> volume::set_size(std::uint64_t size_bytes) {
    return or_out_of_memory([&] { return volume_io(*engine_, *state_).set_size(size_bytes); });
}

void volume::set_before_first_change(std::function<result<void>()> before) {
    const lock_guard held(state_->first_change_lock);
    state_->before_first_change = std::move(before);
    state_->access.store(pool_engine::write_access::asks_first);
}

result<std::uint64_t> volume::mapped_blocks() const {
    return or_out_of_memory([&]() -> result<std::uint64_t> {
        UTHIN_TRY(engine_->alive());
        const io_ticket call = UTHIN_TRY(engine_->calls().take(io_kind::read));
        return engine_->metadata().mapped_count(*state_->device);
    });
}

result<std::optional<virtual_block>> volume::highest_mapped_block() const {
    return or_out_of_memory([&]() -> result<std::optional<virtual_block>> {
        UTHIN_TRY(engine_->alive());
        const io_ticket call = UTHIN_TRY(engine_->calls().take(io_kind::read));
        return engine_->metadata().highest_mapped_block(*state_->device);
    });
}

bool volume::changed_since_durable() const noexcept {
    const io_tickets::scope call(engine_->calls(), io_kind::read, thread_number());
    return call.held() && engine_->is_alive() &&
           volume_io(*engine_, *state_).changed_since_durable();
}

bool volume::lost_changes() const noexcept {
    return state_->lost_changes.load();
}

}  // namespace uthin
