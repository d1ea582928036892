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

using thin_metadata::difference_kind;

constexpr std::uint64_t ranges_max = 64U << 10;

change_kind kind_of(difference_kind kind) {
    switch (kind) {
        case difference_kind::left_only: return change_kind::removed;
        case difference_kind::right_only: return change_kind::added;
        default: return change_kind::changed;
    }
}

}  // namespace

// Turns runs of blocks into ranges of bytes until the reply is full.
class pool_directory::range_collector {
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

namespace {

std::string tag_of(std::uint64_t dev_id, std::uint64_t time, std::uint64_t transaction_id,
                   const std::string& received_from) {
    return fmt::format("{}-{}-{}{}{}", dev_id, time, transaction_id,
                       received_from.empty() ? "" : "-", received_from);
}

}  // namespace

std::string device_tag(const volume_info& volume) {
    return tag_of(volume.dev_id, volume.creation_time, volume.creation_transaction_id,
                  volume.received_from);
}

struct pool_directory::diff_sides {
    std::shared_ptr<thin_metadata::metadata_view> view;
    std::optional<metadata_block> from_root;
    metadata_block to_root;
    std::uint64_t from_size_bytes = 0;
    std::uint64_t to_size_bytes = 0;
    std::string from_device{};
    std::string to_device{};
    bool has_origin = false;
};

result<std::string> pool_directory::check_device(const found_volume& found,
                                                 const std::string& wanted) const {
    const device_identity& identity = found.record.identity;
    std::string tag = tag_of(identity.id.value(), identity.creation_time,
                             identity.creation_transaction_id, found.record.received_from);
    if (!wanted.empty() && tag != wanted) {
        return fail(error_code::not_found,
                    fmt::format("{}/{}: is another volume by now, or was changed; start again",
                                printable(directory_), printable(found.record.name)));
    }
    return tag;
}

result<pool_directory::diff_sides> pool_directory::find_sides(const diff_request& request) {
    const lock_guard held(change_lock_);
    // The view shows what is committed.
    const pool_mode mode = pool_->mode();
    const bool changes = mode == pool_mode::write || mode == pool_mode::out_of_data_space;
    if (purpose_ != open_purpose::inspect && changes) {
        UTHIN_TRY_CTX(pool_->commit(), printable(directory_));
    }
    diff_sides sides;
    sides.view = UTHIN_TRY_CTX(pool_->create_view(), printable(directory_));
    // ORDER: a snapshot gets its new content id before a client's change: those that are found from
    // here on are of what the view shows, or newer.
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
    sides.to_device = UTHIN_TRY(check_device(to, request.to_device));
    sides.has_origin = !to.record.external_origin.empty();
    if (from) {
        sides.from_device = UTHIN_TRY(check_device(*from, request.from_device));
    }
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

// Adds the changes of [begin, end) to `ranges`. False: no more are wanted.
result<bool> pool_directory::add_changes(const diff_sides& sides,
                                         std::optional<metadata_block> from_root,
                                         range<virtual_block> within, range_collector& ranges) {
    using thin_metadata::difference_run;
    bool full = false;
    auto walked = thin_metadata::find_changes(
        *sides.view, from_root, sides.to_root, within.begin,
        [&](const difference_run& run) -> result<void> {
            difference_run part = run;
            part.count = std::min(
                run.count, within.end.value() - std::min(run.begin.value(), within.end.value()));
            const bool ends = part.count < run.count;
            full = part.count != 0 && !ranges.add(part);
            return full || ends ? fail(error_code::cancelled, "enough") : result<void>();
        });
    if (!walked && walked.error().code() != error_code::cancelled) {
        return std::unexpected(std::move(walked).error().with_context(printable(directory_)));
    }
    return !full;
}

result<diff_reply> pool_directory::diff(const diff_request& request) {
    const diff_sides sides = UTHIN_TRY(find_sides(request));
    diff_reply reply;
    reply.from_size_bytes = sides.from_size_bytes;
    reply.to_size_bytes = sides.to_size_bytes;
    reply.block_size_bytes = pool_->data_block_size_bytes();
    reply.from_device = sides.from_device;
    reply.to_device = sides.to_device;
    const std::uint64_t wanted =
        std::clamp<std::uint64_t>(request.ranges_max, 1, uthin::ranges_max);
    range_collector ranges(reply, request.offset_bytes, wanted);
    const virtual_block begin(request.offset_bytes / reply.block_size_bytes);
    constexpr virtual_block last(UINT64_MAX);
    const bool grew = sides.from_root && sides.from_size_bytes < sides.to_size_bytes;
    const virtual_block old_end =
        grew ? virtual_block((sides.from_size_bytes + reply.block_size_bytes - 1) /
                             reply.block_size_bytes)
             : last;
    if (begin < old_end &&
        !UTHIN_TRY(add_changes(sides, sides.from_root, {begin, old_end}, ranges))) {
        return reply;
    }
    const virtual_block behind = std::max(begin, old_end);
    if (grew && sides.has_origin) {
        // Holes read as the origin there.
        (void)ranges.add(
            {difference_kind::right_only, behind, last - behind, data_block(0), data_block(0)});
    } else if (grew) {
        (void)UTHIN_TRY(add_changes(sides, std::nullopt, {behind, last}, ranges));
    }
    return reply;
}

}  // namespace uthin
