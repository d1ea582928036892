#include "pool/copier.h"

#include <algorithm>
#include <array>

#include "base/aligned_buffer.h"
#include "pool/device_space.h"

namespace uthin::pool_engine {

namespace {

constexpr std::uint64_t piece_bytes = 512 << 10;
constexpr std::uint64_t pieces_in_flight = 8;

}  // namespace

result<void> copy_range(block_device& device, std::uint64_t from_bytes, std::uint64_t to_bytes,
                        std::uint64_t length_bytes) {
    if (length_bytes == 0) {
        return {};
    }
    aligned_buffer buffer(std::min(length_bytes, piece_bytes * pieces_in_flight));
    std::uint64_t done = 0;
    while (done < length_bytes) {
        std::array<io_op, pieces_in_flight> ops;
        std::size_t count = 0;
        std::uint64_t in_buffer = 0;
        while (count < pieces_in_flight && done + in_buffer < length_bytes) {
            const std::uint64_t piece = std::min(piece_bytes, length_bytes - done - in_buffer);
            ops[count] = {io_kind::read, from_bytes + done + in_buffer,
                          buffer.span().subspan(in_buffer, piece)};
            in_buffer += piece;
            ++count;
        }
        const std::span<io_op> batch(ops.data(), count);
        UTHIN_TRY(device.run(batch));
        for (io_op& op : batch) {
            op.kind = io_kind::write;
            op.offset_bytes = op.offset_bytes - from_bytes + to_bytes;
        }
        UTHIN_TRY(tell_full(device.run(batch)));
        done += in_buffer;
    }
    return {};
}

}  // namespace uthin::pool_engine
