// A repair that was told a root for device 2^64 - 1 read behind the end of the other list of
// devices, where that number meant "no more". The tools refuse such ids; the library did not.
// (Found by the fuzz target `repair`.)
#include <cstdint>

#include <gtest/gtest.h>

#include "io/memory_device.h"
#include "support/matchers.h"
#include "support/salvage_rig.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

using test::HasCode;

constexpr std::uint64_t device_bytes = 256 * metadata_block_size_bytes;

void make_pool(block_device& device) {
    ASSERT_OK_AND_ASSIGN(const auto pool,
                         metadata::open(device, {.data_block_size_sectors = 128, .format = true}));
    ASSERT_OK(pool->resize_data(100));
    ASSERT_OK(pool->create_thin(device_id(1)));
    ASSERT_OK(pool->commit());
    ASSERT_OK(pool->close());
}

TEST(RootsByHand, AreOfDevices) {
    io::memory_device device(device_bytes);
    make_pool(device);
    thin_metadata::salvage_options options;
    const metadata_block root(test::tree_blocks_of(device).leaves.at(0));
    options.device_roots[device_id_max] = root;
    ASSERT_OK(thin_metadata::salvage::plan(device, options));
    for (const std::uint64_t id : {device_id_max + 1, UINT64_MAX}) {
        options.device_roots = {{id, root}};
        ASSERT_THAT(thin_metadata::salvage::plan(device, options),
                    HasCode(error_code::invalid_argument));
    }
}

}  // namespace
}  // namespace uthin
