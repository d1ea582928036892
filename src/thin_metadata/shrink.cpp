#include "thin_metadata/shrink.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/aligned_buffer.h"
#include "base/out_of_memory.h"
#include "thin_metadata/restorer.h"

namespace uthin::thin_metadata {

namespace {

constexpr std::size_t copy_bytes_max = 4U << 20;

bool begins_before(const range<data_block>& a, const range<data_block>& b) {
    return a.begin < b.begin;
}

// The gaps between sorted runs below `end`, handed out from the lowest on.
class gap_finder {
public:
    gap_finder(const std::vector<range<data_block>>& used, std::uint64_t end)
        : used_(used), end_(end) {}

    // At most `count` blocks in one run; empty when there are none left.
    range<data_block> take(std::uint64_t count) {
        for (;; ++next_) {
            const bool is_last = next_ == used_.size() || used_[next_].begin >= end_;
            const data_block stop = is_last ? end_ : used_[next_].begin;
            if (at_ < stop) {
                const data_block begin = at_;
                at_ = std::min(stop, begin + count);
                return {begin, at_};
            }
            if (is_last) {
                return {at_, at_};
            }
            at_ = used_[next_].end;
        }
    }

private:
    const std::vector<range<data_block>>& used_;
    data_block end_;
    std::size_t next_ = 0;
    data_block at_;
};

result<void> copy_run(block_device& data, const moved_run& move, std::uint64_t block_bytes,
                      aligned_buffer& buffer,
                      const std::function<void(std::uint64_t bytes)>& progress) {
    const std::uint64_t length = move.count * block_bytes;
    for (std::uint64_t done = 0; done < length;) {
        const auto piece = buffer.span().first(
            static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), length - done)));
        UTHIN_TRY(data.read(move.from.value() * block_bytes + done, piece));
        UTHIN_TRY(data.write(move.to.value() * block_bytes + done, piece));
        done += piece.size();
        progress(piece.size());
    }
    return {};
}

}  // namespace

std::uint64_t shrink_plan::moved_blocks() const noexcept {
    std::uint64_t blocks = 0;
    for (const moved_run& move : moves) {
        blocks += move.count;
    }
    return blocks;
}

// ---- shrink_survey

result<void> shrink_survey::begin_pool(const pool_header& pool) {
    pool_ = pool;
    return check_data_block_size(pool.data_block_size_sectors);
}

result<void> shrink_survey::run(const mapping_run& run) {
    const std::uint64_t begin = run.data_begin.value();
    if (begin >= pool_.data_blocks || run.count > pool_.data_blocks - begin) {
        return fail(error_code::out_of_range,
                    fmt::format("data block {} is mapped, but the pool has {}",
                                begin + run.count - 1, pool_.data_blocks));
    }
    if (!used_.empty() && used_.back().end == run.data_begin) {
        used_.back().end += run.count;
        return {};
    }
    if (used_.size() >= join_at_) {
        join_runs();
        join_at_ = std::max(join_at_, 2 * used_.size());
    }
    used_.push_back({run.data_begin, run.data_begin + run.count});
    return {};
}

void shrink_survey::join_runs() {
    std::sort(used_.begin(), used_.end(), begins_before);
    std::size_t kept = 0;
    for (std::size_t index = 1; index < used_.size(); ++index) {
        if (used_[index].begin <= used_[kept].end) {
            used_[kept].end = std::max(used_[kept].end, used_[index].end);
        } else {
            used_[++kept] = used_[index];
        }
    }
    used_.resize(used_.empty() ? 0 : kept + 1);
}

result<void> shrink_survey::end_pool() {
    join_runs();
    return {};
}

result<shrink_plan> shrink_survey::plan(std::uint64_t data_blocks) const {
    if (data_blocks == 0 || data_blocks > pool_.data_blocks) {
        return fail(error_code::invalid_argument,
                    fmt::format("the pool has {} data blocks; it cannot be shrunk to {}",
                                pool_.data_blocks, data_blocks));
    }
    shrink_plan made{.data_block_size_sectors = pool_.data_block_size_sectors,
                     .data_blocks = data_blocks,
                     .used_end = used_.empty() ? data_block(0) : used_.back().end,
                     .moves = {}};
    std::uint64_t used_blocks = 0;
    for (const auto& run : used_) {
        used_blocks += run.count();
    }
    if (used_blocks > data_blocks) {
        return fail(error_code::no_data_space,
                    fmt::format("Insufficient free space: {} data blocks are used, which do not "
                                "fit in {}",
                                used_blocks, data_blocks));
    }
    gap_finder gaps(used_, data_blocks);
    for (const auto& run : used_) {
        data_block from = std::max(run.begin, data_block(data_blocks));
        while (from < run.end) {
            const range<data_block> to = gaps.take(run.end - from);
            made.moves.push_back({.from = from, .to = to.begin, .count = to.count()});
            from += to.count();
        }
    }
    return made;
}

