// What a pool's metadata says, as plain maps: the reference that harnesses compare with.
//
// A pool_state knows nothing of sharing, reference counts or trees. Two states are the same exactly
// when difference() is empty.
//
// Threads   Plain values.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "thin_metadata/metadata_view.h"
#include "uthin/metadata.h"

namespace uthin::test {

struct mapped_block {
    std::uint64_t data = 0;
    std::uint32_t time = 0;
    // What was last written through this mapping, and what came with it; 0: nobody keeps track. Not
    // compared.
    std::uint64_t content = 0;
    std::uint64_t first_content = 0;
};

struct device_state {
    device_details details;
    std::map<std::uint64_t, mapped_block> mappings;
};

using device_states = std::map<std::uint64_t, device_state>;

struct pool_state {
    std::uint64_t transaction_id = 0;
    std::uint32_t time = 0;
    bool needs_check = false;
    std::uint64_t data_blocks = 0;
    std::uint64_t metadata_blocks = 0;
    device_states devices;
    // Behind the metadata snapshot, if one is held.
    std::shared_ptr<const device_states> held;

    // Mappings that name a data block, over all devices (not the held ones).
    [[nodiscard]] std::uint64_t references(std::uint64_t data) const;
};

// Walks both trees of a view. The metadata snapshot's trees too, through `device` (unless null).
[[nodiscard]] result<pool_state> read_state(thin_metadata::metadata_view& view,
                                            block_device* device);
// One line about the first difference, empty when there is none.
[[nodiscard]] std::string difference(const pool_state& expected, const pool_state& found);
[[nodiscard]] std::string difference(const device_states& expected, const device_states& found);

// Full check by the library; one line about what it found, empty when it is clean.
[[nodiscard]] std::string check_complaint(thin_metadata::metadata_view& view);

}  // namespace uthin::test
