// What a pool on healthy devices holds, for tests that let devices or memory fail before.
//
// Threads   One.
// Failures  Those of the pool; `corrupt` when the metadata is not clean, data blocks have leaked,
//           the mode is not the one that needs_check says, or a sector is torn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "support/pool_state.h"
#include "uthin/pool.h"

namespace uthin::test {

struct judge_options {
    std::uint64_t block_bytes = 0;
    std::uint64_t volume_blocks = 0;  // read of each device
    std::uint64_t main_id = 0;        // of it every sector, of the others the ends of each block
};

struct judged_pool {
    pool_state metadata;  // without needs_check, which the mode tells
    // One byte for each sector read; all of it is equal.
    std::map<std::uint64_t, std::vector<std::byte>> data;
};

// Opens the pool, reads it, sees that it can be used and closes it.
[[nodiscard]] result<judged_pool> judge_pool(block_device& metadata_device,
                                             block_device& data_device, const judge_options& how);
[[nodiscard]] result<std::vector<std::byte>> sectors_of(volume& of, std::uint64_t offset_bytes,
                                                        std::uint64_t length_bytes);

}  // namespace uthin::test
