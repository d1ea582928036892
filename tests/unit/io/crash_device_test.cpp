#include "io/crash_device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/endian.h"
#include "base/random.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::test {
namespace {

using io::crash_choice;
using io::crash_device;
using io::crash_domain;
using io::crash_state;
using io::operation_kind;
using io::power_cut;

constexpr std::uint64_t block = 4096;

std::vector<std::byte> filled(std::uint64_t length_bytes, int value) {
    return std::vector<std::byte>(length_bytes, static_cast<std::byte>(value));
}

int byte_of(const crash_state& state, std::string_view device, std::uint64_t offset) {
    std::vector<std::byte> byte(1);
    EXPECT_OK(state.open(device)->read(offset, byte));
    return static_cast<int>(byte[0]);
}

// Values that the byte at `offset` has over all choices of a cut at `k`.
std::set<int> outcomes(power_cut& cut, std::size_t k, std::string_view device,
                       std::uint64_t offset) {
    cut.move_to(k);
    std::set<int> seen;
    for (const crash_choice& choice : cut.choices({})) {
        seen.insert(byte_of(cut.materialize(choice), device, offset));
    }
    return seen;
}

TEST(CrashDevice, AnUnflushedWriteMayBeThereOrNot) {
    crash_domain domain;
    crash_device& disk = domain.add_device("disk", 8 * block);
    ASSERT_OK(disk.write(0, filled(block, 1)));
    ASSERT_OK(disk.flush());
    ASSERT_OK(disk.write(0, filled(block, 2)));
    ASSERT_OK(disk.write(0, filled(block, 3)));
    ASSERT_OK(disk.flush());
    power_cut cut(domain.history());
    ASSERT_EQ(cut.operation_count(), 5);
    const std::vector<std::set<int>> wanted = {{0, 1}, {0, 1}, {1, 2}, {1, 2, 3}, {1, 2, 3}, {3}};
    for (std::size_t k = 0; k <= 5; ++k) {
        EXPECT_EQ(outcomes(cut, k, "disk", 100), wanted[k]) << "cut at " << k;
    }
}

TEST(CrashDevice, AFlushCoversOnlyItsOwnDevice) {
    crash_domain domain;
    crash_device& data = domain.add_device("data", 8 * block);
    crash_device& metadata = domain.add_device("metadata", 8 * block);
    ASSERT_OK(data.write(0, filled(block, 1)));
    ASSERT_OK(metadata.write(0, filled(block, 1)));
    ASSERT_OK(metadata.flush());
    power_cut cut(domain.history());
    EXPECT_EQ(outcomes(cut, 3, "data", 0), (std::set<int>{0, 1}));
    EXPECT_EQ(outcomes(cut, 3, "metadata", 0), (std::set<int>{1}));
}

TEST(CrashDevice, ACompletedFuaWriteIsDurableAndNothingElse) {
    crash_domain domain;
    crash_device& disk = domain.add_device("disk", 8 * block);
    ASSERT_OK(disk.write(block, filled(block, 1)));
    ASSERT_OK(disk.write_fua(0, filled(block, 2)));
    power_cut cut(domain.history());
    EXPECT_EQ(outcomes(cut, 1, "disk", 0), (std::set<int>{0, 2})) << "in flight";
    EXPECT_EQ(outcomes(cut, 2, "disk", 0), (std::set<int>{2}));
    EXPECT_EQ(outcomes(cut, 2, "disk", block), (std::set<int>{0, 1}));
}

TEST(CrashDevice, DiscardAndZeroesAreWritesOfZeros) {
    crash_domain domain;
    crash_device& disk = domain.add_device("disk", 8 * block);
    ASSERT_OK(disk.write(0, filled(8 * block, 1)));
    ASSERT_OK(disk.flush());
    ASSERT_OK(disk.discard(0, block));
    ASSERT_OK(disk.write_zeroes(block, block));
    power_cut cut(domain.history());
    EXPECT_EQ(outcomes(cut, 4, "disk", 0), (std::set<int>{0, 1}));
    EXPECT_EQ(outcomes(cut, 4, "disk", block), (std::set<int>{0, 1}));
    EXPECT_EQ(outcomes(cut, 4, "disk", 2 * block), (std::set<int>{1}));
}

TEST(CrashDevice, WritesTearAtTheAtomicUnitAndNowhereElse) {
    for (const std::uint32_t unit : {512U, 4096U}) {
        crash_domain domain;
        crash_device& disk = domain.add_device("disk", 8 * block);
        ASSERT_OK(disk.write(1024, filled(2 * block, 1)));  // not aligned to 4096
        power_cut cut(domain.history());
        cut.set_atomic_unit(unit);
        cut.move_to(0);
        bool torn = false;
        for (const crash_choice& choice : cut.choices({})) {
            std::vector<std::byte> seen(8 * block);
            ASSERT_OK(cut.materialize(choice).open("disk")->read(0, seen));
            for (std::uint64_t at = 0; at < seen.size(); at += unit) {
                const std::uint64_t begin = std::max<std::uint64_t>(at, 1024);
                const std::uint64_t end = std::min<std::uint64_t>(at + unit, 1024 + 2 * block);
                for (std::uint64_t i = begin; i < end; ++i) {
                    ASSERT_EQ(seen[i], seen[begin]) << "a unit was split at " << i;
                }
            }
            const auto kept = std::count(seen.begin(), seen.end(), std::byte{1});
            torn |= kept != 0 && kept != static_cast<std::ptrdiff_t>(2 * block);
        }
        EXPECT_TRUE(torn);
    }
}

// The definition of CD2 and CD3, sector by sector, beside a naive record of all versions.
TEST(CrashDevice, EveryStateOfARandomWorkloadIsLegal) {
    constexpr std::uint64_t sectors = 64;
    constexpr std::uint64_t sector = 512;
    struct version {
        std::uint64_t stamp;
        bool fua;
    };
    struct model_device {
        std::vector<std::uint64_t> durable = std::vector<std::uint64_t>(sectors);
        std::map<std::uint64_t, std::vector<version>> pending;
    };
    random_generator random(seed());
    for (int workload = 0; workload < 20; ++workload) {
        crash_domain domain;
        crash_device* devices[] = {&domain.add_device("a", sectors * sector),
                                   &domain.add_device("b", sectors * sector)};
        struct step {
            std::size_t device;
            operation_kind kind;
            std::uint64_t first;
            std::uint64_t count;
            std::uint64_t stamp;
            bool fua;
        };
        std::vector<step> steps;
        for (std::uint64_t i = 0; i < 40; ++i) {
            step next{random.below(2),
                      operation_kind::write,
                      random.below(sectors - 16),
                      1 + random.below(16),
                      i + 1,
                      false};
            crash_device& disk = *devices[next.device];
            if (random.one_in(5)) {
                next.kind = operation_kind::flush;
                ASSERT_OK(disk.flush());
            } else if (random.one_in(6)) {
                next.stamp = 0;
                ASSERT_OK(disk.discard(next.first * sector, next.count * sector));
            } else {
                next.fua = random.one_in(4);
                std::vector<std::byte> bytes(next.count * sector);
                for (std::uint64_t s = 0; s < next.count; ++s) {
                    store_le<std::uint64_t>(&bytes[s * sector], next.stamp);
                }
                ASSERT_OK(next.fua ? disk.write_fua(next.first * sector, bytes)
                                   : disk.write(next.first * sector, bytes));
            }
            steps.push_back(next);
        }
        power_cut cut(domain.history());
        model_device models[2];
        for (std::size_t k = 0; k <= steps.size(); ++k) {
            const auto is_legal = [&](std::size_t d, std::uint64_t s, std::uint64_t stamp) {
                // From the newest back: legal until a durable version hides the older ones.
                if (k < steps.size() && steps[k].device == d &&
                    steps[k].kind == operation_kind::write && s >= steps[k].first &&
                    s < steps[k].first + steps[k].count && steps[k].stamp == stamp) {
                    return true;
                }
                const auto found = models[d].pending.find(s);
                if (found != models[d].pending.end()) {
                    for (auto v = found->second.rbegin(); v != found->second.rend(); ++v) {
                        if (v->stamp == stamp) {
                            return true;
                        }
                        if (v->fua) {
                            return false;
                        }
                    }
                }
                return models[d].durable[s] == stamp;
            };
            cut.move_to(k);
            for (const crash_choice& choice :
                 cut.choices({.random_subsets = 16, .choices_max = 60, .seed = k})) {
                const crash_state state = cut.materialize(choice);
                for (std::size_t d = 0; d < 2; ++d) {
                    std::vector<std::byte> seen(sectors * sector);
                    state.image(d).read(0, seen);
                    for (std::uint64_t s = 0; s < sectors; ++s) {
                        const auto stamp = load_le<std::uint64_t>(&seen[s * sector]);
                        ASSERT_TRUE(is_legal(d, s, stamp))
                            << "cut " << k << ", " << to_string(choice) << ", device " << d
                            << ", sector " << s << ", stamp " << stamp;
                    }
                }
            }
            if (k == steps.size()) {
                break;
            }
            model_device& model = models[steps[k].device];
            if (steps[k].kind == operation_kind::flush) {
                for (const auto& [s, versions] : model.pending) {
                    model.durable[s] = versions.back().stamp;
                }
                model.pending.clear();
                continue;
            }
            for (std::uint64_t s = 0; s < steps[k].count; ++s) {
                model.pending[steps[k].first + s].push_back({steps[k].stamp, steps[k].fua});
            }
        }
    }
}

TEST(CrashDevice, PendingWritesOfAllDevicesAreInOneOrder) {
    crash_domain domain;
    crash_device& first = domain.add_device("first", 8 * block);
    crash_device& second = domain.add_device("second", 8 * block);
    for (std::uint64_t i = 0; i < 4; ++i) {
        ASSERT_OK(second.write(i * block, filled(block, 1)));
        ASSERT_OK(first.write(i * block, filled(block, 1)));
    }
    power_cut cut(domain.history());
    cut.move_to(8);
    ASSERT_EQ(cut.writes().size(), 8);
    for (std::size_t i = 0; i < 8; ++i) {
        EXPECT_EQ(cut.writes()[i].device_index, i % 2 == 0 ? second.index() : first.index());
        EXPECT_EQ(cut.operation_of(i).offset_bytes, i / 2 * block);
    }
}

TEST(CrashDevice, MovingBackGivesTheSameStatesAgain) {
    crash_domain domain;
    crash_device& disk = domain.add_device("disk", 8 * block);
    for (int i = 1; i <= 5; ++i) {
        ASSERT_OK(disk.write(0, filled(block, i)));
        ASSERT_OK(disk.flush());
    }
    power_cut cut(domain.history());
    EXPECT_EQ(outcomes(cut, 8, "disk", 0), (std::set<int>{4, 5}));
    EXPECT_EQ(outcomes(cut, 2, "disk", 0), (std::set<int>{1, 2}));
    EXPECT_EQ(outcomes(cut, 10, "disk", 0), (std::set<int>{5}));
}

TEST(CrashDevice, EachOpenOfAStateStartsAfresh) {
    crash_domain domain;
    crash_device& disk = domain.add_device("disk", 8 * block);
    ASSERT_OK(disk.write(0, filled(block, 1)));
    power_cut cut(domain.history());
    cut.move_to(1);
    const crash_state state = cut.materialize(cut.choices({})[1]);
    ASSERT_OK(state.open("disk")->write(0, filled(block, 9)));
    EXPECT_EQ(byte_of(state, "disk", 0), 1);
}

TEST(CrashDevice, AfterStopAfterNothingWorksAndNothingChanges) {
    crash_domain domain;
    crash_device& disk = domain.add_device("disk", 8 * block);
    crash_device& other = domain.add_device("other", 8 * block);
    domain.stop_after(2);
    EXPECT_OK(disk.write(0, filled(block, 1)));
    EXPECT_OK(disk.flush());
    std::vector<std::byte> bytes(block);
    EXPECT_THAT(disk.write(0, filled(block, 2)), HasCode(error_code::io_error));
    EXPECT_THAT(disk.flush(), HasCode(error_code::io_error));
    EXPECT_THAT(disk.read(0, bytes), HasCode(error_code::io_error));
    EXPECT_THAT(other.write_zeroes(0, block), HasCode(error_code::io_error));
    EXPECT_THAT(disk.size_bytes(), HasCode(error_code::io_error));
    EXPECT_EQ(domain.sequence(), 2);
    domain.power_on();
    ASSERT_OK(disk.read(0, bytes));
    EXPECT_EQ(bytes, filled(block, 1));
    domain.power_off();
    EXPECT_THAT(other.flush(), HasCode(error_code::io_error));
}

TEST(CrashDevice, ObserversSeeEveryOperationInOrderWithItsContents) {
    crash_domain domain;
    crash_device& disk = domain.add_device("disk", 8 * block);
    crash_device& journal = domain.add_device("journal", 0);
    std::vector<std::string> seen;
    io::sparse_image kept;
    domain.observe([&](const io::observed_operation& operation) {
        seen.push_back(std::to_string(operation.sequence) + " " +
                       std::string(operation.device_name) + " " +
                       std::string(to_string(operation.kind)) + (operation.fua ? " fua" : ""));
        if (operation.kind == operation_kind::write) {
            EXPECT_EQ(operation.data.size(), operation.length_bytes);
            kept = *operation.content;
        }
    });
    std::vector<std::byte> bytes(block);
    ASSERT_OK(disk.write(block, filled(block, 7)));
    ASSERT_OK(journal.resize(100));
    ASSERT_OK(disk.read(block, bytes));
    ASSERT_OK(disk.flush());
    ASSERT_OK(journal.write_fua(0, filled(10, 1)));
    EXPECT_THAT(disk.write(8 * block, bytes), HasCode(error_code::out_of_range));
    EXPECT_EQ(seen, (std::vector<std::string>{"0 disk write", "1 journal resize", "2 disk read",
                                              "2 disk flush", "3 journal write fua"}));
    EXPECT_EQ(kept.size_bytes(), 100);
}

// A journal file that is made, filled, and removed: each step volatile until flushed.
TEST(CrashDevice, AFileOfAnotherStoreGrowsAndVanishesLikeItsWrites) {
    crash_domain domain;
    crash_device& journal = domain.add_device("journal", 0);
    ASSERT_OK(journal.resize(1000));
    ASSERT_OK(journal.write(0, filled(1000, 5)));
    ASSERT_OK(journal.flush());
    ASSERT_OK(journal.resize(0));
    power_cut cut(domain.history());
    const auto sizes = [&](std::size_t k) {
        std::set<std::uint64_t> seen;
        cut.move_to(k);
        for (const crash_choice& choice : cut.choices({})) {
            seen.insert(cut.materialize(choice).image(0).size_bytes());
        }
        return seen;
    };
    EXPECT_TRUE(sizes(2).contains(0));
    EXPECT_TRUE(sizes(2).contains(1000));
    EXPECT_EQ(sizes(4), (std::set<std::uint64_t>{0, 1000}));
    cut.move_to(3);
    EXPECT_EQ(byte_of(cut.materialize(cut.choices({})[0]), "journal", 999), 5);
}

TEST(CrashDevice, APoweredUpStateCanBeCutAgain) {
    crash_domain first_life;
    ASSERT_OK(first_life.add_device("disk", 8 * block).write(0, filled(block, 1)));
    power_cut first_cut(first_life.history());
    first_cut.move_to(1);
    crash_domain second_life(first_cut.materialize(first_cut.choices({})[1]));
    crash_device* const disk = second_life.find("disk");
    ASSERT_NE(disk, nullptr);
    EXPECT_EQ(second_life.find("nothing"), nullptr);
    ASSERT_OK(disk->write(0, filled(block, 2)));
    power_cut second_cut(second_life.history());
    EXPECT_EQ(outcomes(second_cut, 1, "disk", 0), (std::set<int>{1, 2}));
}

TEST(CrashDevice, ForgettingTheHistoryMakesEverythingDurable) {
    crash_domain domain;
    crash_device& disk = domain.add_device("disk", 8 * block);
    ASSERT_OK(disk.write(0, filled(block, 1)));
    domain.forget_history();
    EXPECT_EQ(domain.sequence(), 0);
    ASSERT_OK(disk.write(block, filled(block, 2)));
    power_cut cut(domain.history());
    EXPECT_EQ(outcomes(cut, 1, "disk", 0), (std::set<int>{1}));
    EXPECT_EQ(outcomes(cut, 1, "disk", block), (std::set<int>{0, 2}));
}

TEST(CrashDevice, AHistoryOutlivesItsDomain) {
    io::crash_history history;
    {
        crash_domain domain;
        ASSERT_OK(domain.add_device("disk", 8 * block).write(0, filled(block, 1)));
        history = domain.history();
    }
    power_cut cut(std::move(history));
    EXPECT_EQ(outcomes(cut, 1, "disk", 0), (std::set<int>{0, 1}));
}

// Materialising costs the pending writes, not the disk: 16 GiB disks, thousands of states.
TEST(CrashDevice, StatesOfHugeDisksAreCheap) {
    crash_domain domain;
    crash_device& disk = domain.add_device("disk", std::uint64_t{16} << 30);
    for (std::uint64_t i = 0; i < 2000; ++i) {
        ASSERT_OK(disk.write(i * (7 << 20), filled(block, 1)));
        if (i % 8 == 7) {
            ASSERT_OK(disk.flush());
        }
    }
    power_cut cut(domain.history());
    std::size_t states = 0;
    for (std::size_t k = 0; k <= cut.operation_count(); ++k) {
        cut.move_to(k);
        for (const crash_choice& choice : cut.choices({.choices_max = 20, .seed = k})) {
            const crash_state state = cut.materialize(choice);
            ++states;
        }
    }
    EXPECT_GT(states, 20000);
}

}  // namespace
}  // namespace uthin::test
