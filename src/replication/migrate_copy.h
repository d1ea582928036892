// Applies the difference of two volumes of one pool to a volume of another.
//
// Invariants
//   MC1  Costs what differs; the block sizes of the pools need not be the same.
//   MC2  Nothing is written where the two are the same.
//   MC3  The devices are those that the caller saw: not_found when another one has a name by now.
// Threads   One.
// Failures  Those of the pools; corrupt: what was read back is not what was written.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/aligned_buffer.h"
#include "pool/pool_service.h"
#include "uthin/thin.h"

namespace uthin::replication {

struct change_cost {
    std::uint64_t data_bytes = 0;
    // Of `block_bytes`, with data in them; a block that two ranges touch may count twice.
    std::uint64_t touched_blocks = 0;
};

// Stops when there is more data than `data_bytes_max`. Without `block_bytes` blocks are not
// counted.
// `from`: null for nothing.
[[nodiscard]] result<change_cost> cost_of_changes(pool_service& pool, const volume_info* from,
                                                  const volume_info& to,
                                                  std::uint64_t data_bytes_max,
                                                  std::uint64_t block_bytes = 0);

class change_copier {
public:
    // `content` are the bytes of the volume that is copied. All outlive the object.
    change_copier(pool_service& pool, volume_data& content, volume& into)
        : pool_(pool), content_(content), into_(into) {}

    void on_progress(std::function<void(std::uint64_t copied_bytes)> call) {
        progress_ = std::move(call);
    }
    // `into` holds `from` (null: zeros); it holds `to` afterwards, durably.
    [[nodiscard]] result<void> copy(const volume_info* from, const volume_info& to);
    // The ranges that differ between the two, as they are in `into`.
    [[nodiscard]] result<void> verify(const volume_info* from, const volume_info& to);

    [[nodiscard]] std::uint64_t copied_bytes() const noexcept { return copied_bytes_; }

private:
    enum class range_kind : std::uint8_t {
        data,
        zeros,
        seam,  // data that may be there already
    };
    using range_function = std::function<result<void>(std::uint64_t begin_bytes,
                                                      std::uint64_t end_bytes, range_kind kind)>;
    [[nodiscard]] result<void> for_each(const volume_info* from, const volume_info& to,
                                        const range_function& call);
    [[nodiscard]] result<void> copy_range(std::uint64_t begin_bytes, std::uint64_t end_bytes,
                                          range_kind kind);
    [[nodiscard]] result<void> copy_piece(std::uint64_t offset_bytes,
                                          std::span<const std::byte> bytes);
    [[nodiscard]] result<void> compare_range(std::uint64_t begin_bytes, std::uint64_t end_bytes,
                                             range_kind kind);

    pool_service& pool_;
    volume_data& content_;
    volume& into_;
    std::function<void(std::uint64_t)> progress_;
    std::uint64_t copied_bytes_ = 0;
    aligned_buffer buffer_{1U << 20};
    aligned_buffer other_{1U << 20};
};

}  // namespace uthin::replication
