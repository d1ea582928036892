#include "replication/migrate_copy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "base/result.h"
#include "base/zero.h"

namespace uthin::replication {

namespace {

// Zeros are found in pieces of this length.
constexpr std::size_t zero_test_bytes = 64U << 10;

// Calls for every page of the difference; false: enough.
template <class Call>
result<void> for_each_page(pool_service& pool, const volume_info* from, const volume_info& to,
                           const Call& call) {
    diff_request wanted;
    if (from != nullptr) {
        wanted.from = from->name;
        wanted.from_device = device_tag(*from);
    }
    wanted.to = to.name;
    wanted.to_device = device_tag(to);
    std::optional<std::uint64_t> next = 0;
    while (next) {
        wanted.offset_bytes = *next;
        const diff_reply found = UTHIN_TRY(pool.diff(wanted));
        next = found.next_offset_bytes;
        if (!UTHIN_TRY(call(found))) {
            break;
        }
    }
    return {};
}

}  // namespace

result<change_cost> cost_of_changes(pool_service& pool, const volume_info* from,
                                    const volume_info& to, std::uint64_t data_bytes_max,
                                    std::uint64_t block_bytes) {
    change_cost cost;
    std::uint64_t counted_to = 0;  // in blocks
    UTHIN_TRY(for_each_page(pool, from, to, [&](const diff_reply& found) -> result<bool> {
        for (const changed_range& range : found.ranges) {
            if (range.kind == change_kind::removed) {
                continue;
            }
            cost.data_bytes += range.length_bytes;
            if (block_bytes != 0) {
                const std::uint64_t end =
                    (range.offset_bytes + range.length_bytes + block_bytes - 1) / block_bytes;
                const std::uint64_t begin = std::max(counted_to, range.offset_bytes / block_bytes);
                cost.touched_blocks += end - std::min(begin, end);
                counted_to = std::max(counted_to, end);
            }
        }
        return cost.data_bytes <= data_bytes_max;
    }));
    return cost;
}

// Ascending. What lies behind the end of a smaller `from`, in the block in which it ends, was never
// part of it and is told even if the block did not change: it is the seam.
result<void> change_copier::for_each(const volume_info* from, const volume_info& to,
                                     const range_function& call) {
    const std::uint64_t size = content_.size_bytes();
    std::uint64_t seam_begin = 0;
    std::uint64_t seam_end = 0;
    const auto cross_seam = [&](std::uint64_t next_bytes) -> result<void> {
        if (seam_begin == seam_end || next_bytes <= seam_begin) {
            return {};
        }
        const std::uint64_t begin = std::exchange(seam_begin, seam_end);
        return call(begin, seam_end, range_kind::seam);
    };
    bool first = true;
    UTHIN_TRY(for_each_page(pool_, from, to, [&](const diff_reply& found) -> result<bool> {
        const std::uint64_t old = found.from_size_bytes;
        if (std::exchange(first, false) && from != nullptr && old < size &&
            old % found.block_size_bytes != 0) {
            seam_begin = old;
            seam_end = std::min(size, (old / found.block_size_bytes + 1) * found.block_size_bytes);
        }
        for (const changed_range& range : found.ranges) {
            const std::uint64_t end = std::min(range.offset_bytes + range.length_bytes, size);
            if (range.offset_bytes >= end) {
                continue;
            }
            UTHIN_TRY(cross_seam(range.offset_bytes));
            if (range.offset_bytes <= seam_begin && seam_begin < end) {
                seam_begin = seam_end;  // part of this one
            }
            const bool zeros = range.kind == change_kind::removed;
            UTHIN_TRY(call(range.offset_bytes, end, zeros ? range_kind::zeros : range_kind::data));
        }
        return true;
    }));
    return cross_seam(UINT64_MAX);
}

result<void> change_copier::copy(const volume_info* from, const volume_info& to) {
    UTHIN_TRY(for_each(from, to, [&](std::uint64_t begin, std::uint64_t end, range_kind kind) {
        return copy_range(begin, end, kind);
    }));
    return into_.flush();
}

result<void> change_copier::copy_range(std::uint64_t begin_bytes, std::uint64_t end_bytes,
                                       range_kind kind) {
    if (kind == range_kind::zeros) {
        return into_.write_zeroes(begin_bytes, end_bytes - begin_bytes);
    }
    for (std::uint64_t at = begin_bytes; at < end_bytes;) {
        const auto part =
            buffer_.span().first(std::min<std::uint64_t>(buffer_.size(), end_bytes - at));
        UTHIN_TRY(content_.read(at, part));
        bool is_there = false;
        if (kind == range_kind::seam) {
            // Writing the same again would cost the block that is shared with the relative.
            const auto found = other_.span().first(part.size());
            UTHIN_TRY(into_.read(at, found));
            is_there = std::memcmp(part.data(), found.data(), part.size()) == 0;
        }
        if (!is_there) {
            UTHIN_TRY(copy_piece(at, part));
        }
        at += part.size();
        copied_bytes_ += part.size();
        if (progress_) {
            progress_(copied_bytes_);
        }
    }
    return {};
}

result<void> change_copier::copy_piece(std::uint64_t offset_bytes,
                                       std::span<const std::byte> bytes) {
    std::size_t begin = 0;
    while (begin < bytes.size()) {
        const auto piece_at = [&](std::size_t at) {
            return bytes.subspan(at, std::min(zero_test_bytes, bytes.size() - at));
        };
        const bool zero = is_zero(piece_at(begin));
        std::size_t end = begin + piece_at(begin).size();
        while (end < bytes.size() && is_zero(piece_at(end)) == zero) {
            end += piece_at(end).size();
        }
        UTHIN_TRY(zero ? into_.write_zeroes(offset_bytes + begin, end - begin)
                       : into_.write(offset_bytes + begin, bytes.subspan(begin, end - begin)));
        begin = end;
    }
    return {};
}

result<void> change_copier::verify(const volume_info* from, const volume_info& to) {
    return for_each(from, to, [&](std::uint64_t begin, std::uint64_t end, range_kind kind) {
        return compare_range(begin, end, kind);
    });
}

result<void> change_copier::compare_range(std::uint64_t begin_bytes, std::uint64_t end_bytes,
                                          range_kind kind) {
    for (std::uint64_t at = begin_bytes; at < end_bytes; at += buffer_.size()) {
        const std::size_t length = std::min<std::uint64_t>(buffer_.size(), end_bytes - at);
        const auto wanted = buffer_.span().first(length);
        const auto found = other_.span().first(length);
        if (kind == range_kind::zeros) {
            std::memset(wanted.data(), 0, length);
        } else {
            UTHIN_TRY(content_.read(at, wanted));
        }
        UTHIN_TRY(into_.read(at, found));
        if (std::memcmp(wanted.data(), found.data(), length) != 0) {
            return fail(error_code::corrupt,
                        fmt::format("what was copied reads differently at the target, in the {} "
                                    "bytes at {}; look at its devices and start again",
                                    length, at));
        }
    }
    return {};
}

}  // namespace uthin::replication
