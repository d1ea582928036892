// Each of the twelve pairs under many schedules; docs/reliability.md.
#include "schedules/pairs.h"

#include <gtest/gtest.h>

namespace uthin::test {
namespace {

class Pairs : public ::testing::TestWithParam<client_pair> {};

TEST_P(Pairs, HaveOnlyLegalOutcomesUnderEverySchedule) {
    pair_runner runner(GetParam());
    explore(
        GetParam().name,
        [&](std::uint64_t number, std::uint64_t horizon) { return runner.run(number, horizon); },
        GetParam().times);
}

INSTANTIATE_TEST_SUITE_P(All, Pairs, ::testing::ValuesIn(client_pairs()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace uthin::test
