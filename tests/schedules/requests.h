// What the two clients of a schedule ask of a tiny pool, what came of it, and in which order it
// could have happened one after the other.
//
// Volumes consist of cells, half a data block each, which hold one stamp all over.
//
// Threads   Plain values.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "schedules/stepped_device.h"
#include "uthin/error.h"

namespace uthin::test {

inline constexpr std::uint64_t block_bytes = 64 << 10;
inline constexpr std::uint64_t cell_bytes = block_bytes / 2;
inline constexpr std::size_t cells_max = 8;
inline constexpr std::size_t volumes_max = 8;
inline constexpr std::uint64_t torn = ~std::uint64_t{0};  // a cell with more than one stamp

enum class request_kind : std::uint8_t {
    write,
    write_fua,
    read,
    discard,
    set_size,
    open,
    close,
    flush,
    snapshot,
    remove,
    remove_in_background,
    // Of the pool, and without effect on what volumes hold.
    commit,
    grow,
    trim,
    reserve_metadata_snap,
    release_metadata_snap,
    check_view,
    merge,
    flatten,
    close_pool,
    break_writes,  // commits while writes of the metadata device fail
    break_flushes,
    mend,
    fail_without_space,
};

struct power_cut {
    stepped_device::pages metadata;
    stepped_device::pages data;
};

struct request {
    request_kind kind = request_kind::read;
    std::uint64_t volume = 0;
    std::uint64_t first = 0;       // cell
    std::uint64_t count = 1;       // cells
    std::uint64_t value = 0;       // stamp, size in cells, size in blocks or volume
    bool cuts_power = false;       // when it succeeds; the whole pool must be right then
    bool cut_keeps_cache = false;  // of the metadata

    std::uint64_t begun = 0;  // steps of the scheduler
    std::uint64_t ended = 0;
    std::optional<error_code> failure{};
    std::string message{};              // of the failure
    std::vector<std::uint64_t> seen{};  // stamps
    std::optional<power_cut> cut{};

    [[nodiscard]] bool is_write() const {
        return kind == request_kind::write || kind == request_kind::write_fua ||
               kind == request_kind::discard;
    }
    [[nodiscard]] bool covers(std::uint64_t cell) const {
        return cell >= first && cell < first + count;
    }
    [[nodiscard]] std::uint64_t stamp() const { return kind == request_kind::discard ? 0 : value; }
};
using requests = std::vector<request>;

struct volume_content {
    bool exists = false;
    bool doomed = false;
    std::uint32_t open = 0;
    std::uint64_t size = cells_max;
    std::array<std::uint64_t, cells_max> cells{};
    [[nodiscard]] bool reads_as(const volume_content& other) const {
        return exists == other.exists && (!exists || cells == other.cells);
    }
};
using pool_content = std::array<volume_content, volumes_max>;

// The two clients' requests (of writes the part in each block) have an order, none before one that
// ended before it began, in which one after the other gives every outcome that was seen, and what
// is there at the end.
[[nodiscard]] bool has_serial_order(const pool_content& begin, const requests& first,
                                    const requests& second, const pool_content& end);

// What `bound` makes durable is there, and nothing that was never written. What differs, or
// nothing.
[[nodiscard]] std::string lost_by(const pool_content& begin, const requests& first,
                                  const requests& second, const request& bound,
                                  const pool_content& found);

[[nodiscard]] std::string to_string(const request& one);
[[nodiscard]] std::string to_string(const pool_content& content);

}  // namespace uthin::test
