#include "thin_metadata/device_copy.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/aligned_buffer.h"
#include "base/zero.h"
#include "persistent_data/btree.h"
#include "thin_metadata/difference.h"

namespace uthin::thin_metadata {

namespace {

// A piece of the device: of data, or a hole.
struct piece {
    virtual_block begin;
    std::uint64_t count = 0;
    std::optional<data_block> data = std::nullopt;
};
using piece_function = std::function<result<void>(const piece& next)>;

// Every block of the device from 0 to `end`, in the longest pieces.
result<void> list_all(metadata_view& view, metadata_block root, virtual_block end,
                      const piece_function& each) {
    persistent_data::btree_cursor at(view.source(), root, 8);
    UTHIN_TRY_CTX(at.seek(0), "mapping tree");
    piece open;
    while (!at.at_end() && at.key() < end.value()) {
        const virtual_block where(at.key());
        const data_block data = mapping_block(at.value_u64());
        const bool goes_on =
            open.count != 0 && open.begin + open.count == where && *open.data + open.count == data;
        if (!goes_on) {
            const virtual_block behind = open.begin + open.count;
            if (open.count != 0) {
                UTHIN_TRY(each(open));
            }
            if (behind < where) {
                UTHIN_TRY(each({.begin = behind, .count = where - behind}));
            }
            open = {.begin = where, .count = 0, .data = data};
        }
        ++open.count;
        UTHIN_TRY_CTX(at.next(), "mapping tree");
    }
    if (open.count != 0) {
        UTHIN_TRY(each(open));
    }
    const virtual_block behind = open.begin + open.count;
    return behind < end ? each({.begin = behind, .count = end - behind}) : result<void>();
}

result<void> list_changed(metadata_view& view, metadata_block base, metadata_block root,
                          virtual_block end, const piece_function& each) {
    return find_differences(view, base, root, [&](const difference_run& run) -> result<void> {
        if (run.kind == difference_kind::same || run.begin >= end) {
            return {};
        }
        piece next{.begin = run.begin, .count = std::min(run.count, end - run.begin)};
        if (run.kind != difference_kind::left_only) {
            next.data = run.right;
        }
        return each(next);
    });
}

class copier {
public:
    copier(metadata_view& view, block_device& data, copy_target& target,
           const copy_request& request, bool only_compares)
        : view_(view),
          data_(data),
          target_(target),
          request_(request),
          only_compares_(only_compares),
          source_buffer_(request.buffer_bytes),
          target_buffer_(only_compares ? request.buffer_bytes : 0) {}

    result<copy_totals> run() {
        const std::uint64_t sectors = view_.superblock().data_block_size_sectors;
        UTHIN_TRY(check_data_block_size(sectors));
        block_bytes_ = sectors * sector_size_bytes;
        data_blocks_ = UTHIN_TRY(data_.size_bytes()) / block_bytes_;
        const virtual_block end(request_.size_bytes / block_bytes_ +
                                (request_.size_bytes % block_bytes_ != 0 ? 1 : 0));
        const piece_function each = [this](const piece& next) { return take(next); };
        const metadata_block root = UTHIN_TRY(mapping_root_of(view_, request_.device));
        if (request_.base) {
            const metadata_block base = UTHIN_TRY(mapping_root_of(view_, *request_.base));
            UTHIN_TRY(list_changed(view_, base, root, end, each));
        } else {
            UTHIN_TRY(list_all(view_, root, end, each));
        }
        if (!only_compares_) {
            UTHIN_TRY(target_.flush());
        }
        return totals_;
    }

private:
    result<void> take(const piece& next) {
        const std::uint64_t begin = next.begin.value() * block_bytes_;
        const std::uint64_t length =
            std::min(next.count * block_bytes_, request_.size_bytes - begin);
        if (!next.data) {
            totals_.hole_bytes += length;
            UTHIN_TRY(take_hole(begin, length));
        } else {
            if (next.data->value() >= data_blocks_ ||
                next.count > data_blocks_ - next.data->value()) {
                return fail(
                    error_code::out_of_range,
                    fmt::format("{}: data block {} is mapped, but the device has {}", data_.name(),
                                next.data->value() + next.count - 1, data_blocks_));
            }
            totals_.data_bytes += length;
            UTHIN_TRY(take_data(begin, next.data->value() * block_bytes_, length));
        }
        if (request_.progress) {
            request_.progress(begin + length);
        }
        return {};
    }