// ---- shrink_filter

result<void> shrink_filter::begin_pool(const pool_header& pool) {
    pool_header smaller = pool;
    smaller.data_blocks = plan_.data_blocks;
    return target_.begin_pool(smaller);
}

result<void> shrink_filter::begin_shared(std::string_view name) {
    return target_.begin_shared(name);
}

result<void> shrink_filter::end_shared() {
    UTHIN_TRY(joiner_.flush());
    return target_.end_shared();
}

result<void> shrink_filter::begin_device(const thin_device_info& device) {
    return target_.begin_device(device);
}

result<void> shrink_filter::run(const mapping_run& run) {
    mapping_run left = run;
    while (left.count != 0) {
        mapping_run next = left;
        // The move that covers the first block, or the first one behind it.
        const auto move = std::upper_bound(
            plan_.moves.begin(), plan_.moves.end(), left.data_begin,
            [](data_block block, const moved_run& at) { return block < at.from + at.count; });
        if (left.data_begin.value() < plan_.data_blocks) {
            next.count = std::min(next.count, plan_.data_blocks - left.data_begin.value());
        } else if (move != plan_.moves.end() && move->from <= left.data_begin) {
            const std::uint64_t skipped = left.data_begin - move->from;
            next.count = std::min(next.count, move->count - skipped);
            next.data_begin = move->to + skipped;
        } else {
            return fail(error_code::corrupt, "the mappings changed while they were moved");
        }
        UTHIN_TRY(joiner_.add(next));
        left.begin += next.count;
        left.data_begin += next.count;
        left.count -= next.count;
    }
    return {};
}

result<void> shrink_filter::reference(std::string_view name) {
    UTHIN_TRY(joiner_.flush());
    return target_.reference(name);
}

result<void> shrink_filter::end_device() {
    UTHIN_TRY(joiner_.flush());
    return target_.end_device();
}

result<void> shrink_filter::end_pool() {
    return target_.end_pool();
}

// ---- what is written

result<void> move_data(block_device& data, const shrink_plan& plan,
                       const std::function<void(std::uint64_t bytes)>& progress) {
    return or_out_of_memory([&]() -> result<void> {
        if (plan.moves.empty()) {
            return {};
        }
        const std::uint64_t block_bytes =
            std::uint64_t{plan.data_block_size_sectors} * sector_size_bytes;
        const std::uint64_t found = UTHIN_TRY(data.size_bytes()) / block_bytes;
        if (found < plan.used_end.value()) {
            return fail(
                error_code::out_of_range,
                fmt::format("{}: the data device has {} blocks of {} bytes, but {} are in use",
                            data.name(), found, block_bytes, plan.used_end.value()));
        }
        aligned_buffer buffer(copy_bytes_max);
        for (const moved_run& move : plan.moves) {
            UTHIN_TRY(copy_run(data, move, block_bytes, buffer, progress));
        }
        // ORDER: the copies are durable before any metadata that maps them is.
        return data.flush();
    });
}

result<void> install_image(block_device& image, block_device& target) {
    return or_out_of_memory([&]() -> result<void> {
        aligned_buffer superblock(metadata_block_size_bytes);
        UTHIN_TRY(image.read(0, superblock.span()));
        const disk_superblock header = UTHIN_TRY(check_superblock(
            metadata_block(0),
            persistent_data::const_block_bytes(superblock.data(), metadata_block_size_bytes)));
        UTHIN_TRY(write_unfinished_mark(target));
        // The index block of the metadata space map is the last one that a restorer allocates.
        // Counting the used blocks would not do: merged leaves leave holes.
        const std::uint64_t end =
            (header.metadata_sm_root.bitmap_root + 1) * metadata_block_size_bytes;
        aligned_buffer buffer(copy_bytes_max);
        for (std::uint64_t at = metadata_block_size_bytes; at < end;) {
            const auto piece = buffer.span().first(
                static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), end - at)));
            UTHIN_TRY(image.read(at, piece));
            UTHIN_TRY(target.write(at, piece));
            at += piece.size();
        }
        // ORDER: everything that the superblock points to is durable before it is written.
        UTHIN_TRY(target.flush());
        UTHIN_TRY(target.write(0, superblock.span()));
        return target.flush();
    });
}

}  // namespace uthin::thin_metadata
