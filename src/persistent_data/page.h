// A metadata block in memory, and counted references to it.
//
// Invariants
//   PG1  The bytes of a page change only while nobody but its maker sees it.
//   PG2  A thread keeps at most 64 of the pages that it dropped (256 KiB), for its next ones.
// Threads   A block_ref belongs to one owner and may be passed between threads; a page may be held
// by block_refs of many.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/aligned_buffer.h"
#include "persistent_data/validator.h"

namespace uthin::persistent_data {

// One immutable image of a metadata block in memory.
class page {
public:
    // Its bytes are to be overwritten whole: they are zero, or left over from a page that this
    // thread dropped. The first block_ref owns it.
    [[nodiscard]] static page* make(metadata_block where, block_kind kind);
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

    page(metadata_block where, block_kind kind)
        : own_(metadata_block_size_bytes), data_(own_.data()), where_(where), kind_(kind) {}
    // After the last reference.
    static void drop(page* dropped) noexcept;

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
            page::drop(page_);
        }
    }
    page* page_ = nullptr;
};

}  // namespace uthin::persistent_data
