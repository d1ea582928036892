// Many schedules of one thing, and what each showed.
//
// UTHIN_SCHEDULE_COUNT: how many. UTHIN_SCHEDULE=NAME:NUMBER: this one alone, with its last steps.
//
// Threads   The first one of the program.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "schedules/scheduler.h"

namespace uthin::test {

struct schedule_report {
    schedule_outcome outcome;
    std::string violation;  // what is wrong, or nothing
};

// The same one each time. Horizon 0: without a turn taken.
using schedule_run = std::function<schedule_report(std::uint64_t number, std::uint64_t horizon)>;

[[nodiscard]] std::uint64_t seed_of_schedule(const std::string& name, std::uint64_t number);
// How it is repeated.
[[nodiscard]] std::string name_of_schedule(const std::string& name, std::uint64_t number);

// Runs `times` as many as are asked for; a violation fails the test.
void explore(const std::string& name, const schedule_run& run, std::uint64_t times = 1);

}  // namespace uthin::test
