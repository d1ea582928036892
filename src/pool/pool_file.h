// pool.json: where a pool's metadata and data are, and how it is to be run.
//
// Invariants
//   PF1  Changed by rename only; a file that is there is whole.
//   PF2  Fields that this version does not know are refused, not dropped: they may matter.
// Threads   Plain values.
// Failures  not_found (no pool.json), corrupt (not JSON, wrong types or values), unsupported (newer
//           version).
// Source    docs/catalogue.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "uthin/error.h"
#include "uthin/pool.h"

namespace uthin {

// How a data device that is a file or disk here is read and written.
enum class data_cache : std::uint8_t {
    none,      // around the page cache, where the file system lets us
    writeback  // through it: flushes make durable, and only they
};

struct pool_file {
    std::string uuid;
    // URLs as io::open_device takes them; a plain relative path is relative to the directory.
    std::string metadata = "metadata";
    std::string data = "data";
    // Made by the kernel, LVM or the tools: its transaction id is not ours to move.
    bool adopted = false;

    bool zero_new_blocks = true;
    discard_mode discard = discard_mode::passdown;
    bool error_if_no_space = false;
    bool read_only = false;
    std::chrono::seconds no_space_timeout{60};
    std::uint64_t low_water_blocks = 0;
    // The fields below are written when they say something: a pool that does not use them can be
    // opened by programs that do not know them.
    // The volumes' sizes may add up to so much of the data; 0: to anything.
    std::uint64_t overcommit_percent = 0;
    std::uint64_t discard_bytes_per_s = 0;  // 0: as fast as the device takes them
    data_cache cache = data_cache::none;

    bool operator==(const pool_file&) const = default;
};

[[nodiscard]] std::string_view to_string(discard_mode mode) noexcept;
[[nodiscard]] result<discard_mode> parse_discard_mode(std::string_view text);

[[nodiscard]] std::string_view to_string(data_cache cache) noexcept;
[[nodiscard]] result<data_cache> parse_data_cache(std::string_view text);

// "N%" of the data blocks, or a number of blocks.
[[nodiscard]] result<std::uint64_t> parse_low_water(std::string_view text,
                                                    std::uint64_t data_blocks);

// "off", or "N%".
[[nodiscard]] result<std::uint64_t> parse_overcommit(std::string_view text);

[[nodiscard]] result<std::string> format_pool_file(const pool_file& file);
// `path` is for messages.
[[nodiscard]] result<pool_file> parse_pool_file(std::string_view text, std::string_view path);

// Whether there is a DIR/pool.json, whatever it says.
[[nodiscard]] bool is_pool_directory(const std::string& path);
// DIR/pool.json.
[[nodiscard]] result<pool_file> load_pool_file(const std::string& directory);
[[nodiscard]] result<void> store_pool_file(const std::string& directory, const pool_file& file);

// `url` of a pool in `directory`, as io::open_device takes it.
[[nodiscard]] std::string resolved_url(const std::string& directory, const std::string& url);
// `url` as good from every working directory.
[[nodiscard]] std::string absolute_url(const std::string& url);
// The local path that a URL means; empty for anything else.
[[nodiscard]] std::string path_of_url(std::string_view url);

}  // namespace uthin
