#include "schedules/stepped_device.h"

#include <cstring>

#include "base/result.h"
#include "io/range_check.h"
#include "schedules/scheduler.h"

namespace uthin::test {

namespace {

void step(const char* what) {
    scheduler::instance().wait_for_device(what);
}

}  // namespace

stepped_device::stepped_device(std::uint64_t size_bytes, std::string name)
    : name_(std::move(name)),
      bytes_(size_bytes),
      durable_(size_bytes),
      kept_(size_bytes),
      is_dirty_(size_bytes / page_bytes),
      is_cached_(size_bytes / page_bytes) {
}

device_capabilities stepped_device::capabilities() const {
    return {.can_discard = true, .discard_zeroes = true, .fast_write_zeroes = fast_write_zeroes_};
}

void stepped_device::changed(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    for (std::uint64_t page = offset_bytes / page_bytes;
         page * page_bytes < offset_bytes + length_bytes; ++page) {
        if (!is_dirty_[page]) {
            is_dirty_[page] = true;
            dirty_.push_back(page);
        }
        if (!is_cached_[page]) {
            is_cached_[page] = true;
            cached_.push_back(page);
        }
    }
}

void stepped_device::make_durable(std::uint64_t page) {
    std::memcpy(durable_.data() + page * page_bytes, bytes_.data() + page * page_bytes, page_bytes);
}

result<void> stepped_device::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    UTHIN_TRY(io::check_range(name_, offset_bytes, buffer.size(), bytes_.size()));
    step("begins to read");
    std::memcpy(buffer.data(), bytes_.data() + offset_bytes, buffer.size());
    step("has read");
    return {};
}

result<void> stepped_device::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    UTHIN_TRY(io::check_range(name_, offset_bytes, buffer.size(), bytes_.size()));
    step("begins to write");
    if (fails_writes_) {
        return fail(error_code::io_error, name_ + ": told to fail");
    }
    std::memcpy(bytes_.data() + offset_bytes, buffer.data(), buffer.size());
    changed(offset_bytes, buffer.size());
    step("has written");
    return {};
}

result<void> stepped_device::write_fua(std::uint64_t offset_bytes,
                                       std::span<const std::byte> buffer) {
    UTHIN_TRY(write(offset_bytes, buffer));
    std::memcpy(durable_.data() + offset_bytes, buffer.data(), buffer.size());
    return {};
}

result<void> stepped_device::flush() {
    step("begins to flush");
    if (fails_flushes_) {
        return fail(error_code::io_error, name_ + ": told to fail");
    }
    for (const std::uint64_t page : cached_) {
        make_durable(page);
        is_cached_[page] = false;
    }
    cached_.clear();
    step("has flushed");
    return {};
}

result<void> stepped_device::zero(const char* what, std::uint64_t offset_bytes,
                                  std::uint64_t length_bytes) {
    UTHIN_TRY(io::check_range(name_, offset_bytes, length_bytes, bytes_.size()));
    step(what);
    if (fails_writes_) {
        return fail(error_code::io_error, name_ + ": told to fail");
    }
    std::memset(bytes_.data() + offset_bytes, 0, length_bytes);
    changed(offset_bytes, length_bytes);
    step("has zeroed");
    return {};
}

result<void> stepped_device::discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    return zero("begins to discard", offset_bytes, length_bytes);
}

result<void> stepped_device::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    return zero("begins to write zeros", offset_bytes, length_bytes);
}

void stepped_device::keep() {
    kept_ = bytes_;
    durable_ = bytes_;
    dirty_.clear();
    cached_.clear();
    is_dirty_.assign(is_dirty_.size(), false);
    is_cached_.assign(is_cached_.size(), false);
}

void stepped_device::reset() {
    for (const std::uint64_t page : dirty_) {
        const std::uint64_t at = page * page_bytes;
        std::memcpy(bytes_.data() + at, kept_.data() + at, page_bytes);
        std::memcpy(durable_.data() + at, kept_.data() + at, page_bytes);
        is_dirty_[page] = false;
        is_cached_[page] = false;
    }
    dirty_.clear();
    cached_.clear();
    fails_writes_ = false;
    fails_flushes_ = false;
}

void stepped_device::set(const pages& with) {
    reset();
    for (const auto& [page, content] : with) {
        std::memcpy(bytes_.data() + page * page_bytes, content.data(), page_bytes);
        changed(page * page_bytes, page_bytes);
        make_durable(page);
    }
}

stepped_device::pages stepped_device::after_power_cut(bool all_written) const {
    pages all;
    for (const std::uint64_t page : dirty_) {
        const std::byte* const at = (all_written ? bytes_ : durable_).data() + page * page_bytes;
        if (std::memcmp(at, kept_.data() + page * page_bytes, page_bytes) != 0) {
            all.emplace_back(page, std::vector<std::byte>(at, at + page_bytes));
        }
    }
    return all;
}

}  // namespace uthin::test
