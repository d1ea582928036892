// Every fuzz target on its seeds, on the stored corpus, and on a few hundred changed inputs.
//
// UTHIN_SEED=S UTHIN_MUTANT=N --gtest_filter='*/NAME' runs changed input N of a target alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

#include "fuzz/target.h"
#include "support/mutants.h"
#include "support/paths.h"
#include "support/seed.h"
#include "support/tier.h"

namespace uthin {
namespace {

using fuzz::bytes;

constexpr unsigned seconds_max = 10;

std::vector<std::pair<std::string, bytes>> stored_inputs(std::string_view target) {
    const std::filesystem::path folder =
        std::filesystem::path(test::source_dir()) / "tests/fuzz/corpus" / std::string(target);
    std::vector<std::pair<std::string, bytes>> found;
    if (!std::filesystem::exists(folder)) {
        return found;
    }
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        std::ifstream file(entry.path(), std::ios::binary);
        found.emplace_back(entry.path().filename(),
                           fuzz::bytes_of(std::string(std::istreambuf_iterator<char>(file), {})));
    }
    std::ranges::sort(found);
    return found;
}

class Fuzz : public testing::TestWithParam<fuzz::target> {
protected:
    void run(const std::string& what, std::span<const std::byte> input) const {
        const test::recipe_guard guard(fmt::format("target {}, {}", GetParam().name, what),
                                       seconds_max);
        GetParam().run(input);
    }
};

TEST_P(Fuzz, KeepsItsPromisesOnSeedsAndStoredFindings) {
    run("the empty input", {});
    const auto seeds = GetParam().seeds();
    ASSERT_FALSE(seeds.empty());
    for (std::size_t index = 0; index < seeds.size(); ++index) {
        run(fmt::format("seed {}", index), seeds[index]);
    }
    for (const auto& [name, input] : stored_inputs(GetParam().name)) {
        run(name, input);
    }
}

TEST_P(Fuzz, KeepsItsPromisesOnChangedInputs) {
    std::vector<bytes> inputs = GetParam().seeds();
    for (auto& [name, input] : stored_inputs(GetParam().name)) {
        inputs.push_back(std::move(input));
    }
    const char* const one = std::getenv("UTHIN_MUTANT");
    const std::uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 0) : 0;
    const std::uint64_t end =
        one != nullptr ? first + 1 : GetParam().replay_mutants * test::tier_scale();
    for (std::uint64_t number = first; number < end; ++number) {
        random_generator random(test::seed() * 0x9e3779b97f4a7c15 + number);
        bytes input = inputs[random.below(inputs.size())];
        do {
            input = GetParam().mutate(input, random);
        } while (random.one_in(3));
        run(fmt::format("UTHIN_MUTANT={}", number), input);
    }
}

INSTANTIATE_TEST_SUITE_P(Targets, Fuzz, testing::ValuesIn(fuzz::targets()),
                         [](const auto& target) { return std::string(target.param.name); });

// A run that links no targets replays nothing.
TEST(FuzzTargets, AreAllHere) {
    std::vector<std::string_view> names;
    for (const fuzz::target& target : fuzz::targets()) {
        names.push_back(target.name);
    }
    std::ranges::sort(names);
    EXPECT_EQ(std::ranges::adjacent_find(names), names.end());
    std::size_t sources = 0;
    for (const auto& entry : std::filesystem::directory_iterator(
             std::filesystem::path(test::source_dir()) / "tests/fuzz")) {
        sources += entry.path().filename().string().ends_with("_fuzz.cpp") ? 1U : 0U;
    }
    EXPECT_EQ(names.size(), sources);
}

}  // namespace
}  // namespace uthin
