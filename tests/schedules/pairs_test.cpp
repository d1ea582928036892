// Each of the twelve pairs under many schedules; docs/reliability.md.
//
// UTHIN_SCHEDULE_COUNT: schedules of each pair. UTHIN_SCHEDULE=PAIR:NUMBER: this one alone, with
// its last steps.
#include "schedules/pairs.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <unordered_set>

#include "schedules/scheduler.h"

namespace uthin::test {
namespace {

constexpr std::uint64_t repeated = 20;  // run twice: the same each time
constexpr std::uint64_t violations_max = 10;
constexpr std::uint64_t told_max = 2;

std::uint64_t schedule_count() {
    const char* text = std::getenv("UTHIN_SCHEDULE_COUNT");
    return text != nullptr ? std::strtoull(text, nullptr, 0) : 200;
}

void tell_schedule(int signal_number) {
    std::fprintf(stderr, "the program ended in %s\n", scheduler::instance().name().c_str());
    std::signal(signal_number, SIG_DFL);
    std::raise(signal_number);
}

void explore(const client_pair& pair) {
    pair_runner runner(pair);
    std::unordered_set<std::uint64_t> traces;
    std::uint64_t violations = 0;
    std::uint64_t steps = 0;
    std::uint64_t number = 0;
    for (; number < schedule_count() && violations < violations_max; ++number) {
        const schedule_report report = runner.run(number);
        traces.insert(report.trace);
        steps += report.window_steps;
        if (!report.violation.empty() && violations++ < told_max) {
            std::printf("%sthe last steps:\n%s", report.violation.c_str(),
                        scheduler::instance().last_steps().c_str());
        }
        if (number < repeated) {
            EXPECT_EQ(runner.run(number).trace, report.trace) << runner.name_of(number);
        }
    }
    std::printf("pair=%s schedules=%llu distinct=%zu violations=%llu steps=%llu\n",
                pair.name.c_str(), static_cast<unsigned long long>(number), traces.size(),
                static_cast<unsigned long long>(violations),
                static_cast<unsigned long long>(number == 0 ? 0 : steps / number));
    std::fflush(stdout);
    EXPECT_EQ(violations, 0U);
}

// UTHIN_SCHEDULE, when it names this pair.
std::optional<std::uint64_t> chosen_schedule(const std::string& pair, const std::string& text) {
    const std::size_t colon = text.find(':');
    if (text.substr(0, colon) != pair || colon == std::string::npos) {
        return std::nullopt;
    }
    return std::strtoull(text.c_str() + colon + 1, nullptr, 0);
}

class Pairs : public ::testing::TestWithParam<client_pair> {};

TEST_P(Pairs, HaveOnlyLegalOutcomesUnderEverySchedule) {
    std::signal(SIGABRT, tell_schedule);
    std::signal(SIGSEGV, tell_schedule);
    const char* chosen = std::getenv("UTHIN_SCHEDULE");
    if (chosen == nullptr) {
        explore(GetParam());
        return;
    }
    if (const auto number = chosen_schedule(GetParam().name, chosen)) {
        pair_runner runner(GetParam());
        const schedule_report report = runner.run(*number);
        std::printf("%sthe last steps:\n%s", report.violation.c_str(),
                    scheduler::instance().last_steps().c_str());
        EXPECT_EQ(report.violation, "");
    }
}

INSTANTIATE_TEST_SUITE_P(All, Pairs, ::testing::ValuesIn(client_pairs()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace uthin::test
