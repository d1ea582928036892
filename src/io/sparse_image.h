// The bytes of a device as a persistent tree of 4 KiB pages: a copy costs O(1), and a write to a
// copy touches only its own pages. Crash simulation keeps thousands of states of one disk this way.
//
// Invariants
//   SI1  A copy never sees later writes to the original, nor the reverse.
//   SI2  Bytes never written read as zeros; bytes cut off by a shrink are zeros if it grows again.
//
// Threads   An image belongs to one thread at a time; different images may share pages and be used
//           by different threads.
//
// Failures  None but std::bad_alloc. Reading beyond the end gives zeros, writing there grows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/mutex.h"
#include "uthin/block_device.h"

namespace uthin::io {

class sparse_image {
public:
    static constexpr std::uint64_t page_size_bytes = 4096;

    explicit sparse_image(std::uint64_t size_bytes = 0) noexcept : size_bytes_(size_bytes) {}
    sparse_image(const sparse_image& other) noexcept;
    sparse_image& operator=(const sparse_image& other) noexcept;
    sparse_image(sparse_image&& other) noexcept;
    sparse_image& operator=(sparse_image&& other) noexcept;
    ~sparse_image();

    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }
    void read(std::uint64_t offset_bytes, std::span<std::byte> buffer) const;
    void write(std::uint64_t offset_bytes, std::span<const std::byte> buffer);
    void zero(std::uint64_t offset_bytes, std::uint64_t length_bytes);
    void resize(std::uint64_t size_bytes);

private:
    struct node;
    struct branch;
    struct page;
    static void retain(node* at) noexcept;
    static void release(node* at) noexcept;
    // Makes the node in `slot` ours alone (or a fresh zero one), so that it may be changed.
    static branch& own_branch(node*& slot);
    static page& own_page(node*& slot);
    static void drop_pages(node*& slot, unsigned height, std::uint64_t begin_page,
                           std::uint64_t end_page);
    void raise_tree_to(std::uint64_t page_index);
    [[nodiscard]] const std::byte* find_page(std::uint64_t page_index) const noexcept;
    [[nodiscard]] std::byte* writable_page(std::uint64_t page_index);

    std::uint64_t size_bytes_ = 0;
    node* root_ = nullptr;
    unsigned height_ = 0;  // levels above the pages; 0: the root is a page
};

// A block device over an image. Flush does nothing: this is what a disk held when power went.
//
// Threads   Any; one mutex.
class image_device final : public block_device {
public:
    image_device(std::string name, sparse_image image)
        : name_(std::move(name)), image_(std::move(image)) {}

    // A copy of the present contents, O(1).
    [[nodiscard]] sparse_image image() const;

    [[nodiscard]] std::string name() const override { return name_; }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override;
    [[nodiscard]] device_capabilities capabilities() const override;
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override;
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> flush() override { return {}; }
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> grow(std::uint64_t size_bytes) override;

private:
    const std::string name_;
    mutable mutex lock_;
    sparse_image image_ GUARDED_BY(lock_);
};

}  // namespace uthin::io
