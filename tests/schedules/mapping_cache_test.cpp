// The mapping cache alone, under many schedules of three threads: one changes mappings as the
// executor does, two find and fill. What is found must have been true at some time since the last
// change that the cache was told of, or that somebody has seen.
#include "pool/mapping_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include <fmt/format.h>

#include "base/interleaving.h"
#include "base/random.h"
#include "base/thread.h"
#include "schedules/scheduler.h"
#include "support/seed.h"

namespace uthin::test {
namespace {

using pool_engine::mapping_cache;

constexpr std::uint64_t blocks = 64;  // two runs
constexpr std::uint64_t version_stride = 1000;

// A schedule here takes less than a hundredth of one of a pool.
std::uint64_t schedule_count() {
    const char* text = std::getenv("UTHIN_SCHEDULE_COUNT");
    return 100 * (text != nullptr ? std::strtoull(text, nullptr, 0) : 200);
}

class tested_cache {
public:
    explicit tested_cache(random_generator& random)
        : random_(random), cache_(random.one_in(2) ? 3 : 96), focus_(random.below(blocks)) {
        // Whole runs with holes, or single mappings that runs are made of later.
        if (random.one_in(2)) {
            fill_many();
        }
        for (std::uint64_t i = random.below(6); i > 0; --i) {
            find(near_focus());
        }
    }

    void find_and_fill() {
        const std::uint64_t block = near_focus();
        find(block);
    }

    void change() {
        const std::uint64_t what = random_.below(8);
        const std::uint64_t first = what == 0 ? 0 : near_focus();
        const std::uint64_t end =
            what == 0 ? blocks : std::min(blocks, first + 1 + random_.below(3));
        cache_.expect({virtual_block(first), virtual_block(end)});
        for (std::uint64_t block = first; block < end; ++block) {
            ++state_.at(block).version;
            state_.at(block).mapped = what != 1 && what != 2;
        }
        interleaving_point();
        if (what == 0) {
            cache_.advance_epoch();
        }
        for (std::uint64_t block = first; block < end; ++block) {
            block_state& now = state_.at(block);
            if (what != 0 && now.mapped && what != 3) {
                cache_.put(virtual_block(block), truth(block));
            } else if (what != 0) {
                cache_.invalidate(virtual_block(block));
            }
            now.known = now.version;
        }
        cache_.told();
    }

    // Nobody is at work any more.
    void look_at_all() {
        for (std::uint64_t block = 0; block < blocks; ++block) {
            find(block);
        }
    }

    [[nodiscard]] const std::string& violation() const { return violation_; }
    [[nodiscard]] std::uint64_t hits() const { return hits_; }

private:
    void fill_many() {
        for (std::uint64_t block = 0; block < blocks; ++block) {
            if (random_.one_in(2)) {
                cache_.put(virtual_block(block), truth(block));
            }
        }
        for (int i = 0; i < 200; ++i) {
            find(random_.below(blocks));
        }
        for (std::uint64_t i = random_.below(3); i > 0; --i) {
            cache_.invalidate(virtual_block(near_focus()));
        }
    }

    struct block_state {
        std::uint64_t version = 1;
        std::uint64_t known = 1;  // the least that may be found
        bool mapped = true;
    };

    [[nodiscard]] std::uint64_t near_focus() {
        return std::min(blocks - 1, focus_ / 4 * 4 + random_.below(6));
    }

    // Neighbours of one version are neighbours on the data device.
    [[nodiscard]] lookup_result truth(std::uint64_t block) const {
        return {data_block(state_.at(block).version * version_stride + block), false};
    }

    void find(std::uint64_t block) {
        const std::uint64_t least = state_.at(block).known;
        mapping_cache::miss miss;
        const auto found = cache_.find(virtual_block(block), miss);
        block_state& now = state_.at(block);
        if (!found) {
            interleaving_point();
            const lookup_result mapping = truth(block);
            now.known = now.version;  // who has seen it is not given an older one
            const bool mapped = now.mapped;
            interleaving_point();
            if (mapped) {
                cache_.fill(virtual_block(block), miss, mapping);
            }
            return;
        }
        ++hits_;
        const std::uint64_t version = found->block.value() / version_stride;
        if (found->block.value() % version_stride != block || version < least ||
            version > now.version) {
            violation_ = fmt::format("block {} is found at {}; versions {} to {} are allowed",
                                     block, found->block.value(), least, now.version);
        }
    }

    random_generator& random_;
    mapping_cache cache_;
    const std::uint64_t focus_;
    std::array<block_state, blocks> state_{};
    std::string violation_;
    std::uint64_t hits_ = 0;
};

void start(thread& client, const std::function<void()>& body) {
    if (const auto started = client.start(body); !started) {
        throw std::runtime_error(started.error().to_string());
    }
}

struct cache_report {
    std::uint64_t steps = 0;
    std::uint64_t hits = 0;
    std::string violation;
};

cache_report run_schedule(std::uint64_t number, std::uint64_t horizon) {
    random_generator random(seed() * 0x9e3779b97f4a7c15ULL + number);
    scheduler& turns = scheduler::instance();
    cache_report report;
    const auto body = [&] {
        tested_cache tested(random);
        const std::uint64_t before = tested.hits();
        thread changer;
        std::array<thread, 2> finders;
        turns.begin_window();
        for (thread& finder : finders) {
            start(finder, [&] {
                for (int i = 0; i < 4; ++i) {
                    tested.find_and_fill();
                }
            });
        }
        start(changer, [&] {
            for (int i = 0; i < 3; ++i) {
                tested.change();
            }
        });
        changer.join();
        finders[0].join();
        finders[1].join();
        turns.end_window();
        report.hits = tested.hits() - before;
        tested.look_at_all();
        report.violation = tested.violation();
    };
    const schedule_choice choice{.seed = random.next(), .horizon = horizon};
    report.steps =
        turns.run(choice, fmt::format("UTHIN_SEED={} mapping cache:{}", seed(), number), body)
            .window_steps;
    return report;
}

TEST(MappingCacheSchedules, FindOnlyWhatIsTrue) {
    std::uint64_t horizon = 0;
    for (std::uint64_t number = 0; number < 16; ++number) {
        horizon = std::max(horizon, run_schedule(number, 0).steps);
    }
    std::uint64_t hits = 0;
    std::uint64_t violations = 0;
    const std::uint64_t count = schedule_count();
    std::uint64_t number = 0;
    for (; number < count && violations == 0; ++number) {
        const cache_report report = run_schedule(number, horizon);
        hits += report.hits;
        if (!report.violation.empty()) {
            ++violations;
            ADD_FAILURE() << "schedule " << number << ": " << report.violation
                          << "\nthe last steps:\n"
                          << scheduler::instance().last_steps();
        }
    }
    fmt::print("mapping cache: schedules={} hits={} violations={}\n", number, hits, violations);
    EXPECT_GT(hits, number);
}

}  // namespace
}  // namespace uthin::test
