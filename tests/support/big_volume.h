// Metadata of volumes up to terabytes, and what it takes to measure work on it.
//
// Threads   One.
// Failures  Those of the metadata calls.
#pragma once

#include <cstdint>

#include "uthin/metadata.h"

namespace uthin::test {

// The long tier of the tests is asked for: UTHIN_TIER=1 or higher.
[[nodiscard]] bool is_long_run();

// Used by this process so far, all threads.
[[nodiscard]] double cpu_seconds();
// Resident memory of this process.
[[nodiscard]] std::uint64_t resident_bytes();

enum class layout : std::uint8_t {
    contiguous,  // one run from data block 0 on
    scattered,   // no two neighbours are neighbours on the data device
};

// Device `id` with [0, blocks) mapped to the first `blocks` data blocks, which nobody uses yet.
[[nodiscard]] result<void> build_volume(metadata& pool, device_id id, std::uint64_t blocks,
                                        layout how);

// Blocks and CPU time of a piece of work on `pool`.
struct work_done {
    std::uint64_t blocks_written = 0;
    std::uint64_t blocks_read = 0;
    double cpu_milliseconds = 0;
};
class work_meter {
public:
    explicit work_meter(const metadata& pool)
        : pool_(pool), begin_(pool.statistics()), begin_cpu_(cpu_seconds()) {}
    [[nodiscard]] work_done done() const;

private:
    const metadata& pool_;
    metadata_statistics begin_;
    double begin_cpu_;
};

}  // namespace uthin::test
