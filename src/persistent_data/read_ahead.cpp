#include "persistent_data/read_ahead.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include "base/out_of_memory.h"

namespace uthin::persistent_data {

read_ahead::read_ahead(block_device& device, std::uint64_t block_count,
                       std::vector<std::uint32_t> order, block_kind kind)
    : device_(device), block_count_(block_count), order_(std::move(order)), kind_(kind) {
    const std::uint32_t wanted =
        order_.size() < threaded_blocks_min ? 0 : std::min(processor_count(), threads_max);
    windows_.resize(std::size_t{2} * wanted + 2);
    if_memory_allows([&] {
        threads_.reserve(wanted);
        for (std::uint32_t count = 0; count < wanted; ++count) {
            auto worker = std::make_unique<thread>();
            if (!worker->start([this] { work(); })) {
                break;
            }
            threads_.push_back(std::move(worker));
        }
    });
}

read_ahead::~read_ahead() {
    {
        const lock_guard held(lock_);
        stopping_ = true;
        changed_.notify_all();
    }
    threads_.clear();
}

void read_ahead::work() {
    lock_.lock();
    while (!stopping_ && next_window_ < window_count()) {
        if (next_window_ >= first_window_ + windows_.size()) {
            changed_.wait(lock_);
            continue;
        }
        const std::size_t index = next_window_++;
        window& into = windows_[index % windows_.size()];
        lock_.unlock();
        load_if_possible(index, into);
        lock_.lock();
        into.ready = true;
        changed_.notify_all();
    }
    lock_.unlock();
}

void read_ahead::load_if_possible(std::size_t index, window& into) {
    into.slots.clear();
    if_memory_allows([&] { load(index, into); });
}

void read_ahead::load(std::size_t index, window& into) {
    const std::size_t begin = index * window_blocks;
    const std::size_t count = std::min(window_blocks, order_.size() - begin);
    const std::span<const std::uint32_t> wanted = std::span(order_).subspan(begin, count);
    // Pages that somebody still holds keep their memory.
    if (into.memory != nullptr && into.memory.use_count() == 1) {
        // Pairs with the release of the last page: its reader has finished.
        std::atomic_thread_fence(std::memory_order_acquire);
    } else {
        into.memory = std::make_shared<aligned_buffer>(window_blocks * metadata_block_size_bytes);
    }
    std::vector<std::uint32_t> by_block(count);
    std::iota(by_block.begin(), by_block.end(), 0U);
    std::ranges::sort(by_block, {}, [&](std::uint32_t at) { return wanted[at]; });
    std::vector<io_op> pieces;
    std::size_t slot = 0;
    for (; slot < count && wanted[by_block[slot]] < block_count_; ++slot) {
        const std::uint64_t offset_bytes =
            std::uint64_t{wanted[by_block[slot]]} * metadata_block_size_bytes;
        const std::span<std::byte> place = into.memory->span().subspan(
            slot * metadata_block_size_bytes, metadata_block_size_bytes);
        if (!pieces.empty() &&
            pieces.back().offset_bytes + pieces.back().buffer_bytes.size() == offset_bytes) {
            std::span<std::byte>& last = pieces.back().buffer_bytes;
            last = std::span(last.data(), last.size() + place.size());
        } else {
            pieces.push_back({io_kind::read, offset_bytes, place});
        }
    }
    into.slots.assign(count, unsound);
    if (pieces.empty() || !device_.run(pieces)) {
        return;
    }
    for (std::size_t done = 0; done < slot; ++done) {
        const metadata_block where(wanted[by_block[done]]);
        const std::size_t offset_bytes = done * metadata_block_size_bytes;
        const const_block_bytes bytes(into.memory->data() + offset_bytes,
                                      metadata_block_size_bytes);
        if (check_block(kind_, where, bytes)) {
            into.slots[by_block[done]] = static_cast<std::uint16_t>(done);
        }
    }
}

void read_ahead::enter(std::size_t index) {
    window& wanted = windows_[index % windows_.size()];
    const lock_guard held(lock_);
    if (first_window_ != index) {
        for (; first_window_ != index; ++first_window_) {
            window& passed = windows_[first_window_ % windows_.size()];
            while (!threads_.empty() && !passed.ready) {
                changed_.wait(lock_);
            }
            passed.ready = false;
        }
        changed_.notify_all();
    }
    if (threads_.empty() && !wanted.ready) {
        load_if_possible(index, wanted);
        wanted.ready = true;
    }
    while (!wanted.ready) {
        changed_.wait(lock_);
    }
    entered_ = index;
}

block_ref read_ahead::take(metadata_block where) {
    const std::size_t end = std::min(at_ + look_ahead_blocks, order_.size());
    std::size_t found = at_;
    while (found < end && order_[found] != where.value()) {
        ++found;
    }
    if (found == end) {
        return {};
    }
    const std::size_t index = found / window_blocks;
    if (entered_ != index) {
        enter(index);
    }
    at_ = found + 1;
    window& from = windows_[index % windows_.size()];
    const std::size_t place = found % window_blocks;
    if (place >= from.slots.size()) {
        return {};  // there was no memory for the window
    }
    const std::uint16_t slot = std::exchange(from.slots[place], unsound);
    if (slot == unsound) {
        return {};
    }
    return block_ref(
        new page(where, kind_, from.memory, std::size_t{slot} * metadata_block_size_bytes));
}

}  // namespace uthin::persistent_data
