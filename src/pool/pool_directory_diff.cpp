// What changed between two volumes, in bytes.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/result.h"
#include "pool/names.h"
#include "pool/pool_directory.h"
#include "thin_metadata/changed_runs.h"

namespace uthin {

namespace {

constexpr std::uint64_t ranges_max = 64U << 10;

change_kind kind_of(thin_metadata::difference_kind kind) {
    switch (kind) {
        case thin_metadata::difference_kind::left_only: return change_kind::removed;
        case thin_metadata::difference_kind::right_only: return change_kind::added;
        default: return change_kind::changed;
    }
}

// Turns runs of blocks into ranges of bytes until the reply is full.
class range_collector {
public:
    range_collector(diff_reply& reply, std::uint64_t begin_bytes, std::uint64_t wanted)
        : reply_(reply), begin_bytes_(begin_bytes), wanted_(wanted) {}

    // False: no more is wanted.
    bool add(const thin_metadata::difference_run& run) {
        const change_kind kind = kind_of(run.kind);
        const std::uint64_t size_bytes =
            kind == change_kind::removed ? std::max(reply_.from_size_bytes, reply_.to_size_bytes)
                                         : reply_.to_size_bytes;
        // What a damaged pool maps behind every end is clipped before it can overflow.
        const std::uint64_t blocks_max = size_bytes / reply_.block_size_bytes + 1;
        const std::uint64_t first = std::min(run.begin.value(), blocks_max);
        const std::uint64_t behind = first + std::min(run.count, blocks_max - first);
        const std::uint64_t begin = std::max(first * reply_.block_size_bytes, begin_bytes_);
        const std::uint64_t end = std::min(behind * reply_.block_size_bytes, size_bytes);
        if (begin >= end) {
            return true;
        }
        if (!reply_.ranges.empty()) {
            changed_range& last = reply_.ranges.back();
            if (last.kind == kind && last.offset_bytes + last.length_bytes == begin) {
                last.length_bytes = end - last.offset_bytes;
                return true;
            }
        }
        if (reply_.ranges.size() == wanted_) {
            reply_.next_offset_bytes = begin;
            return false;
        }
        reply_.ranges.push_back({begin, end - begin, kind});
        return true;
    }

private:
    diff_reply& reply_;
    const std::uint64_t begin_bytes_;
    const std::uint64_t wanted_;
};

}  // namespace

struct pool_directory::diff_sides {
    std::shared_ptr<thin_metadata::metadata_view> view;
    std::optional<metadata_block> from_root;
    metadata_block to_root;
    std::uint64_t from_size_bytes = 0;
    std::uint64_t to_size_bytes = 0;
};

result<pool_directory::diff_sides> pool_directory::find_sides(const diff_request& request) {
    const lock_guard held(change_lock_);
    const found_volume to = UTHIN_TRY(must_find(request.to));
    std::optional<found_volume> from;
    if (!request.from.empty()) {
        from = UTHIN_TRY(must_find(request.from));
        if (from->record.external_origin != to.record.external_origin) {
            return fail(
                error_code::unsupported,
                fmt::format("{}/{}: has another external origin than '{}', so that what "
                            "neither of them maps differs too; compare their content",
                            printable(directory_), printable(request.to), printable(request.from)));
        }
    }
    // The view shows what is committed.
    const pool_mode mode = pool_->mode();
    const bool changes = mode == pool_mode::write || mode == pool_mode::out_of_data_space;
    if (purpose_ != open_purpose::inspect && changes) {
        UTHIN_TRY_CTX(pool_->commit(), printable(directory_));
    }
    diff_sides sides;
    sides.view = UTHIN_TRY_CTX(pool_->create_view(), printable(directory_));
    sides.to_root = UTHIN_TRY_CTX(
        thin_metadata::mapping_root_of(*sides.view, to.record.identity.id), printable(directory_));
    sides.to_size_bytes = to.record.size_bytes;
    if (from) {
        sides.from_root =
            UTHIN_TRY_CTX(thin_metadata::mapping_root_of(*sides.view, from->record.identity.id),
                          printable(directory_));
        sides.from_size_bytes = from->record.size_bytes;
    }
    return sides;
}

result<diff_reply> pool_directory::diff(const diff_request& request) {
    const diff_sides sides = UTHIN_TRY(find_sides(request));
    diff_reply reply;
    reply.from_size_bytes = sides.from_size_bytes;
    reply.to_size_bytes = sides.to_size_bytes;
    reply.block_size_bytes = pool_->data_block_size_bytes();
    const std::uint64_t wanted =
        std::clamp<std::uint64_t>(request.ranges_max, 1, uthin::ranges_max);
    range_collector ranges(reply, request.offset_bytes, wanted);
    bool full = false;
    auto walked = thin_metadata::find_changes(
        *sides.view, sides.from_root, sides.to_root,
        virtual_block(request.offset_bytes / reply.block_size_bytes),
        [&](const thin_metadata::difference_run& run) -> result<void> {
            full = !ranges.add(run);
            return full ? fail(error_code::cancelled, "enough") : result<void>();
        });
    if (!walked && !full) {
        return std::unexpected(std::move(walked).error().with_context(printable(directory_)));
    }
    return reply;
}

}  // namespace uthin
