#include "frontends/nbdkit_plugin/connection.h"

#include <algorithm>

#include "base/result.h"

namespace uthin::frontends {
namespace {

constexpr std::uint32_t preferred_block_bytes_min = 4096;

}  // namespace

std::unique_ptr<connection> connection::open(opened_export opened, pool& engine) {
    return std::unique_ptr<connection>(new connection(std::move(opened), engine));
}

std::uint32_t connection::preferred_block_bytes() const noexcept {
    return std::max(preferred_block_bytes_min,
                    engine_.data_device().capabilities().alignment_bytes);
}

bool connection::rotational() const {
    return engine_.data_device().capabilities().rotational;
}

result<void> connection::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    return opened_.content->read(offset_bytes, buffer);
}

result<void> connection::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer,
                               bool fua) {
    return opened_.content->write(offset_bytes, buffer, fua, &holds_);
}

result<void> connection::flush() {
    return opened_.content->flush();
}

result<void> connection::trim(std::uint64_t offset_bytes, std::uint64_t length_bytes, bool fua) {
    UTHIN_TRY(opened_.content->discard(offset_bytes, length_bytes));
    // A discard has no FUA of its own; a flush that follows makes it durable.
    return fua ? opened_.content->flush() : result<void>();
}

result<bool> connection::zeroing_is_fast(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                         zero_options options) {
    if (!options.may_unmap) {
        return false;
    }
    // Whole blocks are unmapped. What is left at the edges must be written unless it is a hole.
    const std::uint64_t block_bytes = engine_.data_block_size_bytes();
    const std::uint64_t end_bytes = offset_bytes + length_bytes;
    const std::uint64_t head_bytes =
        std::min((block_bytes - offset_bytes % block_bytes) % block_bytes, length_bytes);
    const std::uint64_t tail_bytes =
        end_bytes == opened_.content->size_bytes()
            ? 0
            : std::min(end_bytes % block_bytes, length_bytes - head_bytes);
    for (const auto& [begin_bytes, count_bytes] :
         {std::pair(offset_bytes, head_bytes), std::pair(end_bytes - tail_bytes, tail_bytes)}) {
        if (count_bytes == 0) {
            continue;
        }
        const auto found = UTHIN_TRY(opened_.content->block_status(begin_bytes, count_bytes, 1));
        if (found.empty() || found.front().kind == extent_kind::data ||
            found.front().length_bytes < count_bytes) {
            return false;
        }
    }
    return true;
}

result<void> connection::zero(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                              zero_options options) {
    options.holds = &holds_;
    return opened_.content->write_zeroes(offset_bytes, length_bytes, options);
}

result<std::vector<volume_extent>> connection::extents(std::uint64_t offset_bytes,
                                                       std::uint64_t length_bytes,
                                                       std::size_t extents_max) {
    if (opened_.extents) {
        return opened_.extents(offset_bytes, length_bytes, extents_max);
    }
    return opened_.content->block_status(offset_bytes, length_bytes, extents_max);
}

}  // namespace uthin::frontends
