#include "io/memory_device.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "base/result.h"
#include "io/range_check.h"

namespace uthin::io {
namespace {

// The part of [offset, offset + length) that lies in the chunk of `offset`.
struct piece {
    std::uint64_t chunk_index;
    std::uint64_t begin_bytes;  // in the chunk
    std::uint64_t length_bytes;
};

piece first_piece(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    constexpr std::uint64_t chunk_bytes = memory_device::chunk_size_bytes;
    const std::uint64_t begin_bytes = offset_bytes % chunk_bytes;
    return {offset_bytes / chunk_bytes, begin_bytes,
            std::min(length_bytes, chunk_bytes - begin_bytes)};
}

}  // namespace

memory_device::memory_device(std::uint64_t size_bytes, std::string name)
    : name_(std::move(name)), size_bytes_(size_bytes) {
}

device_capabilities memory_device::capabilities() const {
    return {.can_discard = true,
            .discard_zeroes = true,
            .fast_write_zeroes = true,
            .durable_flush = false};
}

result<void> memory_device::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    UTHIN_TRY(check_range(name_, offset_bytes, buffer.size(), size_bytes_.load()));
    while (!buffer.empty()) {
        const piece at = first_piece(offset_bytes, buffer.size());
        const stripe& home = stripe_of(at.chunk_index);
        {
            const shared_lock held(home.lock);
            const auto found = home.chunks.find(at.chunk_index);
            if (found == home.chunks.end()) {
                std::memset(buffer.data(), 0, at.length_bytes);
            } else {
                std::memcpy(buffer.data(), found->second->data() + at.begin_bytes, at.length_bytes);
            }
        }
        buffer = buffer.subspan(at.length_bytes);
        offset_bytes += at.length_bytes;
    }
    return {};
}

result<void> memory_device::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    UTHIN_TRY(check_range(name_, offset_bytes, buffer.size(), size_bytes_.load()));
    while (!buffer.empty()) {
        const piece at = first_piece(offset_bytes, buffer.size());
        UTHIN_TRY(write_chunk(at.chunk_index, at.begin_bytes, buffer.first(at.length_bytes)));
        buffer = buffer.subspan(at.length_bytes);
        offset_bytes += at.length_bytes;
    }
    return {};
}

result<void> memory_device::write_chunk(std::uint64_t chunk_index, std::uint64_t begin_bytes,
                                        std::span<const std::byte> bytes) {
    stripe& home = stripe_of(chunk_index);
    const exclusive_lock held(home.lock);
    try {
        std::unique_ptr<chunk>& slot = home.chunks[chunk_index];
        if (slot == nullptr) {
            slot = std::make_unique<chunk>();
        }
        std::memcpy(slot->data() + begin_bytes, bytes.data(), bytes.size());
    } catch (const std::bad_alloc&) {
        // The slot may be there without a chunk; nobody may see it.
        const auto found = home.chunks.find(chunk_index);
        if (found != home.chunks.end() && found->second == nullptr) {
            home.chunks.erase(found);
        }
        return fail(error_code::out_of_memory, name_ + ": no memory for what is written");
    }
    return {};
}

result<void> memory_device::discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    return write_zeroes(offset_bytes, length_bytes);
}

result<void> memory_device::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    UTHIN_TRY(check_range(name_, offset_bytes, length_bytes, size_bytes_.load()));
    // Counting what there is takes a lock of each stripe.
    if (length_bytes / chunk_size_bytes > stripe_count &&
        length_bytes / chunk_size_bytes > allocated_bytes() / chunk_size_bytes) {
        // Far longer than what there is: look at what there is.
        const std::uint64_t end_bytes = offset_bytes + length_bytes;
        for (stripe& home : stripes_) {
            std::vector<std::uint64_t> indexes;
            {
                const shared_lock held(home.lock);
                for (const auto& [chunk_index, bytes] : home.chunks) {
                    indexes.push_back(chunk_index);
                }
            }
            for (const std::uint64_t chunk_index : indexes) {
                const std::uint64_t chunk_begin = chunk_index * chunk_size_bytes;
                const std::uint64_t begin = std::max(offset_bytes, chunk_begin);
                const std::uint64_t end = std::min(end_bytes, chunk_begin + chunk_size_bytes);
                if (begin < end) {
                    zero_chunk(chunk_index, begin - chunk_begin, end - begin);
                }
            }
        }
        return {};
    }
    while (length_bytes != 0) {
        const piece at = first_piece(offset_bytes, length_bytes);
        zero_chunk(at.chunk_index, at.begin_bytes, at.length_bytes);
        length_bytes -= at.length_bytes;
        offset_bytes += at.length_bytes;
    }
    return {};
}

void memory_device::zero_chunk(std::uint64_t chunk_index, std::uint64_t begin_bytes,
                               std::uint64_t length_bytes) {
    stripe& home = stripe_of(chunk_index);
    const exclusive_lock held(home.lock);
    const auto found = home.chunks.find(chunk_index);
    if (found == home.chunks.end()) {
        return;
    }
    if (length_bytes == chunk_size_bytes) {
        home.chunks.erase(found);
    } else {
        std::memset(found->second->data() + begin_bytes, 0, length_bytes);
    }
}

result<void> memory_device::grow(std::uint64_t size_bytes) {
    std::uint64_t present_bytes = size_bytes_.load();
    while (present_bytes < size_bytes &&
           !size_bytes_.compare_exchange_weak(present_bytes, size_bytes)) {
    }
    return {};
}

std::uint64_t memory_device::allocated_bytes() const {
    std::uint64_t chunk_count = 0;
    for (const stripe& home : stripes_) {
        const shared_lock held(home.lock);
        chunk_count += home.chunks.size();
    }
    return chunk_count * chunk_size_bytes;
}

}  // namespace uthin::io
