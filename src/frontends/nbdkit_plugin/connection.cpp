#include "frontends/nbdkit_plugin/connection.h"

#include <algorithm>

#include "base/result.h"

namespace uthin::frontends {
namespace {

constexpr std::uint32_t preferred_block_bytes_min = 4096;

}  // namespace

// Only counted while the pool is full: a request that needs no new block may pass for one that
// does, but the common case costs one load.
class connection::space_place {
public:
    explicit space_place(connection& owner) : owner_(owner) {
        if (owner.engine_.mode() == pool_mode::out_of_data_space) {
            counted_ = true;
            refused_ = owner.waiting_.fetch_add(1) >= held_requests_max;
        }
    }
    ~space_place() {
        if (counted_) {
            owner_.waiting_.fetch_sub(1);
        }
    }
    space_place(const space_place&) = delete;
    space_place& operator=(const space_place&) = delete;

    [[nodiscard]] result<void> check() const {
        if (refused_) {
            return fail(error_code::no_data_space,
                        "the pool is full and enough requests of this client wait for space");
        }
        return {};
    }

private:
    connection& owner_;
    bool counted_ = false;
    bool refused_ = false;
};

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
    const space_place place(*this);
    UTHIN_TRY(place.check());
    return opened_.content->write(offset_bytes, buffer, fua);
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
    const space_place place(*this);
    UTHIN_TRY(place.check());
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
