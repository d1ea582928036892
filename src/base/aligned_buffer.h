// Owned memory aligned for O_DIRECT, zero-filled.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>

namespace uthin {

class aligned_buffer {
public:
    static constexpr std::size_t alignment_bytes = 4096;

    aligned_buffer() noexcept = default;
    explicit aligned_buffer(std::size_t size_bytes) : size_bytes_(size_bytes) {
        const std::size_t rounded =
            (size_bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
        bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment_bytes, rounded)));
        if (bytes_ == nullptr && size_bytes != 0) {
            throw std::bad_alloc();
        }
        if (size_bytes != 0) {
            std::memset(bytes_.get(), 0, rounded);
        }
    }

    [[nodiscard]] std::byte* data() noexcept { return bytes_.get(); }
    [[nodiscard]] const std::byte* data() const noexcept { return bytes_.get(); }
    [[nodiscard]] std::size_t size() const noexcept { return size_bytes_; }
    [[nodiscard]] std::span<std::byte> span() noexcept { return {bytes_.get(), size_bytes_}; }
    [[nodiscard]] std::span<const std::byte> span() const noexcept {
        return {bytes_.get(), size_bytes_};
    }

private:
    struct free_bytes {
        void operator()(std::byte* at) const noexcept { std::free(at); }
    };
    std::unique_ptr<std::byte, free_bytes> bytes_;
    std::size_t size_bytes_ = 0;
};

}  // namespace uthin
