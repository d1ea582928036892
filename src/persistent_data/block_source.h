// Read access to metadata blocks, whatever stands behind: the writer's view, a committed state, an
// offline image.
//
// Invariants
//   BS1  The bytes behind a block_ref never change while it is held.
// Threads   As the implementation says; a block_ref may be passed between threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "persistent_data/validator.h"

namespace uthin::persistent_data {

// One immutable image of a metadata block in memory.
class page {
public:
    page(metadata_block where, block_kind kind)
        : own_(metadata_block_size_bytes), data_(own_.data()), where_(where), kind_(kind) {}
    // In memory that it shares with others, which stays as long as one of them.
    page(metadata_block where, block_kind kind, std::shared_ptr<aligned_buffer> shared,
         std::size_t offset_bytes)
        : shared_(std::move(shared)),
          data_(shared_->data() + offset_bytes),
          where_(where),
          kind_(kind) {}

    [[nodiscard]] metadata_block where() const noexcept { return where_; }
    [[nodiscard]] block_kind kind() const noexcept { return kind_; }
    [[nodiscard]] const_block_bytes bytes() const noexcept {
        return const_block_bytes(data_, metadata_block_size_bytes);
    }
    // Only before the page is shared with anybody.
    [[nodiscard]] block_bytes mutable_bytes() noexcept {
        return block_bytes(data_, metadata_block_size_bytes);
    }

private:
    friend class block_ref;
    friend class block_manager;

    aligned_buffer own_;
    std::shared_ptr<aligned_buffer> shared_;
    std::byte* data_;
    metadata_block where_;
    block_kind kind_;
    std::atomic<bool> recently_used_{true};
    std::atomic<std::uint32_t> references_{0};
};

// Shared ownership of a page.
class block_ref {
public:
    block_ref() noexcept = default;
    explicit block_ref(page* held) noexcept : page_(held) { acquire(); }
    block_ref(const block_ref& other) noexcept : page_(other.page_) { acquire(); }
    block_ref(block_ref&& other) noexcept : page_(std::exchange(other.page_, nullptr)) {}
    block_ref& operator=(block_ref other) noexcept {
        std::swap(page_, other.page_);
        return *this;
    }
    ~block_ref() { release(); }

    [[nodiscard]] explicit operator bool() const noexcept { return page_ != nullptr; }
    [[nodiscard]] metadata_block where() const noexcept { return page_->where(); }
    [[nodiscard]] const_block_bytes bytes() const noexcept { return page_->bytes(); }
    [[nodiscard]] const page* get() const noexcept { return page_; }

private:
    friend class block_manager;

    void acquire() noexcept {
        if (page_ != nullptr) {
            // relaxed: a new reference is only made from one that is held already.
            page_->references_.fetch_add(1, std::memory_order_relaxed);
        }
    }
    void release() noexcept {
        // acq_rel pairs the last release with all earlier ones before the memory is freed.
        if (page_ != nullptr && page_->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            delete page_;
        }
    }
    page* page_ = nullptr;
};

class block_source {
public:
    block_source() = default;
    block_source(const block_source&) = delete;
    block_source& operator=(const block_source&) = delete;
    virtual ~block_source() = default;

    // out_of_range, io_error, wrong_block, corrupt; would_block from a source that must not wait.
    [[nodiscard]] virtual result<block_ref> read(metadata_block where, block_kind kind) = 0;
    // Blocks of the device; every pointer is tested against it before it is followed.
    [[nodiscard]] virtual std::uint64_t block_count() const = 0;
    // A hint that these blocks are read next, in one batch.
    virtual void prefetch(std::span<const metadata_block> blocks, block_kind kind) = 0;
    // A hint that these blocks (numbers) are going to be read once, in this order. False: the
    // source does not make use of it, and prefetch() is worth calling.
    virtual bool plan(std::vector<std::uint32_t> /*order*/, block_kind /*kind*/) { return false; }
};

}  // namespace uthin::persistent_data
