// What the tools do with a pool's metadata, as single calls: check, dump to XML, restore, list.
//
// Threads   One at a time for each device.
// Failures  Those of the library.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "support/mapping_recorder.h"
#include "uthin/block_device.h"

namespace uthin::test {

// Remembers the devices only.
class nowhere final : public thin_metadata::mapping_sink {
public:
    result<void> begin_pool(const thin_metadata::pool_header&) override { return {}; }
    result<void> begin_shared(std::string_view) override { return {}; }
    result<void> end_shared() override { return {}; }
    result<void> begin_device(const thin_device_info& device) override {
        devices.push_back(device.id);
        return {};
    }
    result<void> run(const mapping_run&) override { return {}; }
    result<void> reference(std::string_view) override { return {}; }
    result<void> end_device() override { return {}; }
    result<void> end_pool() override { return {}; }
    std::vector<device_id> devices;
};

// The check finds nothing that matters.
[[nodiscard]] result<bool> is_accepted(block_device& image);
// As `thin_dump` 1.x writes it, with shared pieces.
[[nodiscard]] result<std::string> xml_of(block_device& image);
[[nodiscard]] result<void> read_xml_text(std::string_view text, thin_metadata::mapping_sink& sink);
// Makes `image` the pool that `text` describes.
[[nodiscard]] result<void> restore_xml(std::string_view text, block_device& image);

// The mappings of each device.
using device_tables = std::map<std::uint64_t, mapping_recorder::mapping_table>;
[[nodiscard]] result<device_tables> tables_of(block_device& image);

}  // namespace uthin::test
