// Reads blocks ahead of their use when the order of use is known: in large pieces, and, when they
// are many, on threads of its own that verify them too.
//
// Invariants
//   RA1  take() gives a block only after it passed check_block(); whatever is wrong with a block,
//        or with the order, is no error here: the caller reads the block in the ordinary way.
//   RA2  Memory: the order, and a bounded number of windows of 512 KiB beside those that somebody
//        still holds.
// Threads   take() is the owner's, one at a time; any thread.
// Failures  None.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "persistent_data/block_source.h"
#include "uthin/block_device.h"

namespace uthin::persistent_data {

class read_ahead {
public:
    // `device` outlives it; blocks from `block_count` on are passed over.
    read_ahead(block_device& device, std::uint64_t block_count, std::vector<std::uint32_t> order,
               block_kind kind);
    read_ahead(const read_ahead&) = delete;
    read_ahead& operator=(const read_ahead&) = delete;
    ~read_ahead();

    // The block, if it is the next in the order or soon after; null when it is not. Blocks before
    // it in the order are given up.
    [[nodiscard]] block_ref take(metadata_block where);

private:
    static constexpr std::size_t window_blocks = 128;
    static constexpr std::size_t look_ahead_blocks = 2 * window_blocks;
    static constexpr std::uint32_t threads_max = 4;
    static constexpr std::uint16_t unsound = UINT16_MAX;
    // Below this a thread costs more than it helps.
    static constexpr std::size_t threaded_blocks_min = 4 * window_blocks;

    // Some successive blocks of the order.
    struct window {
        std::shared_ptr<aligned_buffer> memory;
        // Where in the memory each of them is; `unsound` for those that take() does not give.
        std::vector<std::uint16_t> slots;
        bool ready = false;
    };

    void work();
    void load(std::size_t index, window& into);
    // Gives none of its blocks when there is no memory.
    void load_if_possible(std::size_t index, window& into);
    // Gives up the windows before this one and waits until it is ready.
    void enter(std::size_t index);
    [[nodiscard]] std::size_t window_count() const noexcept {
        return (order_.size() + window_blocks - 1) / window_blocks;
    }

    block_device& device_;
    std::uint64_t block_count_;
    const std::vector<std::uint32_t> order_;
    block_kind kind_;
    std::size_t at_ = 0;  // the consumer's place in the order
    // The window that it has entered: ready, and nobody else's until it enters the next.
    std::optional<std::size_t> entered_;
    mutex lock_;
    condition changed_;
    // A ring: window i is in slot i % size.
    std::vector<window> windows_;
    std::size_t next_window_ GUARDED_BY(lock_) = 0;   // the first that nobody has begun to read
    std::size_t first_window_ GUARDED_BY(lock_) = 0;  // the consumer's
    bool stopping_ GUARDED_BY(lock_) = false;
    std::vector<std::unique_ptr<thread>> threads_;
};

}  // namespace uthin::persistent_data
