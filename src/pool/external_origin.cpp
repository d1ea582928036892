#include "pool/external_origin.h"

#include <cstring>

namespace uthin::pool_engine {

result<std::shared_ptr<external_origin>> external_origin::make(
    std::unique_ptr<block_device> device) {
    const std::uint64_t size_bytes = UTHIN_TRY(device->size_bytes());
    return std::shared_ptr<external_origin>(new external_origin(std::move(device), size_bytes));
}

result<void> external_origin::notice_growth() {
    const std::uint64_t present_bytes = UTHIN_TRY(device_->size_bytes());
    if (present_bytes > size_bytes()) {
        size_bytes_.store(present_bytes);
    }
    return {};
}

result<void> external_origin::read(std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    const std::uint64_t end_bytes = size_bytes();
    const std::uint64_t inside =
        offset_bytes < end_bytes ? std::min<std::uint64_t>(buffer.size(), end_bytes - offset_bytes)
                                 : 0;
    if (inside > 0) {
        UTHIN_TRY(device_->read(offset_bytes, buffer.first(inside)));
    }
    std::memset(buffer.data() + inside, 0, buffer.size() - inside);
    return {};
}

}  // namespace uthin::pool_engine
