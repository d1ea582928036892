// Crash simulation of the metadata library: runs workloads on a metadata and a data device with
// one power supply and independent caches, then cuts the power at every operation and checks what
// is left.
//
// What each state must be: it opens without a tool; it is exactly the last acknowledged commit or
// the one in progress (P1); the full check is clean; every mapping finds data that was written for
// it, and nothing flushed is missing (P2, P3). Some states then live on: random operations, a
// commit, the same checks, and a second power cut in the middle of that.
//
// Threads   One.
// Failures  Violations are counted and described; the caller decides what they mean.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "io/crash_device.h"
#include "support/metadata_driver.h"
#include "support/stream_watch.h"
#include "support/temporary_directory.h"

namespace uthin::test {

struct crash_totals {
    std::uint64_t workloads = 0;
    std::uint64_t cuts = 0;
    std::uint64_t cuts_without_state = 0;  // neither a new one nor one that was checked before
    std::uint64_t states = 0;
    std::uint64_t repeated_states = 0;  // the same bytes as one already checked, not counted above
    std::uint64_t lived_on = 0;
    std::uint64_t second_cuts = 0;
    std::uint64_t judged = 0;  // by thin_check and decode.py
    std::uint64_t violations = 0;
    std::uint64_t stream_violations = 0;
    std::vector<std::string> first_violations;
};

using device_wrapper = std::function<std::unique_ptr<block_device>(block_device&)>;

struct crash_options {
    std::uint64_t seed = 1;
    std::uint64_t metadata_blocks = 64;
    std::uint64_t data_blocks = 48;
    driver_options driver;
    std::size_t choices_max = 40;       // for each cut
    std::uint64_t live_on_every = 64;   // states
    std::uint64_t cut_again_every = 8;  // of those that live on
    std::uint64_t judge_every = 0;      // states; 0: none
    bool all_superblock_masks = false;
    // Between the pool and the lying disks, for tests of the harness itself.
    device_wrapper wrap_metadata;
    device_wrapper wrap_data;
};

class metadata_crash {
public:
    explicit metadata_crash(crash_totals& totals);

    // A fresh pool with three thins of four blocks each, one a snapshot of another; then the
    // operations, then a commit.
    void run(const std::vector<pool_operation>& operations, const crash_options& options);
    // `count` operations of the seed's choice.
    void run_random(std::size_t count, const crash_options& options);
    // Shows the images kept for them to the external judges.
    void judge();

private:
    struct workload;
    void cut_everywhere(workload& of);
    void cut_at(workload& of, io::power_cut& cut, std::size_t operation);
    [[nodiscard]] std::string check(workload& of, const io::crash_state& state,
                                    std::size_t operation);
    [[nodiscard]] std::string live_on(workload& of, const io::crash_state& state,
                                      const pool_state& found);
    [[nodiscard]] std::string cut_again(workload& of, const io::crash_state& state,
                                        const pool_state& found);
    void keep_for_judges(block_device& metadata);
    void violation(const workload& of, const std::string& where, const std::string& what);

    crash_totals& totals_;
    temporary_directory folder_;
    std::vector<std::filesystem::path> images_;
};

}  // namespace uthin::test
