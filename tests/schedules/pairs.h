// The twelve pairs of things that happen at the same time, and what two clients do of each.
//
// Threads   Any.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "schedules/explore.h"
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
    std::uint64_t times = 1;  // as many schedules as of the others
};

[[nodiscard]] const std::vector<client_pair>& client_pairs();

class pair_runner {
public:
    explicit pair_runner(const client_pair& pair) : pair_(pair), pool_(pair.options) {}
    // The schedule of this number is the same one each time. Horizon 0: without a turn taken.
    [[nodiscard]] schedule_report run(std::uint64_t number, std::uint64_t horizon);

private:
    [[nodiscard]] std::string judge(const client_plans& plans, const pool_content& end);
    [[nodiscard]] std::string judge_outcomes(const client_plans& plans,
                                             const pool_content& end) const;
    [[nodiscard]] std::string judge_reopened(const pool_content& end);
    [[nodiscard]] std::string judge_cuts(const client_plans& plans);

    const client_pair& pair_;
    small_pool pool_;
};

}  // namespace uthin::test
