#include "schedules/explore.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <unordered_set>

#include <fmt/format.h>

#include "support/seed.h"

namespace uthin::test {

namespace {

// Schedules without a turn taken, whose length tells where turns can be taken.
constexpr std::uint64_t measured = 16;
constexpr std::uint64_t repeated = 20;  // run twice: the same each time
constexpr std::uint64_t violations_max = 10;
constexpr std::uint64_t told_max = 2;

std::uint64_t mixed(std::uint64_t a, std::uint64_t b) {
    std::uint64_t z = a + 0x9e3779b97f4a7c15ULL * (b + 1);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    return z ^ (z >> 27);
}

std::uint64_t schedule_count() {
    const char* text = std::getenv("UTHIN_SCHEDULE_COUNT");
    return text != nullptr ? std::strtoull(text, nullptr, 0) : 1000;
}

void tell_schedule(int signal_number) {
    std::fprintf(stderr, "the program ended in %s\n", scheduler::instance().name().c_str());
    std::signal(signal_number, SIG_DFL);
    std::raise(signal_number);
}

// UTHIN_SCHEDULE, when it names this one.
std::optional<std::uint64_t> chosen_schedule(const std::string& name, const std::string& text) {
    const std::size_t colon = text.find(':');
    if (text.substr(0, colon) != name || colon == std::string::npos) {
        return std::nullopt;
    }
    return std::strtoull(text.c_str() + colon + 1, nullptr, 0);
}

std::uint64_t horizon_of(const schedule_run& run) {
    std::uint64_t chances = 0;
    for (std::uint64_t number = 0; number < measured; ++number) {
        chances += run(number, 0).outcome.window_chances;
    }
    return chances / measured * 5 / 4;
}

void tell(const schedule_report& report) {
    std::printf("%sthe last steps:\n%s", report.violation.c_str(),
                scheduler::instance().last_steps().c_str());
}

}  // namespace

std::uint64_t seed_of_schedule(const std::string& name, std::uint64_t number) {
    std::uint64_t of_name = seed();
    for (const char letter : name) {
        of_name = mixed(of_name, static_cast<unsigned char>(letter));
    }
    return mixed(of_name, number);
}

std::string name_of_schedule(const std::string& name, std::uint64_t number) {
    return fmt::format("UTHIN_SEED={} UTHIN_SCHEDULE={}:{}", seed(), name, number);
}

void explore(const std::string& name, const schedule_run& run, std::uint64_t times) {
    std::signal(SIGABRT, tell_schedule);
    std::signal(SIGSEGV, tell_schedule);
    if (const char* chosen = std::getenv("UTHIN_SCHEDULE"); chosen != nullptr) {
        if (const auto number = chosen_schedule(name, chosen)) {
            const schedule_report report = run(*number, horizon_of(run));
            tell(report);
            EXPECT_EQ(report.violation, "");
        }
        return;
    }
    const std::uint64_t horizon = horizon_of(run);
    std::unordered_set<std::uint64_t> traces;
    std::uint64_t violations = 0;
    std::uint64_t steps = 0;
    std::uint64_t number = 0;
    for (; number < schedule_count() * times && violations < violations_max; ++number) {
        const schedule_report report = run(number, horizon);
        traces.insert(report.outcome.trace);
        steps += report.outcome.window_steps;
        if (!report.violation.empty() && violations++ < told_max) {
            tell(report);
        }
        if (number < repeated) {
            EXPECT_EQ(run(number, horizon).outcome.trace, report.outcome.trace)
                << name_of_schedule(name, number);
        }
    }
    std::printf("pair=%s schedules=%llu distinct=%zu violations=%llu steps=%llu\n", name.c_str(),
                static_cast<unsigned long long>(number), traces.size(),
                static_cast<unsigned long long>(violations),
                static_cast<unsigned long long>(number == 0 ? 0 : steps / number));
    std::fflush(stdout);
    EXPECT_EQ(violations, 0U);
}

}  // namespace uthin::test
