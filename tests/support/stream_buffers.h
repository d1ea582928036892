// Streams of replication in memory: to be kept, cut and damaged.
//
// Threads   One.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "replication/stream_reader.h"
#include "replication/stream_writer.h"

namespace uthin::test {

class memory_sink final : public replication::byte_sink {
public:
    result<void> write(std::span<const std::byte> more) override {
        if (bytes.size() + more.size() > fail_above_bytes) {
            return fail(error_code::io_error, "the sink was told to fail");
        }
        bytes.insert(bytes.end(), more.begin(), more.end());
        return {};
    }
    std::vector<std::byte> bytes;
    std::size_t fail_above_bytes = SIZE_MAX;
};

class memory_source final : public replication::byte_source {
public:
    explicit memory_source(std::span<const std::byte> bytes) : rest_(bytes) {}
    result<std::size_t> read(std::span<std::byte> buffer) override {
        const std::size_t count = std::min(buffer.size(), rest_.size());
        if (count != 0) {
            std::memcpy(buffer.data(), rest_.data(), count);
        }
        rest_ = rest_.subspan(count);
        return count;
    }

private:
    std::span<const std::byte> rest_;
};

// Where the records of a stream begin, and its end.
[[nodiscard]] inline std::vector<std::size_t> record_boundaries(std::span<const std::byte> stream) {
    std::vector<std::size_t> boundaries;
    std::size_t at = sizeof(replication::disk_preamble);
    while (at + sizeof(replication::disk_record) <= stream.size()) {
        boundaries.push_back(at);
        replication::disk_record record;
        std::memcpy(&record, stream.data() + at, sizeof record);
        at += sizeof record + record.payload_bytes;
    }
    boundaries.push_back(at);
    return boundaries;
}

}  // namespace uthin::test
