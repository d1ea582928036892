#include "uthin/block_device.h"

#include <fmt/format.h>

#include "base/result.h"

namespace uthin {

result<void> block_device::run(std::span<const io_op> ops) {
    result<void> first;
    for (const io_op& op : ops) {
        result<void> ended = op.kind == io_kind::read ? read(op.offset_bytes, op.buffer_bytes)
                                                      : write(op.offset_bytes, op.buffer_bytes);
        if (!ended && first) {
            first = std::move(ended);
        }
    }
    return first;
}

void block_device::take_space(std::uint64_t /*offset_bytes*/, std::uint64_t /*length_bytes*/) {
}

result<void> block_device::write_fua(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) {
    UTHIN_TRY(write(offset_bytes, buffer));
    return flush();
}

result<void> block_device::grow(std::uint64_t size_bytes) {
    const std::uint64_t present_bytes = UTHIN_TRY(this->size_bytes());
    if (present_bytes >= size_bytes) {
        return {};
    }
    return fail(error_code::unsupported,
                fmt::format("{} has {} bytes and cannot be grown to {} here; grow it where it is "
                            "made, then try again",
                            name(), present_bytes, size_bytes));
}

}  // namespace uthin
