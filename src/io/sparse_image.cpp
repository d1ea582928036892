#include "io/sparse_image.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/result.h"
#include "io/range_check.h"

namespace uthin::io {
namespace {

constexpr unsigned fanout_bits = 6;
constexpr std::size_t fanout = std::size_t{1} << fanout_bits;
constexpr std::uint64_t page_bytes = sparse_image::page_size_bytes;

// Pages below a node of this height.
constexpr std::uint64_t pages_below(unsigned height) {
    return std::uint64_t{1} << (fanout_bits * height);
}

}  // namespace

struct sparse_image::node {
    explicit node(bool page) noexcept : is_page(page) {}
    std::atomic<std::uint32_t> references{1};
    const bool is_page;
};

struct sparse_image::branch : node {
    branch() noexcept : node(false) {}
    std::array<node*, fanout> children{};
};

struct sparse_image::page : node {
    page() noexcept : node(true) {}
    std::array<std::byte, page_bytes> bytes{};
};

void sparse_image::retain(node* at) noexcept {
    if (at != nullptr) {
        at->references.fetch_add(1, std::memory_order_relaxed);  // pairs with release()'s acq_rel
    }
}

void sparse_image::release(node* at) noexcept {
    if (at == nullptr || at->references.fetch_sub(1, std::memory_order_acq_rel) != 1) {
        return;
    }
    if (at->is_page) {
        delete static_cast<page*>(at);
        return;
    }
    auto* const dying = static_cast<branch*>(at);
    for (node* const child : dying->children) {
        release(child);
    }
    delete dying;
}

sparse_image::sparse_image(const sparse_image& other) noexcept
    : size_bytes_(other.size_bytes_), root_(other.root_), height_(other.height_) {
    retain(root_);
}

sparse_image& sparse_image::operator=(const sparse_image& other) noexcept {
    retain(other.root_);
    release(root_);
    size_bytes_ = other.size_bytes_;
    root_ = other.root_;
    height_ = other.height_;
    return *this;
}

sparse_image::sparse_image(sparse_image&& other) noexcept
    : size_bytes_(std::exchange(other.size_bytes_, 0)),
      root_(std::exchange(other.root_, nullptr)),
      height_(std::exchange(other.height_, 0)) {
}

sparse_image& sparse_image::operator=(sparse_image&& other) noexcept {
    std::swap(size_bytes_, other.size_bytes_);
    std::swap(root_, other.root_);
    std::swap(height_, other.height_);
    return *this;
}

sparse_image::~sparse_image() {
    release(root_);
}

sparse_image::branch& sparse_image::own_branch(node*& slot) {
    if (slot == nullptr) {
        slot = new branch;
    } else if (slot->references.load(std::memory_order_acquire) != 1) {
        auto* const copy = new branch;
        copy->children = static_cast<branch*>(slot)->children;
        for (node* const child : copy->children) {
            retain(child);
        }
        release(std::exchange(slot, copy));
    }
    return *static_cast<branch*>(slot);
}

sparse_image::page& sparse_image::own_page(node*& slot) {
    if (slot == nullptr) {
        slot = new page;
    } else if (slot->references.load(std::memory_order_acquire) != 1) {
        auto* const copy = new page;
        copy->bytes = static_cast<page*>(slot)->bytes;
        release(std::exchange(slot, copy));
    }
    return *static_cast<page*>(slot);
}

void sparse_image::raise_tree_to(std::uint64_t page_index) {
    while (page_index >= pages_below(height_)) {
        if (root_ != nullptr) {
            auto* const above = new branch;
            above->children[0] = root_;
            root_ = above;
        }
        ++height_;
    }
}

const std::byte* sparse_image::find_page(std::uint64_t page_index) const noexcept {
    if (page_index >= pages_below(height_)) {
        return nullptr;
    }
    const node* at = root_;
    for (unsigned height = height_; at != nullptr && height > 0; --height) {
        const std::uint64_t slot = page_index >> (fanout_bits * (height - 1)) & (fanout - 1);
        at = static_cast<const branch*>(at)->children[slot];
    }
    return at == nullptr ? nullptr : static_cast<const page*>(at)->bytes.data();
}

std::byte* sparse_image::writable_page(std::uint64_t page_index) {
    raise_tree_to(page_index);
    node** slot = &root_;
    for (unsigned height = height_; height > 0; --height) {
        branch& owned = own_branch(*slot);
        slot = &owned.children[page_index >> (fanout_bits * (height - 1)) & (fanout - 1)];
    }
    return own_page(*slot).bytes.data();
}

void sparse_image::drop_pages(node*& slot, unsigned height, std::uint64_t begin_page,
                              std::uint64_t end_page) {
    if (slot == nullptr || begin_page >= end_page) {
        return;
    }
    if (begin_page == 0 && end_page >= pages_below(height)) {
        release(std::exchange(slot, nullptr));
        return;
    }
    branch& owned = own_branch(slot);
    const std::uint64_t child_pages = pages_below(height - 1);
    for (std::uint64_t i = begin_page / child_pages; i < fanout; ++i) {
        const std::uint64_t first_page = i * child_pages;
        if (first_page >= end_page) {
            break;
        }
        drop_pages(owned.children[i], height - 1, std::max(begin_page, first_page) - first_page,
                   std::min(end_page - first_page, child_pages));
    }
}

void sparse_image::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) const {
    while (!buffer.empty()) {
        const std::uint64_t begin = offset_bytes % page_bytes;
        const std::uint64_t length = std::min<std::uint64_t>(buffer.size(), page_bytes - begin);
        const std::byte* const bytes = find_page(offset_bytes / page_bytes);
        if (bytes == nullptr) {
            std::memset(buffer.data(), 0, length);
        } else {
            std::memcpy(buffer.data(), bytes + begin, length);
        }
        buffer = buffer.subspan(length);
        offset_bytes += length;
    }
}

