#include "io/crash_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/result.h"
#include "io/range_check.h"

namespace uthin::io {
namespace {

// A discard of gigabytes is torn at no more than about this many places.
constexpr std::uint64_t units_without_data_max = 64;

// The aligned units that an operation covers.
struct unit_range {
    std::uint64_t unit_bytes;
    std::uint64_t first;
    std::uint64_t count;
};

unit_range units_of(const recorded_operation& operation, std::uint64_t unit_bytes) {
    if (operation.kind == operation_kind::resize || operation.length_bytes == 0) {
        return {unit_bytes, 0, 1};
    }
    if (operation.kind != operation_kind::write) {
        while (operation.length_bytes / unit_bytes > units_without_data_max) {
            unit_bytes *= 2;
        }
    }
    const std::uint64_t first = operation.offset_bytes / unit_bytes;
    const std::uint64_t last = (operation.offset_bytes + operation.length_bytes - 1) / unit_bytes;
    return {unit_bytes, first, last - first + 1};
}

void apply_part(sparse_image& image, const recorded_operation& operation, std::uint64_t begin_bytes,
                std::uint64_t end_bytes) {
    if (operation.kind != operation_kind::write) {
        image.zero(begin_bytes, end_bytes - begin_bytes);
        return;
    }
    image.write(begin_bytes,
                std::span(*operation.data)
                    .subspan(begin_bytes - operation.offset_bytes, end_bytes - begin_bytes));
}

void apply(sparse_image& image, const recorded_operation& operation, const survival& what,
           std::uint32_t unit_bytes) {
    if (operation.kind == operation_kind::resize) {
        if (what.keeps(0, 1)) {
            image.resize(operation.length_bytes);
        }
        return;
    }
    const std::uint64_t begin_bytes = operation.offset_bytes;
    const std::uint64_t end_bytes = begin_bytes + operation.length_bytes;
    if (what.whole()) {
        apply_part(image, operation, begin_bytes, end_bytes);
        return;
    }
    if (what.shape == survival::form::none) {
        return;
    }
    const unit_range units = units_of(operation, unit_bytes);
    for (std::uint64_t i = 0; i < units.count; ++i) {
        if (what.keeps(i, units.count)) {
            const std::uint64_t unit_begin = (units.first + i) * units.unit_bytes;
            apply_part(image, operation, std::max(begin_bytes, unit_begin),
                       std::min(end_bytes, unit_begin + units.unit_bytes));
        }
    }
}

std::shared_ptr<const std::vector<std::byte>> copy_of(std::span<const std::byte> bytes) {
    return std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
}

}  // namespace

// ---- crash_device

result<std::uint64_t> crash_device::size_bytes() const {
    const lock_guard held(domain_.lock_);
    UTHIN_TRY(domain_.powered());
    return current_.size_bytes();
}

device_capabilities crash_device::capabilities() const {
    return {.can_discard = true, .discard_zeroes = true, .fast_write_zeroes = true};
}

sparse_image crash_device::image() const {
    const lock_guard held(domain_.lock_);
    return current_;
}

result<void> crash_device::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    const lock_guard held(domain_.lock_);
    UTHIN_TRY(domain_.powered());
    UTHIN_TRY(check_range(name_, offset_bytes, buffer.size(), current_.size_bytes()));
    current_.read(offset_bytes, buffer);
    const recorded_operation operation{.device_index = index_,
                                       .kind = operation_kind::read,
                                       .offset_bytes = offset_bytes,
                                       .length_bytes = buffer.size(),
                                       .data = nullptr};
    domain_.notify(*this, operation, buffer, domain_.operations_.size());
    return {};
}

result<void> crash_device::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    return domain_.record(*this, {.device_index = index_,
                                  .kind = operation_kind::write,
                                  .offset_bytes = offset_bytes,
                                  .length_bytes = buffer.size(),
                                  .data = copy_of(buffer)});
}