    result<void> take_hole(std::uint64_t begin, std::uint64_t length) {
        if (!only_compares_) {
            return request_.is_blank ? result<void>() : target_.make_hole(begin, length);
        }
        for (std::uint64_t done = 0; done < length;) {
            const auto bytes = first_of(target_buffer_, length - done);
            UTHIN_TRY(target_.read(begin + done, bytes));
            if (!is_zero(bytes)) {
                return differs(begin + done, bytes.size());
            }
            done += bytes.size();
        }
        return {};
    }

    result<void> take_data(std::uint64_t begin, std::uint64_t source, std::uint64_t length) {
        for (std::uint64_t done = 0; done < length;) {
            const auto bytes = first_of(source_buffer_, length - done);
            UTHIN_TRY(data_.read(source + done, bytes));
            if (!only_compares_) {
                UTHIN_TRY(target_.write(begin + done, bytes));
            } else {
                const auto copied = first_of(target_buffer_, length - done);
                UTHIN_TRY(target_.read(begin + done, copied));
                if (std::memcmp(bytes.data(), copied.data(), bytes.size()) != 0) {
                    return differs(begin + done, bytes.size());
                }
            }
            done += bytes.size();
            if (request_.progress) {
                request_.progress(begin + done);
            }
        }
        return {};
    }

    static std::span<std::byte> first_of(aligned_buffer& buffer, std::uint64_t length) {
        return buffer.span().first(
            static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), length)));
    }
    static std::unexpected<error> differs(std::uint64_t begin, std::uint64_t length) {
        return fail(error_code::corrupt,
                    fmt::format("the copy differs from the source in bytes {} to {}", begin,
                                begin + length - 1));
    }

    metadata_view& view_;
    block_device& data_;
    copy_target& target_;
    const copy_request& request_;
    const bool only_compares_;
    aligned_buffer source_buffer_;
    aligned_buffer target_buffer_;
    std::uint64_t block_bytes_ = 0;
    std::uint64_t data_blocks_ = 0;
    copy_totals totals_;
};

}  // namespace

result<std::uint64_t> mapped_end_bytes(metadata_view& view, device_id device) {
    const std::uint64_t sectors = view.superblock().data_block_size_sectors;
    UTHIN_TRY(check_data_block_size(sectors));
    const metadata_block root = UTHIN_TRY(mapping_root_of(view, device));
    const auto highest =
        UTHIN_TRY_CTX(persistent_data::btree_highest_key(view.source(), root), "mapping tree");
    if (!highest) {
        return 0;
    }
    constexpr std::uint64_t size_bytes_max = 1ULL << 63;
    const std::uint64_t block_bytes = sectors * sector_size_bytes;
    if (*highest >= size_bytes_max / block_bytes) {
        return fail(error_code::corrupt,
                    fmt::format("device {}: block {} is mapped, which no device can have",
                                device.value(), *highest));
    }
    return (*highest + 1) * block_bytes;
}

result<copy_totals> copy_device(metadata_view& view, block_device& data, copy_target& target,
                                const copy_request& request) {
    return copier(view, data, target, request, false).run();
}

result<copy_totals> verify_copy(metadata_view& view, block_device& data, copy_target& target,
                                const copy_request& request) {
    return copier(view, data, target, request, true).run();
}

}  // namespace uthin::thin_metadata