void sparse_image::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    size_bytes_ = std::max(size_bytes_, offset_bytes + buffer.size());
    while (!buffer.empty()) {
        const std::uint64_t begin = offset_bytes % page_bytes;
        const std::uint64_t length = std::min<std::uint64_t>(buffer.size(), page_bytes - begin);
        std::memcpy(writable_page(offset_bytes / page_bytes) + begin, buffer.data(), length);
        buffer = buffer.subspan(length);
        offset_bytes += length;
    }
}

void sparse_image::zero(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    const std::uint64_t end_bytes = offset_bytes + length_bytes;
    size_bytes_ = std::max(size_bytes_, end_bytes);
    const auto zero_part = [this](std::uint64_t begin, std::uint64_t end) {
        if (begin < end && find_page(begin / page_bytes) != nullptr) {
            std::memset(writable_page(begin / page_bytes) + begin % page_bytes, 0, end - begin);
        }
    };
    const std::uint64_t whole_begin = (offset_bytes + page_bytes - 1) / page_bytes * page_bytes;
    const std::uint64_t whole_end = end_bytes / page_bytes * page_bytes;
    if (whole_begin > whole_end) {
        zero_part(offset_bytes, end_bytes);
        return;
    }
    zero_part(offset_bytes, whole_begin);
    drop_pages(root_, height_, whole_begin / page_bytes,
               std::min(whole_end / page_bytes, pages_below(height_)));
    zero_part(whole_end, end_bytes);
}

void sparse_image::resize(std::uint64_t size_bytes) {
    if (size_bytes < size_bytes_) {
        zero(size_bytes, size_bytes_ - size_bytes);
    }
    size_bytes_ = size_bytes;
}

sparse_image image_device::image() const {
    const lock_guard held(lock_);
    return image_;
}

result<std::uint64_t> image_device::size_bytes() const {
    const lock_guard held(lock_);
    return image_.size_bytes();
}

device_capabilities image_device::capabilities() const {
    return {.can_discard = true,
            .discard_zeroes = true,
            .fast_write_zeroes = true,
            .durable_flush = false};
}

result<void> image_device::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    const lock_guard held(lock_);
    UTHIN_TRY(check_range(name_, offset_bytes, buffer.size(), image_.size_bytes()));
    image_.read(offset_bytes, buffer);
    return {};
}

result<void> image_device::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    const lock_guard held(lock_);
    UTHIN_TRY(check_range(name_, offset_bytes, buffer.size(), image_.size_bytes()));
    image_.write(offset_bytes, buffer);
    return {};
}

result<void> image_device::discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    return write_zeroes(offset_bytes, length_bytes);
}

result<void> image_device::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    const lock_guard held(lock_);
    UTHIN_TRY(check_range(name_, offset_bytes, length_bytes, image_.size_bytes()));
    image_.zero(offset_bytes, length_bytes);
    return {};
}

result<void> image_device::grow(std::uint64_t size_bytes) {
    const lock_guard held(lock_);
    if (size_bytes > image_.size_bytes()) {
        image_.resize(size_bytes);
    }
    return {};
}

}  // namespace uthin::io