result<void> crash_device::write_fua(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) {
    return domain_.record(*this, {.device_index = index_,
                                  .kind = operation_kind::write,
                                  .fua = true,
                                  .offset_bytes = offset_bytes,
                                  .length_bytes = buffer.size(),
                                  .data = copy_of(buffer)});
}

result<void> crash_device::flush() {
    return domain_.record(*this,
                          {.device_index = index_, .kind = operation_kind::flush, .data = nullptr});
}

result<void> crash_device::discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    return domain_.record(*this, {.device_index = index_,
                                  .kind = operation_kind::discard,
                                  .offset_bytes = offset_bytes,
                                  .length_bytes = length_bytes,
                                  .data = nullptr});
}

result<void> crash_device::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    return domain_.record(*this, {.device_index = index_,
                                  .kind = operation_kind::write_zeroes,
                                  .offset_bytes = offset_bytes,
                                  .length_bytes = length_bytes,
                                  .data = nullptr});
}

result<void> crash_device::grow(std::uint64_t size_bytes) {
    const std::uint64_t present_bytes = UTHIN_TRY(this->size_bytes());
    if (present_bytes >= size_bytes) {
        return {};
    }
    return resize(size_bytes);
}

result<void> crash_device::resize(std::uint64_t size_bytes) {
    return domain_.record(*this, {.device_index = index_,
                                  .kind = operation_kind::resize,
                                  .length_bytes = size_bytes,
                                  .data = nullptr});
}

// ---- crash_state

std::unique_ptr<image_device> crash_state::open(std::string_view name) const {
    const auto found = std::find(names_.begin(), names_.end(), name);
    UTHIN_ASSERT(found != names_.end());
    return open(static_cast<std::size_t>(found - names_.begin()));
}

std::unique_ptr<image_device> crash_state::open(std::size_t device_index) const {
    return std::make_unique<image_device>(names_.at(device_index), images_.at(device_index));
}

// ---- crash_domain

crash_domain::crash_domain(const crash_state& state) {
    for (std::size_t i = 0; i < state.names().size(); ++i) {
        add_device(state.names()[i], state.image(i));
    }
}

crash_domain::~crash_domain() = default;

crash_device& crash_domain::add_device(std::string name, std::uint64_t size_bytes) {
    return add_device(std::move(name), sparse_image(size_bytes));
}

crash_device& crash_domain::add_device(std::string name, sparse_image durable) {
    const lock_guard held(lock_);
    UTHIN_ASSERT(operations_.empty());
    base_.push_back(durable);
    // make_unique cannot reach the private constructor.
    devices_.push_back(std::unique_ptr<crash_device>(
        new crash_device(*this, devices_.size(), std::move(name), std::move(durable))));
    return *devices_.back();
}

crash_device* crash_domain::find(std::string_view name) {
    const lock_guard held(lock_);
    for (const auto& device : devices_) {
        if (device->name() == name) {
            return device.get();
        }
    }
    return nullptr;
}

std::uint64_t crash_domain::sequence() const {
    const lock_guard held(lock_);
    return operations_.size();
}

crash_history crash_domain::history() const {
    const lock_guard held(lock_);
    crash_history history;
    for (const auto& device : devices_) {
        history.device_names.push_back(device->name_);
    }
    history.base = base_;
    history.operations = operations_;
    return history;
}

void crash_domain::forget_history() {
    const lock_guard held(lock_);
    for (std::size_t i = 0; i < devices_.size(); ++i) {
        base_[i] = devices_[i]->current_;
    }
    operations_.clear();
}

void crash_domain::observe(observer callback) {
    const lock_guard held(lock_);
    observers_.push_back(std::move(callback));
}

void crash_domain::power_off() {
    stop_after(0);
}

void crash_domain::stop_after(std::uint64_t operation_count) {
    const lock_guard held(lock_);
    operations_left_ = operation_count;
}

