// The mapping cache alone under many schedules: one thread changes mappings and tells the cache as
// the executor does, two look them up. Small and fast, so that moments between two of its lines
// come up that whole pools do not come near.
#include "pool/mapping_cache.h"

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/interleaving.h"
#include "base/random.h"
#include "base/thread.h"
#include "schedules/explore.h"
#include "schedules/scheduler.h"

namespace uthin::test {
namespace {

using pool_engine::mapping_cache;

constexpr std::uint64_t run_blocks = 32;
constexpr std::uint64_t blocks_max = 2 * run_blocks;  // two lines of runs, one of long runs
constexpr std::uint32_t cache_entries = 4 * 8;
constexpr std::uint64_t times = 30;  // of the pairs of a pool

struct change {
    enum class kind : std::uint8_t { map, unmap, map_all } what = kind::map;
    std::uint64_t block = 0;
};

struct plan {
    std::vector<std::uint64_t> few;
    bool knows_few = false;  // the cache at the beginning: these, or all but these
    std::vector<change> changes;
    std::array<std::vector<std::uint64_t>, 2> lookups;
};

// What is looked up and changed: the ends of a run, neighbours in it, and one of the next run.
std::uint64_t some_block(random_generator& random) {
    constexpr std::array<std::uint64_t, 6> blocks{0, 6, 7, 8, run_blocks - 1, run_blocks};
    return blocks[random.below(blocks.size())];
}

plan make_plan(random_generator& random) {
    plan made;
    for (std::uint64_t i = random.below(3); i > 0; --i) {
        made.few.push_back(some_block(random));
    }
    made.knows_few = random.one_in(2);
    for (std::uint64_t i = 1 + random.below(2); i > 0; --i) {
        made.changes.push_back({static_cast<change::kind>(random.below(3)), some_block(random)});
    }
    for (auto& list : made.lookups) {
        for (std::uint64_t i = 1 + random.below(3); i > 0; --i) {
            list.push_back(some_block(random));
        }
    }
    return made;
}

// The metadata, and the cache before it. Each change of a block makes its version the next one;
// neighbours of one version are neighbours on the data device, too.
class cached_mappings {
public:
    explicit cached_mappings(const plan& made) {
        versions_.fill(1);
        is_mapped_.fill(true);
        if (made.knows_few) {
            for (const std::uint64_t block : made.few) {
                look_up(block);
            }
            return;
        }
        for (int round = 0; round < 2; ++round) {  // the second block of a run begins it
            for (std::uint64_t block = 0; block < blocks_max; ++block) {
                cache_.put(virtual_block(block), mapping(block));
            }
        }
        for (const std::uint64_t block : made.few) {
            cache_.invalidate(virtual_block(block));
        }
    }

    void perform(const change& wanted) {
        const bool all = wanted.what == change::kind::map_all;
        const std::uint64_t begin = all ? 0 : wanted.block;
        const std::uint64_t end = all ? blocks_max : begin + 1;
        cache_.expect({virtual_block(begin), virtual_block(end)});
        for (std::uint64_t block = begin; block < end; ++block) {  // published in one step
            ++versions_[block];
            is_mapped_[block] = wanted.what != change::kind::unmap;
        }
        interleaving_point();
        switch (wanted.what) {
            case change::kind::map: cache_.put(virtual_block(begin), mapping(begin)); break;
            case change::kind::unmap: cache_.invalidate(virtual_block(begin)); break;
            case change::kind::map_all: cache_.advance_epoch(); break;
        }
        cache_.told();
    }

    // MC1 and MC4: nothing older than what was published when it began.
    void look_up(std::uint64_t block) {
        const std::uint64_t least = versions_[block];
        mapping_cache::miss miss;
        if (const auto hit = cache_.find(virtual_block(block), miss)) {
            const std::uint64_t version = hit->block.value() / version_span;
            if (version < least || version > versions_[block] ||
                hit->block.value() % version_span != block) {
                violation_ += fmt::format("  block {}: version {} found, {} was there\n", block,
                                          version, least);
            }
            return;
        }
        interleaving_point();
        if (!is_mapped_[block]) {
            return;
        }
        const lookup_result found = mapping(block);
        interleaving_point();
        cache_.fill(virtual_block(block), miss, found);
    }

    [[nodiscard]] const std::string& violation() const { return violation_; }

private:
    static constexpr std::uint64_t version_span = 1000;
    [[nodiscard]] lookup_result mapping(std::uint64_t block) const {
        return {data_block(version_span * versions_[block] + block), false};
    }

    mapping_cache cache_{cache_entries};
    std::array<std::uint64_t, blocks_max> versions_{};
    std::array<bool, blocks_max> is_mapped_{};
    std::string violation_;
};

void start(thread& one, const std::function<void()>& body) {
    if (const auto started = one.start(body); !started) {
        throw std::runtime_error(started.error().to_string());
    }
}

void run_threads(cached_mappings& mappings, const plan& made) {
    thread changer;
    std::array<thread, 2> finders;
    scheduler::instance().begin_window();
    for (std::size_t i = 0; i < finders.size(); ++i) {
        start(finders[i], [&mappings, &list = made.lookups[i]] {
            for (const std::uint64_t block : list) {
                mappings.look_up(block);
            }
        });
    }
    start(changer, [&] {
        for (const change& one : made.changes) {
            mappings.perform(one);
        }
    });
    changer.join();
    for (thread& one : finders) {
        one.join();
    }
    scheduler::instance().end_window();
}

schedule_report run_schedule(std::uint64_t number, std::uint64_t horizon) {
    const std::string name = name_of_schedule("cache", number);
    random_generator random(seed_of_schedule("cache", number));
    const plan made = make_plan(random);
    std::string violation;
    const auto body = [&] {
        cached_mappings mappings(made);
        run_threads(mappings, made);
        // What was left behind is not older than what is there.
        for (std::uint64_t block = 0; block < blocks_max; ++block) {
            mappings.look_up(block);
        }
        violation = mappings.violation();
    };
    const auto outcome =
        scheduler::instance().run({.seed = random.next(), .horizon = horizon}, name, body);
    if (!violation.empty()) {
        violation = "violation in " + name + ":\n" + violation;
    }
    return {.outcome = outcome, .violation = violation};
}

TEST(Cache, NeverGivesAMappingThatWasOutOfDateWhenAskedFor) {
    explore("cache", run_schedule, times);
}

}  // namespace
}  // namespace uthin::test
