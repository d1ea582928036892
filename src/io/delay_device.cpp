#include "io/delay_device.h"

#include <algorithm>

namespace uthin::io {

void delay_device::sleep(std::chrono::nanoseconds duration) {
    if (duration.count() > 0) {
        clock_.sleep_for(duration);
    }
}

result<void> delay_device::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    sleep(delay(operation_kind::read));
    return below_.read(offset_bytes, buffer);
}

result<void> delay_device::write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) {
    sleep(delay(operation_kind::write));
    return below_.write(offset_bytes, buffer);
}

result<void> delay_device::flush() {
    sleep(delay(operation_kind::flush));
    return below_.flush();
}

result<void> delay_device::discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    sleep(delay(operation_kind::discard));
    return below_.discard(offset_bytes, length_bytes);
}

result<void> delay_device::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    sleep(delay(operation_kind::write_zeroes));
    return below_.write_zeroes(offset_bytes, length_bytes);
}

result<void> delay_device::run(std::span<const io_op> ops) {
    std::chrono::nanoseconds longest{0};
    for (const io_op& op : ops) {
        longest = std::max(longest, delay(op.kind == io_kind::read ? operation_kind::read
                                                                   : operation_kind::write));
    }
    sleep(longest);
    return below_.run(ops);
}

result<void> delay_device::write_fua(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) {
    sleep(delay(operation_kind::write) + delay(operation_kind::flush));
    return below_.write_fua(offset_bytes, buffer);
}

result<void> delay_device::grow(std::uint64_t size_bytes) {
    sleep(delay(operation_kind::resize));
    return below_.grow(size_bytes);
}

}  // namespace uthin::io