void crash_domain::power_on() {
    const lock_guard held(lock_);
    operations_left_.reset();
}

result<void> crash_domain::powered() const {
    if (operations_left_ && *operations_left_ == 0) {
        return fail(error_code::io_error, "the power is off", EIO);
    }
    return {};
}

result<void> crash_domain::record(crash_device& device, recorded_operation operation) {
    const lock_guard held(lock_);
    UTHIN_TRY(powered());
    if (operation.kind != operation_kind::flush && operation.kind != operation_kind::resize) {
        UTHIN_TRY(check_range(device.name_, operation.offset_bytes, operation.length_bytes,
                              device.current_.size_bytes()));
    }
    if (operations_left_) {
        --*operations_left_;
    }
    if (operation.kind != operation_kind::flush) {
        apply(device.current_, operation, survival{}, 1);
    }
    operations_.push_back(std::move(operation));
    const recorded_operation& recorded = operations_.back();
    notify(
        device, recorded,
        recorded.data ? std::span<const std::byte>(*recorded.data) : std::span<const std::byte>(),
        operations_.size() - 1);
    return {};
}

void crash_domain::notify(const crash_device& device, const recorded_operation& operation,
                          std::span<const std::byte> data, std::uint64_t sequence) {
    const observed_operation observed{.sequence = sequence,
                                      .device_index = device.index_,
                                      .device_name = device.name_,
                                      .kind = operation.kind,
                                      .fua = operation.fua,
                                      .offset_bytes = operation.offset_bytes,
                                      .length_bytes = operation.length_bytes,
                                      .data = data,
                                      .content = &device.current_};
    for (const observer& callback : observers_) {
        callback(observed);
    }
}

// ---- power_cut

power_cut::power_cut(crash_history history)
    : history_(std::move(history)),
      durable_(history_.base),
      current_(history_.base),
      cache_(history_.base.size()) {
    list_pending();
}

void power_cut::move_to(std::size_t operation_index) {
    UTHIN_ASSERT(operation_index <= history_.operations.size());
    if (operation_index < position_) {
        durable_ = history_.base;
        current_ = history_.base;
        cache_.assign(history_.base.size(), {});
        position_ = 0;
    }
    for (; position_ < operation_index; ++position_) {
        complete(position_);
    }
    list_pending();
}

void power_cut::complete(std::size_t operation_index) {
    const recorded_operation& operation = history_.operations[operation_index];
    const std::size_t device = operation.device_index;
    if (operation.kind == operation_kind::flush) {
        durable_[device] = current_[device];
        cache_[device].clear();
        return;
    }
    apply(current_[device], operation, survival{}, unit_bytes_);
    cache_[device].push_back(operation_index);
}

void power_cut::list_pending() {
    pending_.clear();
    for (const std::vector<std::size_t>& cached : cache_) {
        pending_.insert(pending_.end(), cached.begin(), cached.end());
    }
    std::sort(pending_.begin(), pending_.end());
    // What is in flight may be on the medium in any part, FUA or not.
    if (position_ < history_.operations.size() &&
        history_.operations[position_].kind != operation_kind::flush) {
        pending_.push_back(position_);
    }
    writes_.clear();
    for (const std::size_t index : pending_) {
        const recorded_operation& operation = history_.operations[index];
        writes_.push_back({.unit_count = units_of(operation, unit_bytes_).count,
                           .device_index = operation.device_index,
                           .pinned = operation.fua && index != position_});
    }
}

crash_state power_cut::materialize(const crash_choice& choice) const {
    std::vector<sparse_image> images = durable_;
    for (std::size_t i = 0; i < pending_.size(); ++i) {
        const recorded_operation& operation = history_.operations[pending_[i]];
        apply(images[operation.device_index], operation, choice.of(i, writes_), unit_bytes_);
    }
    return crash_state(history_.device_names, std::move(images));
}

}  // namespace uthin::io
