// Damage and its repair, for tests of the salvage: one thing is broken, everything that can be kept
// is restored, and all of it is held against the state before.
//
// Threads   One at a time.
// Failures  Non-fatal GoogleTest failures.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "io/memory_device.h"
#include "support/mapping_recorder.h"
#include "thin_metadata/salvage.h"

namespace uthin::test {

using block_image = std::array<std::byte, metadata_block_size_bytes>;
[[nodiscard]] block_image read_block(block_device& device, std::uint64_t where);
void write_block(block_device& device, std::uint64_t where, const block_image& bytes);

// Damage that is undone at the end of its life.
class damaged_block {
public:
    enum class how : std::uint8_t { one_bit, noise, zeros };
    damaged_block(block_device& device, std::uint64_t where, how kind);
    // The checksum is right again afterwards.
    damaged_block(block_device& device, std::uint64_t where,
                  const std::function<void(persistent_data::node_editor&)>& change);
    damaged_block(const damaged_block&) = delete;
    damaged_block& operator=(const damaged_block&) = delete;
    ~damaged_block() { write_block(device_, where_, before_); }

private:
    block_device& device_;
    std::uint64_t where_;
    block_image before_;
};

struct pool_state {
    thin_metadata::pool_header header;
    std::map<std::uint64_t, mapping_recorder::device> devices;
};
[[nodiscard]] pool_state state_of(block_device& device);

struct salvage_outcome {
    thin_metadata::salvage_report report;
    std::map<std::uint64_t, mapping_recorder::device> devices;
    std::map<std::uint64_t, std::uint64_t> missing;  // mappings of each device
    std::unique_ptr<block_device> restored;

    [[nodiscard]] std::uint64_t all_missing() const;
};

// What the plan sends, on a device of its own; our checker finds nothing in it.
[[nodiscard]] std::unique_ptr<block_device> restored_from(thin_metadata::salvage& plan,
                                                          std::uint64_t size_bytes);
// Every mapping of `before` is there, or in a lost range; in no lost range is one; and the numbers
// of the report are true.
[[nodiscard]] salvage_outcome salvaged(block_device& device, const pool_state& before,
                                       const thin_metadata::salvage_options& options = {});

// Blocks of the trees, by what they are.
struct tree_blocks {
    std::vector<std::uint64_t> leaves;
    std::vector<std::uint64_t> internal_nodes;
    std::vector<std::uint64_t> top;
    std::vector<std::uint64_t> details;
};
[[nodiscard]] tree_blocks tree_blocks_of(block_device& device);

}  // namespace uthin::test
