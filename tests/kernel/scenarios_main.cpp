// Scenarios by uthin, for the tests that compare it with a real kernel.
//
//   uthin-scenarios run SCENARIO                          prints the outcome
//   uthin-scenarios on METADATA DATA SCENARIO             the same on images
//   uthin-scenarios complete OUTCOME DUMPS                an outcome of the guest with its dumps as
//   text uthin-scenarios compare SCENARIO KERNEL-OUTCOME       runs it; exit 1 and the differences,
//   if any uthin-scenarios differences SCENARIO KERNEL UTHIN     the same of two outcomes
//   uthin-scenarios generate SEED                         prints a scenario
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/scenario_generator.h"
#include "support/scenario_uthin.h"

namespace {

std::string file_text(const std::string& path) {
    std::ifstream file(path);
    if (!file) {
        throw std::runtime_error(path + ": cannot be read");
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

int run(std::span<char*> words) {
    using namespace uthin::test;
    const std::string verb = words.empty() ? "" : words[0];
    if (verb == "run" && words.size() == 2) {
        std::fputs(run_scenario_by_uthin(file_text(words[1])).c_str(), stdout);
        return 0;
    }
    if (verb == "on" && words.size() == 4) {
        const auto outcome = run_scenario_on(file_text(words[3]), words[1], words[2]);
        std::fputs((outcome ? *outcome : outcome.error().to_string() + "\n").c_str(), stdout);
        return outcome ? 0 : 1;
    }
    if (verb == "complete" && words.size() == 3) {
        std::fputs(with_dumps(file_text(words[1]), words[2]).c_str(), stdout);
        return 0;
    }
    const bool compares = verb == "compare" && words.size() == 3;
    if (compares || (verb == "differences" && words.size() == 4)) {
        const std::string scenario = file_text(words[1]);
        const std::string outcome =
            compares ? run_scenario_by_uthin(scenario) : file_text(words[3]);
        const auto differences = compare_outcomes(scenario, file_text(words[2]), outcome);
        for (const std::string& one : differences) {
            std::printf("%s\n", one.c_str());
        }
        return differences.empty() ? 0 : 1;
    }
    if (verb == "generate" && words.size() == 2) {
        std::fputs(generated_scenario(std::stoull(words[1])).c_str(), stdout);
        return 0;
    }
    std::fputs(
        "uthin-scenarios run | on | complete | compare | differences |\n"
        "generate: see tests/kernel/scenarios_main.cpp\n",
        stderr);
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(std::span(argv, static_cast<std::size_t>(argc)).subspan(1));
    } catch (const std::exception& problem) {
        std::fprintf(stderr, "uthin-scenarios: %s\n", problem.what());
        return 2;
    }
}
