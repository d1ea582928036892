// The one stream of events in which a pool's mappings travel: dump, restore, repair, diff and send
// all speak it.
//
//   begin_pool  { begin_shared run* end_shared }  { begin_device (run | unmapped | reference)*
//   end_device }  end_pool
//
// Invariants
//   MS1  Within a device (references spliced in) runs ascend and do not overlap; so they do within
//        a shared piece.
//   MS2  A shared piece comes before the first reference to it, outside of devices.
//   MS3  After an error nothing more is sent.
// Threads   As the sink says; a source sends from one thread.
// Failures  An error of the sink ends the source with the same error.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "uthin/metadata.h"
#include "uthin/units.h"

namespace uthin::thin_metadata {

struct pool_header {
    std::uint32_t time = 0;
    std::uint64_t transaction_id = 0;
    std::uint32_t flags = 0;
    std::optional<std::uint32_t> version = std::nullopt;  // absent in what 0.8 and older dumped
    std::uint32_t data_block_size_sectors = 0;
    std::uint64_t data_blocks = 0;  // 0 from a metadata snapshot: it publishes no space map
    bool operator==(const pool_header&) const = default;
};

class mapping_sink {
public:
    mapping_sink() = default;
    mapping_sink(const mapping_sink&) = delete;
    mapping_sink& operator=(const mapping_sink&) = delete;
    virtual ~mapping_sink() = default;

    [[nodiscard]] virtual result<void> begin_pool(const pool_header& pool) = 0;
    // Mappings that several devices share, named so that they can refer to them. A sink that does
    // not know them is given expanded mappings by its source.
    [[nodiscard]] virtual result<void> begin_shared(std::string_view name) = 0;
    [[nodiscard]] virtual result<void> end_shared() = 0;
    // mapped_blocks is what the source has stored, not a count of what follows.
    [[nodiscard]] virtual result<void> begin_device(const thin_device_info& device) = 0;
    [[nodiscard]] virtual result<void> run(const mapping_run& run) = 0;
    // Known to be a hole. Only streams of differences need it: elsewhere what is not in a run is
    // one.
    [[nodiscard]] virtual result<void> unmapped(const range<virtual_block>& /*hole*/) { return {}; }
    [[nodiscard]] virtual result<void> reference(std::string_view name) = 0;
    [[nodiscard]] virtual result<void> end_device() = 0;
    [[nodiscard]] virtual result<void> end_pool() = 0;
};

// Joins neighbouring mappings to the longest runs.
class run_joiner {
public:
    explicit run_joiner(mapping_sink& sink) noexcept : sink_(sink) {}

    [[nodiscard]] result<void> add(const mapping_run& next) {
        if (open_.count != 0 && open_.begin + open_.count == next.begin &&
            open_.data_begin + open_.count == next.data_begin && open_.time == next.time) {
            open_.count += next.count;
            return {};
        }
        UTHIN_TRY(flush());
        open_ = next;
        return {};
    }
    [[nodiscard]] result<void> flush() {
        if (open_.count == 0) {
            return {};
        }
        const mapping_run done = open_;
        open_.count = 0;
        return sink_.run(done);
    }

private:
    mapping_sink& sink_;
    mapping_run open_;
};

}  // namespace uthin::thin_metadata
