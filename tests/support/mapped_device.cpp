#include "support/mapped_device.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace uthin::test {

int target::message(const std::string&) {
    return EINVAL;
}

std::string target::status(bool) {
    return "";
}

std::string target::table() const {
    std::string text;
    for (const std::string& word : line_.words) {
        text += (text.empty() ? "" : " ") + word;
    }
    return text;
}

bool fit(const target_list& targets) {
    return std::all_of(targets.begin(), targets.end(), [](const auto& one) { return one->fits(); });
}

result<std::uint64_t> mapped_device::size_bytes() const {
    const auto table = live();
    if (table == nullptr || table->empty()) {
        return 0;
    }
    return table->back()->begin_bytes() + table->back()->length_bytes();
}

device_capabilities mapped_device::capabilities() const {
    device_capabilities can;
    can.can_discard = true;
    if (const auto table = live()) {
        for (const auto& one : *table) {
            can.can_discard = can.can_discard && one->can_discard();
        }
    }
    return can;
}

template <class Do>
result<void> mapped_device::each_piece(std::uint64_t offset, std::uint64_t length,
                                       const Do& act) const {
    wait_until_running();
    const auto table = live();
    if (table == nullptr || offset + length > *size_bytes()) {
        return fail(table == nullptr ? error_code::io_error : error_code::out_of_range,
                    name_ + ": beyond the end of the device");
    }
    std::uint64_t done = 0;
    for (const auto& one : *table) {
        const std::uint64_t end = one->begin_bytes() + one->length_bytes();
        if (done < length && offset + done < end) {
            const std::uint64_t piece = std::min(length - done, end - (offset + done));
            if (auto ended = act(*one, offset + done - one->begin_bytes(), done, piece); !ended) {
                return ended;
            }
            done += piece;
        }
    }
    return {};
}

result<void> mapped_device::read(std::uint64_t offset, std::span<std::byte> buffer) {
    return each_piece(offset, buffer.size(),
                      [&](target& to, std::uint64_t at, std::uint64_t done, std::uint64_t piece) {
                          return to.read(at, buffer.subspan(done, piece));
                      });
}

result<void> mapped_device::write(std::uint64_t offset, std::span<const std::byte> buffer) {
    return each_piece(offset, buffer.size(),
                      [&](target& to, std::uint64_t at, std::uint64_t done, std::uint64_t piece) {
                          return to.write(at, buffer.subspan(done, piece));
                      });
}

result<void> mapped_device::discard(std::uint64_t offset, std::uint64_t length) {
    return each_piece(offset, length,
                      [](target& to, std::uint64_t at, std::uint64_t, std::uint64_t piece) {
                          return to.discard(at, piece);
                      });
}

result<void> mapped_device::write_zeroes(std::uint64_t offset, std::uint64_t length) {
    const std::vector<std::byte> zeros(length);
    return write(offset, zeros);
}

result<void> mapped_device::flush() {
    wait_until_running();
    if (const auto table = live()) {
        for (const auto& one : *table) {
            if (auto flushed = one->flush(); !flushed) {
                return flushed;
            }
        }
    }
    return {};
}

std::shared_ptr<target_list> mapped_device::live() const {
    const std::lock_guard held(lock_);
    return live_;
}

std::shared_ptr<target_list> mapped_device::waiting() const {
    const std::lock_guard held(lock_);
    return waiting_;
}

void mapped_device::set_waiting(std::shared_ptr<target_list> table) {
    std::shared_ptr<target_list> old;  // ends outside the lock
    const std::lock_guard held(lock_);
    old = std::exchange(waiting_, std::move(table));
}

bool mapped_device::suspended() const {
    const std::lock_guard held(lock_);
    return suspended_;
}

int mapped_device::suspend() {
    if (live() == nullptr) {
        return EINVAL;
    }
    {
        const std::lock_guard held(lock_);
        suspended_ = true;
    }
    for (const auto& one : *live()) {
        one->after_suspend();
    }
    return 0;
}

// A table that waits is swapped in first and stays there when the targets refuse to resume. One
// that does not fit is dropped; the device is suspended then.
int mapped_device::resume() {
    std::shared_ptr<target_list> old;
    {
        const std::lock_guard held(lock_);
        if (waiting_ != nullptr && live_ != nullptr && !fit(*waiting_)) {
            old = std::exchange(waiting_, nullptr);
            suspended_ = true;
            return EINVAL;
        }
    }
    {
        const std::lock_guard held(lock_);
        if (waiting_ != nullptr) {
            suspended_ = suspended_ || live_ != nullptr;
            old = std::exchange(live_, std::exchange(waiting_, nullptr));
        }
        if (live_ == nullptr) {
            return ENXIO;
        }
    }
    for (const auto& one : *live()) {
        if (const int refused = one->before_resume(); refused != 0) {
            const std::lock_guard held(lock_);
            suspended_ = true;
            return refused;
        }
    }
    const std::lock_guard held(lock_);
    suspended_ = false;
    running_.notify_all();
    return 0;
}

void mapped_device::wait_until_running() const {
    constexpr auto look_again = std::chrono::milliseconds(5);
    const auto waits = [this] {
        if (suspended_) {
            return true;
        }
        if (live_ != nullptr) {
            for (const auto& one : *live_) {
                if (one->waits_for() != nullptr && one->waits_for()->suspended()) {
                    return true;
                }
            }
        }
        return false;
    };
    std::unique_lock held(lock_);
    while (waits()) {
        running_.wait_for(held, look_again);
    }
}

}  // namespace uthin::test
