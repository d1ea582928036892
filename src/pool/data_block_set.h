// A set of data blocks that mostly come and go beside each other: a bit each, 64 to a word, so that
// the one after the last one asked for is found without a search.
//
// Threads   One at a time.
// Failures  insert() throws std::bad_alloc, after which the set is as it was.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>

#include "uthin/units.h"

namespace uthin::pool_engine {

class data_block_set {
public:
    data_block_set() = default;
    // last_ points into the map.
    data_block_set(const data_block_set&) = delete;
    data_block_set& operator=(const data_block_set&) = delete;

    // False: it was in there.
    bool insert(data_block block) {
        const std::uint64_t index = block.value() / word_bits;
        if (last_ == nullptr || last_index_ != index) {
            last_ = &words_[index];
            last_index_ = index;
        }
        if ((*last_ & bit_of(block)) != 0) {
            return false;
        }
        *last_ |= bit_of(block);
        ++size_;
        return true;
    }
    // Nothing, if it is not in there.
    void erase(data_block block) noexcept {
        const std::uint64_t index = block.value() / word_bits;
        if (last_ == nullptr || last_index_ != index) {
            const auto found = words_.find(index);
            if (found == words_.end()) {
                return;
            }
            last_ = &found->second;
            last_index_ = index;
        }
        if ((*last_ & bit_of(block)) == 0) {
            return;
        }
        *last_ &= ~bit_of(block);
        --size_;
        if (*last_ == 0) {
            words_.erase(index);
            last_ = nullptr;
        }
    }
    void clear() noexcept {
        words_.clear();
        last_ = nullptr;
        size_ = 0;
    }
    [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    // In ascending order, until `fn` returns an error; `fn` leaves the set alone.
    template <class Fn>
    [[nodiscard]] auto for_each(const Fn& fn) const -> decltype(fn(data_block(0))) {
        for (const auto& [index, word] : words_) {
            for (std::uint64_t left = word; left != 0; left &= left - 1) {
                const auto bit = static_cast<std::uint64_t>(std::countr_zero(left));
                if (auto done = fn(data_block(index * word_bits + bit)); !done) {
                    return done;
                }
            }
        }
        return {};
    }

private:
    static constexpr std::uint64_t word_bits = 64;
    static std::uint64_t bit_of(data_block block) noexcept {
        return std::uint64_t{1} << block.value() % word_bits;
    }

    std::map<std::uint64_t, std::uint64_t> words_;
    std::uint64_t* last_ = nullptr;  // the word that was found last
    std::uint64_t last_index_ = 0;
    std::size_t size_ = 0;
};

}  // namespace uthin::pool_engine
