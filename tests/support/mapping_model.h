// Pools as plain tables of mappings: made at random, turned into a metadata image, read back.
//
// Threads   One at a time.
// Failures  Of making an image: reported to GoogleTest, and null is returned.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "base/random.h"
#include "support/mapping_recorder.h"
#include "uthin/block_device.h"

namespace uthin::test {

struct mapping_model {
    using table = mapping_recorder::mapping_table;

    thin_metadata::pool_header pool{.time = 9,
                                    .transaction_id = 4,
                                    .version = 2,
                                    .data_block_size_sectors = 128,
                                    .data_blocks = 1000};
    std::map<std::uint64_t, mapping_recorder::device> devices;
};

struct model_limits {
    std::uint64_t devices_max = 5;
    std::uint64_t runs_max = 60;  // of each device
    std::uint64_t run_max = 40;
    std::uint64_t data_blocks = 3000;
    std::uint64_t used_blocks_max = 2000;
};
// Later devices share parts of earlier ones.
[[nodiscard]] mapping_model random_model(random_generator& random, const model_limits& limits);

// The whole stream, without shared pieces.
[[nodiscard]] result<void> send(const mapping_model& model, thin_metadata::mapping_sink& sink);
// What `sender` sends, as metadata.
[[nodiscard]] std::unique_ptr<block_device> image_of(const mapping_model& model,
                                                     std::uint64_t metadata_blocks = 512);
// What an image holds; absent after a test failure.
[[nodiscard]] std::optional<mapping_model> model_of(block_device& image);
// Checks clean: no finding but cosmetic ones.
void expect_clean(block_device& image);

}  // namespace uthin::test
