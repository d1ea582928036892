// A sink that keeps what it is sent: as lines to compare, and as the mappings of each device with
// references spliced in.
//
// Threads   One at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "thin_metadata/mapping_stream.h"

namespace uthin::test {

class mapping_recorder final : public thin_metadata::mapping_sink {
public:
    // Virtual block -> data block and time.
    using mapping_table = std::map<std::uint64_t, std::pair<std::uint64_t, std::uint32_t>>;
    struct device {
        device_details details;
        mapping_table mappings;
        bool operator==(const device&) const = default;
    };

    thin_metadata::pool_header pool;
    std::map<std::uint64_t, device> devices;
    std::vector<std::string> events;
    // The event with this index fails.
    std::size_t fail_at = SIZE_MAX;

    result<void> begin_pool(const thin_metadata::pool_header& header) override {
        pool = header;
        return event("pool");
    }
    result<void> begin_shared(std::string_view name) override {
        open_ = &shared_[std::string(name)];
        return event(fmt::format("def {}", name));
    }
    result<void> end_shared() override { return event("end def"); }
    result<void> begin_device(const thin_device_info& info) override {
        device& made = devices[info.id.value()];
        made.details = info.details;
        open_ = &made.mappings;
        return event(fmt::format("device {}", info.id.value()));
    }
    result<void> run(const mapping_run& run) override {
        for (std::uint64_t i = 0; i < run.count; ++i) {
            (*open_)[run.begin.value() + i] = {run.data_begin.value() + i, run.time};
        }
        return event(fmt::format("run {} {} {} {}", run.begin.value(), run.data_begin.value(),
                                 run.count, run.time));
    }
    result<void> reference(std::string_view name) override {
        open_->insert(shared_[std::string(name)].begin(), shared_[std::string(name)].end());
        return event(fmt::format("ref {}", name));
    }
    result<void> end_device() override { return event("end device"); }
    result<void> end_pool() override { return event("end pool"); }

private:
    result<void> event(std::string text) {
        events.push_back(std::move(text));
        if (events.size() > fail_at) {
            return fail(error_code::io_error, "the recorder was told to fail");
        }
        return {};
    }
    std::map<std::string, mapping_table> shared_;
    mapping_table* open_ = nullptr;
};

}  // namespace uthin::test
