// The twelve pairs of things that happen at the same time, and what two clients do of each.
//
// Threads   Any.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "schedules/requests.h"
#include "schedules/small_pool.h"

namespace uthin::test {

struct client_plans {
    requests first;
    requests second;
};

struct client_pair {
    std::string name;
    small_pool_options options{};
    std::function<client_plans(random_generator&)> plan;
    // With these a request may fail at any time; the order search judges not_found, busy and
    // out_of_range.
    std::vector<error_code> may_fail_with{};
    // Changes may get lost: no serial order is asked for, only what was flushed.
    bool loses_changes = false;
};

[[nodiscard]] const std::vector<client_pair>& client_pairs();

// What is wrong with a schedule, or nothing; `outcome` and `trace` (when a violation was found) are
// told.
struct schedule_report {
    std::uint64_t window_steps = 0;
    std::uint64_t trace = 0;
    std::string violation;
};

class pair_runner {
public:
    explicit pair_runner(const client_pair& pair);
    // The schedule of this number is the same one each time.
    [[nodiscard]] schedule_report run(std::uint64_t number);
    // How it is repeated.
    [[nodiscard]] std::string name_of(std::uint64_t number) const;

private:
    [[nodiscard]] schedule_report run(std::uint64_t number, std::uint64_t horizon);
    [[nodiscard]] std::string judge(const client_plans& plans, const pool_content& end);
    [[nodiscard]] std::string judge_outcomes(const client_plans& plans,
                                             const pool_content& end) const;
    [[nodiscard]] std::string judge_reopened(const pool_content& end);
    [[nodiscard]] std::string judge_cuts(const client_plans& plans);

    const client_pair& pair_;
    small_pool pool_;
    std::uint64_t horizon_ = 0;
};

}  // namespace uthin::test
