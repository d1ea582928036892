#include "io/fault_device.h"

#include <fmt/format.h>

#include <cerrno>
#include <vector>

#include "base/result.h"

namespace uthin::io {
namespace {

constexpr std::uint64_t sector_bytes = 512;

std::unexpected<error> injected_error(const std::string& name, operation_kind kind,
                                      fault_outcome outcome) {
    int os_errno = EIO;
    switch (outcome) {
        case fault_outcome::io_error: break;
        case fault_outcome::short_transfer: break;
        case fault_outcome::no_space: os_errno = ENOSPC; break;
        case fault_outcome::timed_out: os_errno = ETIMEDOUT; break;
    }
    return fail(error_code::io_error,
                fmt::format("{}: {} failed on purpose", name, to_string(kind)), os_errno);
}

// What a short transfer of `length_bytes` gets done.
std::uint64_t short_part(std::uint64_t length_bytes) {
    return length_bytes / 2 / sector_bytes * sector_bytes;
}

}  // namespace

void fault_plan::arm(const fault_rule& rule) {
    const lock_guard held(lock_);
    rule_ = rule;
    matched_ = 0;
    injected_ = 0;
}

void fault_plan::disarm() {
    const lock_guard held(lock_);
    rule_.reset();
}

std::uint64_t fault_plan::count(operation_kind kind) const {
    const lock_guard held(lock_);
    return counts_[static_cast<std::size_t>(kind)];
}

std::uint64_t fault_plan::count(operation_kinds kinds) const {
    const lock_guard held(lock_);
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < operation_kind_count; ++i) {
        if (kinds.contains(static_cast<operation_kind>(i))) {
            sum += counts_[i];
        }
    }
    return sum;
}

void fault_plan::reset_counts() {
    const lock_guard held(lock_);
    counts_ = {};
}

std::uint64_t fault_plan::injected() const {
    const lock_guard held(lock_);
    return injected_;
}

std::optional<fault_outcome> fault_plan::next(operation_kind kind, std::uint64_t offset_bytes,
                                              std::uint64_t length_bytes) {
    const lock_guard held(lock_);
    ++counts_[static_cast<std::size_t>(kind)];
    if (!rule_ || !rule_->kinds.contains(kind)) {
        return std::nullopt;
    }
    const bool touches = offset_bytes < rule_->range_end_bytes &&
                         offset_bytes + length_bytes > rule_->range_begin_bytes;
    if (!touches && kind != operation_kind::flush) {
        return std::nullopt;
    }
    ++matched_;
    if (matched_ < rule_->nth || (matched_ > rule_->nth && !rule_->persistent)) {
        return std::nullopt;
    }
    ++injected_;
    return rule_->outcome;
}

result<void> fault_device::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    const auto fault = plan_.next(operation_kind::read, offset_bytes, buffer.size());
    if (!fault) {
        return below_.read(offset_bytes, buffer);
    }
    if (*fault == fault_outcome::short_transfer) {
        UTHIN_TRY(below_.read(offset_bytes, buffer.first(short_part(buffer.size()))));
    }
    return injected_error(name(), operation_kind::read, *fault);
}

result<void> fault_device::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    const auto fault = plan_.next(operation_kind::write, offset_bytes, buffer.size());
    if (!fault) {
        return below_.write(offset_bytes, buffer);
    }
    if (*fault == fault_outcome::short_transfer) {
        UTHIN_TRY(below_.write(offset_bytes, buffer.first(short_part(buffer.size()))));
    }
    return injected_error(name(), operation_kind::write, *fault);
}

result<void> fault_device::flush() {
    if (const auto fault = plan_.next(operation_kind::flush, 0, 0)) {
        return injected_error(name(), operation_kind::flush, *fault);
    }
    return below_.flush();
}

result<void> fault_device::discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    const auto fault = plan_.next(operation_kind::discard, offset_bytes, length_bytes);
    if (!fault) {
        return below_.discard(offset_bytes, length_bytes);
    }
    if (*fault == fault_outcome::short_transfer) {
        UTHIN_TRY(below_.discard(offset_bytes, short_part(length_bytes)));
    }
    return injected_error(name(), operation_kind::discard, *fault);
}

result<void> fault_device::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    const auto fault = plan_.next(operation_kind::write_zeroes, offset_bytes, length_bytes);
    if (!fault) {
        return below_.write_zeroes(offset_bytes, length_bytes);
    }
    if (*fault == fault_outcome::short_transfer) {
        UTHIN_TRY(below_.write_zeroes(offset_bytes, short_part(length_bytes)));
    }
    return injected_error(name(), operation_kind::write_zeroes, *fault);
}

result<void> fault_device::run(std::span<const io_op> ops) {
    std::vector<io_op> passed;
    passed.reserve(ops.size());
    result<void> first;
    for (const io_op& op : ops) {
        const operation_kind kind =
            op.kind == io_kind::read ? operation_kind::read : operation_kind::write;
        const auto fault = plan_.next(kind, op.offset_bytes, op.buffer_bytes.size());
        if (!fault) {
            passed.push_back(op);
            continue;
        }
        if (*fault == fault_outcome::short_transfer) {
            const std::uint64_t part_bytes = short_part(op.buffer_bytes.size());
            passed.push_back({op.kind, op.offset_bytes, op.buffer_bytes.first(part_bytes)});
        }
        if (first) {
            first = injected_error(name(), kind, *fault);
        }
    }
    result<void> below = below_.run(passed);
    return first ? std::move(below) : std::move(first);
}

result<void> fault_device::write_fua(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) {
    const auto fault = plan_.next(operation_kind::write, offset_bytes, buffer.size());
    if (!fault) {
        return below_.write_fua(offset_bytes, buffer);
    }
    if (*fault == fault_outcome::short_transfer) {
        UTHIN_TRY(below_.write(offset_bytes, buffer.first(short_part(buffer.size()))));
    }
    return injected_error(name(), operation_kind::write, *fault);
}

result<void> fault_device::grow(std::uint64_t size_bytes) {
    if (const auto fault = plan_.next(operation_kind::resize, 0, size_bytes)) {
        return injected_error(name(), operation_kind::resize, *fault);
    }
    return below_.grow(size_bytes);
}

}  // namespace uthin::io
