#include "io/crash_states.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace uthin::test {
namespace {

using io::crash_choice;
using io::crash_state_options;
using io::enumerate_crash_choices;
using io::losable_write;
using io::survival;

// "1" kept, "0" lost, "t" torn: one letter for each write.
std::string shape_of(const crash_choice& choice, const std::vector<losable_write>& writes) {
    std::string text;
    for (std::size_t i = 0; i < writes.size(); ++i) {
        const survival what = choice.of(i, writes);
        text += what.whole() ? '1' : what.shape == survival::form::none ? '0' : 't';
    }
    return text;
}

std::vector<losable_write> same_writes(std::size_t count, std::uint64_t unit_count) {
    std::vector<losable_write> writes;
    for (std::size_t i = 0; i < count; ++i) {
        writes.push_back({unit_count, 0, false});
    }
    return writes;
}

std::string units_of(const survival& what, std::uint64_t unit_count) {
    std::string text;
    for (std::uint64_t i = 0; i < unit_count; ++i) {
        text += what.keeps(i, unit_count) ? '1' : '0';
    }
    return text;
}

std::set<std::string> shapes(const std::vector<losable_write>& writes,
                             const crash_state_options& options) {
    std::set<std::string> seen;
    for (const crash_choice& choice : enumerate_crash_choices(writes, options)) {
        seen.insert(shape_of(choice, writes));
    }
    return seen;
}

TEST(Survival, KeepsTheUnitsThatItNames) {
    using form = survival::form;
    EXPECT_EQ(units_of({form::none, 0}, 8), "00000000");
    EXPECT_EQ(units_of({form::all, 0}, 8), "11111111");
    EXPECT_EQ(units_of({form::first, 3}, 8), "11100000");
    EXPECT_EQ(units_of({form::last, 3}, 8), "00000111");
    EXPECT_EQ(units_of({form::alternating, 0}, 8), "10101010");
    EXPECT_EQ(units_of({form::alternating, 1}, 8), "01010101");
    EXPECT_EQ(units_of({form::mask, 0b1001}, 8), "10010000");
    const std::string random = units_of({form::random, 42}, 1000);
    EXPECT_EQ(random, units_of({form::random, 42}, 1000));
    EXPECT_NE(random, units_of({form::random, 43}, 1000));
    const auto kept = std::count(random.begin(), random.end(), '1');
    EXPECT_GT(kept, 400);
    EXPECT_LT(kept, 600);
}

TEST(Survival, CanBeReadByPeople) {
    using form = survival::form;
    const std::vector<std::pair<survival, const char*>> examples = {
        {{form::none, 0}, "nothing"},
        {{form::all, 0}, "everything"},
        {{form::first, 3}, "first 3 units"},
        {{form::last, 2}, "last 2 units"},
        {{form::alternating, 1}, "every second unit from 1"},
        {{form::mask, 0x2a}, "units of mask 0x2a"},
        {{form::random, 0x10}, "random units of 0x10"}};
    for (const auto& [what, text] : examples) {
        EXPECT_EQ(to_string(what), text);
    }
}

TEST(CrashStates, NothingPendingLeavesOneState) {
    EXPECT_EQ(enumerate_crash_choices({}, {}).size(), 1);
}

TEST(CrashStates, TheFirstTwoDropAndKeepEverything) {
    for (const std::size_t count : {1U, 5U, 10U, 11U, 200U}) {
        const auto writes = same_writes(count, 8);
        for (const std::size_t choices_max : {0U, 2U, 50U}) {
            const auto choices = enumerate_crash_choices(writes, {.choices_max = choices_max});
            EXPECT_EQ(shape_of(choices[0], writes), std::string(count, '0'));
            EXPECT_EQ(shape_of(choices[1], writes), std::string(count, '1'));
        }
    }
}

TEST(CrashStates, FewWritesGiveEverySubsetOnce) {
    for (std::size_t count = 1; count <= 10; ++count) {
        const auto writes = same_writes(count, 1);
        EXPECT_EQ(shapes(writes, {}).size(), std::size_t{1} << count);
        EXPECT_EQ(enumerate_crash_choices(writes, {}).size(), std::size_t{1} << count);
    }
}

TEST(CrashStates, ManyWritesGivePrefixesSuffixesSinglesAndRandomSubsets) {
    const std::size_t count = 30;
    const auto writes = same_writes(count, 1);
    const auto seen = shapes(writes, {.random_subsets = 100});
    for (std::size_t i = 0; i <= count; ++i) {
        EXPECT_TRUE(seen.contains(std::string(i, '1') + std::string(count - i, '0'))) << i;
        EXPECT_TRUE(seen.contains(std::string(i, '0') + std::string(count - i, '1'))) << i;
    }
    for (std::size_t i = 0; i < count; ++i) {
        std::string single(count, '0');
        single[i] = '1';
        EXPECT_TRUE(seen.contains(single)) << i;
        std::string hole(count, '1');
        hole[i] = '0';
        EXPECT_TRUE(seen.contains(hole)) << i;
    }
    EXPECT_GE(seen.size(), 31 + 31 - 2 + 28 + 28 + 95);
}

TEST(CrashStates, EveryCombinationOfWholeDevicesIsThere) {
    std::vector<losable_write> writes;
    for (std::size_t i = 0; i < 30; ++i) {
        writes.push_back({1, i % 3, false});
    }
    const auto seen = shapes(writes, {.random_subsets = 0});
    for (unsigned bits = 0; bits < 8; ++bits) {
        std::string wanted;
        for (std::size_t i = 0; i < 30; ++i) {
            wanted += (bits >> (i % 3) & 1) != 0 ? '1' : '0';
        }
        EXPECT_TRUE(seen.contains(wanted)) << wanted;
    }
}

TEST(CrashStates, PinnedWritesAreAlwaysKeptWhole) {
    auto writes = same_writes(15, 8);
    writes[3].pinned = true;
    writes[14].pinned = true;
    for (const crash_choice& choice :
         enumerate_crash_choices(writes, {.all_masks_of_last_write = true})) {
        EXPECT_TRUE(choice.of(3, writes).whole()) << to_string(choice);
        EXPECT_TRUE(choice.of(14, writes).whole()) << to_string(choice);
    }
}

// The tears of the programme: first k, last k, alternating, and 16 random masks of 8 sectors.
TEST(CrashStates, EveryWriteIsTornInEveryWay) {
    const auto writes = same_writes(4, 8);
    for (std::size_t torn = 0; torn < writes.size(); ++torn) {
        std::set<std::string> with_others;
        std::set<std::string> alone;
        for (const crash_choice& choice : enumerate_crash_choices(writes, {})) {
            std::string shape = shape_of(choice, writes);
            if (shape[torn] != 't') {
                continue;
            }
            const std::string units = units_of(choice.of(torn, writes), 8);
            shape[torn] = '.';
            if (shape.find_first_not_of("1.") == std::string::npos) {
                with_others.insert(units);
            }
            if (shape.find_first_not_of("0.") == std::string::npos) {
                alone.insert(units);
            }
        }
        for (std::size_t k = 1; k < 8; ++k) {
            const std::string first = std::string(k, '1') + std::string(8 - k, '0');
            const std::string last = std::string(8 - k, '0') + std::string(k, '1');
            EXPECT_TRUE(with_others.contains(first) && alone.contains(first)) << torn << first;
            EXPECT_TRUE(with_others.contains(last) && alone.contains(last)) << torn << last;
        }
        EXPECT_TRUE(with_others.contains("10101010") && with_others.contains("01010101"));
        EXPECT_GE(with_others.size(), 14 + 2 + 10) << "and random masks";
    }
}

TEST(CrashStates, AllMasksOfTheLastWriteAreThereOnRequest) {
    const auto writes = same_writes(3, 8);
    std::set<std::string> masks;
    for (const crash_choice& choice :
         enumerate_crash_choices(writes, {.all_masks_of_last_write = true})) {
        if (choice.of(0, writes).whole() && choice.of(1, writes).whole()) {
            masks.insert(units_of(choice.of(2, writes), 8));
        }
    }
    EXPECT_EQ(masks.size(), 256);
}

TEST(CrashStates, WithoutTearsEveryWriteIsWholeOrGone) {
    const auto writes = same_writes(12, 8);
    for (const std::string& shape : shapes(writes, {.torn = false})) {
        EXPECT_EQ(shape.find('t'), std::string::npos);
    }
}

TEST(CrashStates, ASampleIsAsLongAsAskedAndRepeatable) {
    const auto writes = same_writes(40, 8);
    const auto first = enumerate_crash_choices(writes, {.choices_max = 100, .seed = 5});
    EXPECT_EQ(first.size(), 100);
    EXPECT_EQ(first, enumerate_crash_choices(writes, {.choices_max = 100, .seed = 5}));
    EXPECT_NE(first, enumerate_crash_choices(writes, {.choices_max = 100, .seed = 6}));
}

TEST(CrashStates, AChoiceCanBeReadByPeople) {
    const crash_choice choice{crash_choice::family::prefix, 3, 2, {survival::form::first, 5}};
    EXPECT_EQ(to_string(choice), "prefix 0x3, write 2 keeps first 5 units");
}

}  // namespace
}  // namespace uthin::test
