// Every public call of the metadata library with its n-th device operation failing, for every n.
//
// Whatever fails: the call either succeeds with the right answer or says so; abort() brings the
// last commit back or ends in fail mode; on a healthy device the pool then opens, is clean, and the
// call's change is there wholly or not at all.
#include <chrono>
#include <cstdio>
#include <functional>

#include <fmt/format.h>

#include "base/result.h"
#include "io/fault_device.h"
#include "io/sparse_image.h"
#include "persistent_data/btree.h"
#include "support/matchers.h"
#include "support/pool_state.h"
#include "support/tier.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

using io::fault_outcome;
using io::operation_kind;
using io::operation_kinds;
using test::pool_state;

constexpr std::uint64_t metadata_blocks = 256;
constexpr std::uint64_t data_blocks = 2000;
constexpr std::uint64_t tall_device = 1;  // two levels of nodes
constexpr std::uint64_t snapshot_device = 2;
constexpr std::uint64_t small_device = 3;
constexpr std::uint64_t empty_device = 4;
constexpr std::uint64_t new_device = 9;

using action = std::function<result<std::string>(metadata&)>;

struct scenario {
    const char* name;
    // Runs with faults; what it returns must not depend on them.
    action act;
    // Before the faults.
    action prepare = [](metadata&) -> result<std::string> { return std::string(); };
    // The call commits what `prepare` left open before it does its own work.
    bool commits_first = false;
};

result<std::string> commit(metadata& pool) {
    UTHIN_TRY(pool.commit());
    return std::string();
}

// The device is closed again whatever happens.
template <class Body>
result<std::string> with_device(metadata& pool, std::uint64_t id, const Body& body) {
    thin_device* device = UTHIN_TRY(pool.open_device(device_id(id)));
    result<std::string> done = body(*device);
    pool.close_device(device);
    return done;
}

result<std::string> map_new(metadata& pool, thin_device& device, std::uint64_t block) {
    const data_block data = UTHIN_TRY(pool.alloc_data_block());
    UTHIN_TRY(pool.insert_block(device, virtual_block(block), data));
    return std::string();
}

result<std::string> map_run(metadata& pool, std::uint64_t id, std::uint64_t begin,
                            std::uint64_t end) {
    return with_device(pool, id, [&](thin_device& device) -> result<std::string> {
        for (std::uint64_t block = begin; block < end; ++block) {
            UTHIN_TRY(map_new(pool, device, block));
        }
        return std::string();
    });
}

std::string text_of(const std::optional<lookup_result>& found) {
    return found ? fmt::format("{}{}", found->block.value(), found->shared ? "s" : "") : "-";
}

std::string text_of(const std::optional<mapped_range>& found) {
    return found ? fmt::format("{}..{} at {}", found->begin.value(), found->end.value(),
                               found->data_begin.value())
                 : "-";
}

std::string text_of(const device_details& details) {
    return fmt::format("{} {} {} {}", details.mapped_blocks, details.transaction_id,
                       details.creation_time, details.snapshotted_time);
}

// A fingerprint of everything that a view shows.
result<std::string> walk(thin_metadata::metadata_view& view) {
    const pool_state state = UTHIN_TRY(test::read_state(view, nullptr));
    std::uint64_t sum = 0;
    for (const auto& [id, device] : state.devices) {
        for (const auto& [block, mapping] : device.mappings) {
            sum = sum * 1099511628211 + id + block * 3 + mapping.data * 7 + mapping.time;
        }
    }
    return fmt::format("{:x}", sum);
}

result<io::sparse_image> make_base() {
    io::image_device device("metadata",
                            io::sparse_image(metadata_blocks * metadata_block_size_bytes));
    const auto pool =
        UTHIN_TRY(metadata::open(device, {.data_block_size_sectors = 128, .format = true}));
    UTHIN_TRY(pool->resize_data(data_blocks));
    for (const std::uint64_t id : {tall_device, small_device, empty_device}) {
        UTHIN_TRY(pool->create_thin(device_id(id)));
    }
    UTHIN_TRY(map_run(*pool, tall_device, 0, 600));
    UTHIN_TRY(map_run(*pool, small_device, 0, 10));
    UTHIN_TRY(pool->commit());
    UTHIN_TRY(pool->create_snap(device_id(snapshot_device), device_id(tall_device)));
    UTHIN_TRY(map_run(*pool, tall_device, 300, 302));
    UTHIN_TRY(pool->close());
    return device.image();
}

// ---- the calls
// ------------------------------------------------------------------------------------------------

void add_device_calls(std::vector<scenario>& all) {
    all.push_back({"create_thin", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.create_thin(device_id(new_device)));
                       return commit(pool);
                   }});
    all.push_back({"create_snap", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.create_snap(device_id(new_device), device_id(tall_device)));
                       return commit(pool);
                   }});
    all.push_back({"delete_thin (shared)", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.delete_thin(device_id(snapshot_device)));
                       return commit(pool);
                   }});
    all.push_back({"delete_thin (exclusive)", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.delete_thin(device_id(small_device)));
                       return commit(pool);
                   }});
    all.push_back({"swap_root", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.swap_root(device_id(small_device), device_id(tall_device),
                                                device_id(new_device)));
                       return commit(pool);
                   }});
    all.push_back({"replace_root", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.replace_root(device_id(tall_device), device_id(small_device),
                                                   device_id(new_device)));
                       return commit(pool);
                   }});
    all.push_back({"open_device", [](metadata& pool) {
                       return with_device(pool, tall_device, [&](thin_device& device) {
                           return result<std::string>(
                               std::to_string(metadata::id_of(device).value()));
                       });
                   }});
    all.push_back({"list_devices", [](metadata& pool) -> result<std::string> {
                       std::string text;
                       for (const thin_device_info& info : UTHIN_TRY(pool.list_devices())) {
                           text += fmt::format("{}: {};", info.id.value(), text_of(info.details));
                       }
                       return text;
                   }});
    all.push_back({"get_details", [](metadata& pool) -> result<std::string> {
                       return text_of(UTHIN_TRY(pool.get_details(device_id(tall_device))));
                   }});
    all.push_back({"set_transaction_id", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.set_transaction_id(0, 7));
                       return commit(pool);
                   }});
}

void add_lookup_calls(std::vector<scenario>& all) {
    const auto on_tall = [](auto body) -> action {
        return [body](metadata& pool) {
            return with_device(pool, tall_device,
                               [&](thin_device& device) { return body(pool, device); });
        };
    };
    all.push_back({"find_block", on_tall([](metadata& pool, thin_device& device) {
                       return [&]() -> result<std::string> {
                           std::string text;
                           for (const std::uint64_t block : {0U, 300U, 599U, 600U}) {
                               text += text_of(
                                   UTHIN_TRY(pool.find_block(device, virtual_block(block))));
                           }
                           return text;
                       }();
                   })});
    all.push_back({"find_cached and issue_prefetches",
                   on_tall([](metadata& pool, thin_device& device) -> result<std::string> {
                       for (int attempt = 0; attempt < 10; ++attempt) {
                           auto found = pool.find_cached(device, virtual_block(599));
                           if (found) {
                               return text_of(*found);
                           }
                           if (found.error().code() != error_code::would_block) {
                               return std::unexpected(found.error());
                           }
                           pool.issue_prefetches();
                       }
                       return fail(error_code::io_error, "prefetching does not help");
                   })});
    all.push_back({"find_mapped_range",
                   on_tall([](metadata& pool, thin_device& device) -> result<std::string> {
                       return text_of(UTHIN_TRY(pool.find_mapped_range(
                           device, {virtual_block(10), virtual_block(1000)})));
                   })});
    all.push_back({"find_block_in_batch",
                   on_tall([](metadata& pool, thin_device& device) -> result<std::string> {
                       return text_of(
                           UTHIN_TRY(pool.find_block_in_batch(device, virtual_block(42))));
                   })});
    all.push_back({"find_mapped_range_in_batch",
                   on_tall([](metadata& pool, thin_device& device) -> result<std::string> {
                       return text_of(UTHIN_TRY(pool.find_mapped_range_in_batch(
                           device, {virtual_block(299), virtual_block(400)})));
                   })});
    all.push_back({"highest_mapped_block",
                   on_tall([](metadata& pool, thin_device& device) -> result<std::string> {
                       return std::to_string(
                           UTHIN_TRY(pool.highest_mapped_block(device)).value().value());
                   })});
    all.push_back({"data_block_count", [](metadata& pool) -> result<std::string> {
                       std::string text;
                       for (const std::uint64_t block : {0U, 300U, 612U, 1999U}) {
                           text +=
                               std::to_string(UTHIN_TRY(pool.data_block_count(data_block(block))));
                       }
                       return text;
                   }});
    all.push_back({"create_view and a walk", [](metadata& pool) -> result<std::string> {
                       const auto view = UTHIN_TRY(pool.create_view());
                       return walk(*view);
                   }});
    all.push_back({"counters", [](metadata& pool) -> result<std::string> {
                       return fmt::format("{} {} {}", UTHIN_TRY(pool.data_space()).free_blocks,
                                          UTHIN_TRY(pool.metadata_space()).raw_free_blocks,
                                          UTHIN_TRY(pool.transaction_id()));
                   }});
}

void add_conditional_insertions(std::vector<scenario>& all) {
    all.push_back({"insert_block_if", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(with_device(
                           pool, snapshot_device, [&](thin_device& device) -> result<std::string> {
                               std::string done;
                               for (const std::uint64_t block : {125U, 126U}) {
                                   const auto found = UTHIN_TRY(
                                       pool.find_block_in_batch(device, virtual_block(block)));
                                   const auto fresh = UTHIN_TRY(pool.alloc_data_block());
                                   done += UTHIN_TRY(pool.insert_block_if(
                                               device, virtual_block(block), fresh, fresh))
                                               ? "y"
                                               : "n";
                                   done += UTHIN_TRY(pool.insert_block_if(
                                               device, virtual_block(block), found->block, fresh))
                                               ? "y"
                                               : "n";
                               }
                               return done == "nyny" ? result<std::string>(done)
                                                     : fail(error_code::corrupt, done);
                           }));
                       return commit(pool);
                   }});
}

void add_mapping_calls(std::vector<scenario>& all) {
    all.push_back({"alloc_data_block and insert_block", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(map_run(pool, empty_device, 5, 6));
                       return commit(pool);
                   }});
    all.push_back({"insert_block over a shared one", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(map_run(pool, snapshot_device, 123, 124));
                       return commit(pool);
                   }});
    all.push_back({"alloc_data_range, dec_data_range", [](metadata& pool) -> result<std::string> {
                       const auto blocks = UTHIN_TRY(pool.alloc_data_range(40));
                       UTHIN_TRY(pool.inc_data_range(blocks));
                       UTHIN_TRY(pool.dec_data_range(blocks));
                       UTHIN_TRY(pool.dec_data_range(blocks));
                       return commit(pool);
                   }});
    const auto removal = [](std::uint64_t id, std::uint64_t begin, std::uint64_t end) -> action {
        return [=](metadata& pool) -> result<std::string> {
            UTHIN_TRY(with_device(pool, id, [&](thin_device& device) -> result<std::string> {
                UTHIN_TRY(pool.remove_range(device, {virtual_block(begin), virtual_block(end)}));
                return std::string();
            }));
            return commit(pool);
        };
    };
    all.push_back({"remove_range (inside)", removal(tall_device, 100, 500)});
    all.push_back({"remove_range (all)", removal(snapshot_device, 0, 1000)});
    all.push_back({"remove_range (small)", removal(small_device, 3, 4)});
    all.push_back(
        {"remove_some", [](metadata& pool) -> result<std::string> {
             UTHIN_TRY(
                 with_device(pool, tall_device, [&](thin_device& device) -> result<std::string> {
                     UTHIN_TRY(pool.remove_some(device, {virtual_block(0), virtual_block(600)}, 1));
                     return std::string();
                 }));
             return commit(pool);
         }});
    all.push_back({"build_device", [](metadata& pool) -> result<std::string> {
                       int runs = 0;
                       UTHIN_TRY(pool.build_device(
                           device_id(new_device), {}, [&]() -> result<std::optional<mapping_run>> {
                               if (runs++ == 3) {
                                   return std::nullopt;
                               }
                               return mapping_run{
                                   virtual_block(static_cast<std::uint64_t>(runs) * 1000),
                                   data_block(1500), 200, 0};
                           }));
                       return commit(pool);
                   }});
    all.push_back({"a batch", [](metadata& pool) -> result<std::string> {
                       pool.begin_batch();
                       auto done = map_run(pool, small_device, 20, 40);
                       pool.publish_batch();
                       UTHIN_TRY(std::move(done));
                       return commit(pool);
                   }});
    all.push_back({"many changes in one transaction", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(map_run(pool, tall_device, 0, 600));
                       UTHIN_TRY(pool.create_snap(device_id(new_device), device_id(tall_device)));
                       UTHIN_TRY(pool.delete_thin(device_id(snapshot_device)));
                       return commit(pool);
                   }});
}

void add_pool_calls(std::vector<scenario>& all) {
    const action change = [](metadata& pool) -> result<std::string> {
        UTHIN_TRY(map_run(pool, small_device, 50, 60));
        return std::string();
    };
    const action hold = [](metadata& pool) -> result<std::string> {
        UTHIN_TRY(pool.reserve_metadata_snap());
        UTHIN_TRY(pool.commit());
        return map_run(pool, tall_device, 0, 3);
    };
    all.push_back({"commit", commit, change});
    all.push_back({"abort",
                   [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.abort());
                       return std::string();
                   },
                   change});
    all.push_back({"close",
                   [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.close());
                       return std::string();
                   },
                   change});
    all.push_back({"reserve_metadata_snap",
                   [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.reserve_metadata_snap());
                       return commit(pool);
                   },
                   change, true});
    all.push_back({"release_metadata_snap",
                   [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.release_metadata_snap());
                       return commit(pool);
                   },
                   hold});
    all.push_back({"resize_data", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.resize_data(40000));
                       return commit(pool);
                   }});
    all.push_back({"resize_metadata", [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.resize_metadata(metadata_blocks + 64));
                       return commit(pool);
                   }});
    all.push_back({"set_needs_check",
                   [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.set_needs_check());
                       return std::string();
                   },
                   change});
    all.push_back({"clear_needs_check",
                   [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.clear_needs_check());
                       return std::string();
                   },
                   [](metadata& pool) -> result<std::string> {
                       UTHIN_TRY(pool.set_needs_check());
                       return std::string();
                   }});
}

std::vector<scenario> scenarios() {
    std::vector<scenario> all;
    add_device_calls(all);
    add_lookup_calls(all);
    add_conditional_insertions(all);
    add_mapping_calls(all);
    add_pool_calls(all);
    return all;
}

// ---- the loop
// ------------------------------------------------------------------------------------------------

enum class endurance : std::uint8_t { once, through_the_abort, until_reopened };

struct fault_mode {
    operation_kinds kinds;
    fault_outcome outcome = fault_outcome::io_error;
    endurance lasts = endurance::once;
    std::string name;

    [[nodiscard]] io::fault_rule rule(std::uint64_t nth) const {
        return {
            .kinds = kinds, .nth = nth, .persistent = lasts != endurance::once, .outcome = outcome};
    }
};

std::vector<fault_mode> fault_modes() {
    std::vector<fault_mode> modes;
    const std::pair<const char*, operation_kinds> kinds[] = {{"read", {operation_kind::read}},
                                                             {"write", {operation_kind::write}},
                                                             {"flush", {operation_kind::flush}},
                                                             {"any", operation_kinds::all()}};
    std::vector<std::pair<const char*, fault_outcome>> outcomes = {
        {"EIO", fault_outcome::io_error},
        {"ENOSPC", fault_outcome::no_space},
        {"short", fault_outcome::short_transfer}};
    std::vector<std::pair<const char*, endurance>> endurances = {
        {"once", endurance::once}, {"from then on", endurance::through_the_abort}};
    if (test::tier() != 0) {
        outcomes.emplace_back("ETIMEDOUT", fault_outcome::timed_out);
        endurances.emplace_back("until it is opened again", endurance::until_reopened);
    }
    for (const auto& [kind_name, kind] : kinds) {
        for (const auto& [outcome_name, outcome] : outcomes) {
            for (const auto& [lasts_name, lasts] : endurances) {
                modes.push_back({kind, outcome, lasts,
                                 fmt::format("{} {} {}", kind_name, outcome_name, lasts_name)});
            }
        }
    }
    return modes;
}

result<pool_state> state_on(block_device& device) {
    const auto view = UTHIN_TRY(thin_metadata::open_offline(device, {}));
    pool_state state = UTHIN_TRY(test::read_state(*view, &device));
    if (std::string text = test::check_complaint(*view); !text.empty()) {
        return fail(error_code::corrupt, text);
    }
    return state;
}

io::sparse_image roomy(io::sparse_image image) {
    image.resize((metadata_blocks + 64) * metadata_block_size_bytes);
    return image;
}

class fault_loop {
public:
    fault_loop(const scenario& what, const io::sparse_image& base) : scenario_(what), base_(base) {}

    // What a run without faults leaves and answers.
    void rehearse() {
        io::image_device device("metadata", base_);
        ASSERT_OK_AND_ASSIGN(auto pool, metadata::open(device, {}));
        ASSERT_OK(scenario_.prepare(*pool));
        add_legal_state(device);
        ASSERT_OK_AND_ASSIGN(answer_, scenario_.act(*pool));
        pool.reset();
        add_legal_state(device);
        if (scenario_.commits_first) {
            io::image_device other("metadata", base_);
            ASSERT_OK_AND_ASSIGN(auto first, metadata::open(other, {}));
            ASSERT_OK(scenario_.prepare(*first));
            ASSERT_OK(first->commit());
            first.reset();
            add_legal_state(other);
        }
    }

    [[nodiscard]] std::uint64_t run(const fault_mode& mode) {
        constexpr std::uint64_t nth_max = 2000;
        for (std::uint64_t nth = 1; nth < nth_max; ++nth) {
            std::string complaint;
            const bool injected = run_once(mode, nth, &complaint);
            EXPECT_EQ(complaint, "")
                << scenario_.name << ": operation " << nth << " fails (" << mode.name << ")";
            if (!injected || ::testing::Test::HasFailure()) {
                return nth;
            }
        }
        ADD_FAILURE() << scenario_.name << " never completes";
        return nth_max;
    }

private:
    void add_legal_state(block_device& device) {
        auto state = state_on(device);
        ASSERT_OK(state);
        legal_.push_back(std::move(*state));
    }

    [[nodiscard]] std::string legality(const pool_state& found) const {
        std::string complaint;
        for (const pool_state& state : legal_) {
            const std::string text = difference(state, found);
            if (text.empty()) {
                return {};
            }
            complaint += (complaint.empty() ? "" : "; or ") + text;
        }
        return complaint;
    }

    // False when no fault came about.
    bool run_once(const fault_mode& mode, std::uint64_t nth, std::string* complaint) {
        io::image_device device("metadata", base_);
        io::fault_plan plan;
        io::fault_device faulty(device, plan);
        auto pool = metadata::open(faulty, {});
        if (!pool || !scenario_.prepare(**pool)) {
            *complaint = "preparation failed";
            return false;
        }
        plan.arm(mode.rule(nth));
        const result<std::string> answer = scenario_.act(**pool);
        const bool injected = plan.injected() != 0;
        if (answer && *answer != answer_) {
            *complaint = fmt::format("wrong answer {}, expected {}", *answer, answer_);
        } else if (!answer && !injected) {
            *complaint = answer.error().to_string();
        } else if (!answer && answer.error().code() != error_code::io_error &&
                   answer.error().code() != error_code::failed &&
                   answer.error().code() != error_code::needs_check) {
            *complaint = "unexpected kind of error: " + answer.error().to_string();
        }
        if (complaint->empty() && injected) {
            *complaint = recover(**pool, device, plan, mode.lasts);
        }
        pool->reset();
        plan.disarm();
        if (complaint->empty()) {
            *complaint = reopen(device);
        }
        return injected;
    }

    std::string recover(metadata& pool, block_device& device, io::fault_plan& plan,
                        endurance lasts) const {
        if (auto aborted = pool.abort(); !aborted) {
            plan.disarm();
            if (!pool.failed() || pool.commit() || pool.list_devices() ||
                pool.create_thin(device_id(new_device + 1)) || pool.abort()) {
                return "abort failed, but not everything refuses";
            }
            return {};
        }
        if (lasts == endurance::until_reopened) {
            return {};
        }
        plan.disarm();
        const auto view = pool.create_view();
        if (!view) {
            return view.error().to_string();
        }
        auto state = test::read_state(**view, &device);
        if (!state) {
            return "after the abort: " + state.error().to_string();
        }
        // The view's flag is as committed; a failed attempt to write it may have gone either way.
        if (std::string text = legality(*state); !text.empty()) {
            return "after the abort: " + text;
        }
        return {};
    }

    // On a healthy device again: legal, clean, usable.
    std::string reopen(block_device& device) const {
        auto state = state_on(device);
        if (!state) {
            return "reopened: " + state.error().to_string();
        }
        if (std::string text = legality(*state); !text.empty()) {
            return "reopened: " + text;
        }
        auto pool = metadata::open(device, {});
        if (!pool) {
            return "reopened: " + pool.error().to_string();
        }
        auto used = [&]() -> result<std::string> {
            UTHIN_TRY((*pool)->create_thin(device_id(new_device + 1)));
            UTHIN_TRY(map_run(**pool, new_device + 1, 0, 3));
            return commit(**pool);
        }();
        if (!used) {
            return "used again: " + used.error().to_string();
        }
        pool->reset();
        auto after = state_on(device);
        return after ? std::string() : "used again: " + after.error().to_string();
    }

    const scenario& scenario_;
    const io::sparse_image base_;
    std::string answer_;
    std::vector<pool_state> legal_;
};

TEST(MetadataFault, EveryCallSurvivesEveryFailingDeviceOperation) {
    const auto begin = std::chrono::steady_clock::now();
    auto base = make_base();
    ASSERT_OK(base);
    std::uint64_t runs = 0;
    const std::vector<scenario> all = scenarios();
    for (const scenario& what : all) {
        fault_loop loop(what, roomy(*base));
        loop.rehearse();
        for (const fault_mode& mode : fault_modes()) {
            runs += loop.run(mode);
            if (HasFailure()) {
                FAIL() << what.name;
            }
        }
    }
    // The first violation ends the test.
    std::printf("metadata faults: scenarios=%zu runs=%llu violations=0 seconds=%.1f\n", all.size(),
                static_cast<unsigned long long>(runs),
                std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    EXPECT_GE(all.size(), 25U);
    EXPECT_GE(runs, 2000U);
}

// open() itself, on a good pool and on a blank device.
TEST(MetadataFault, OpeningAndFormattingSurviveEveryFailingDeviceOperation) {
    auto base = make_base();
    ASSERT_OK(base);
    std::uint64_t runs = 0;
    for (const bool blank : {false, true}) {
        const io::sparse_image image =
            blank ? io::sparse_image(metadata_blocks * metadata_block_size_bytes) : *base;
        for (const fault_mode& mode : fault_modes()) {
            bool injected = true;
            for (std::uint64_t nth = 1; injected; ++nth) {
                ++runs;
                io::image_device device("metadata", image);
                io::fault_plan plan;
                io::fault_device faulty(device, plan);
                plan.arm(mode.rule(nth));
                const metadata_options options{.data_block_size_sectors = 128, .format = true};
                const auto opened = metadata::open(faulty, options);
                injected = plan.injected() != 0;
                ASSERT_TRUE(opened || injected) << opened.error().to_string();
                plan.disarm();
                // Blank still, or a pool.
                const auto again = metadata::open(device, options);
                ASSERT_OK(again) << mode.name << " " << nth;
                const auto state = state_on(device);
                ASSERT_OK(state);
                ASSERT_EQ(state->devices.size(), blank ? 0U : 4U);
            }
        }
    }
    std::printf("opening with faults: runs=%llu violations=0\n",
                static_cast<unsigned long long>(runs));
}

}  // namespace
}  // namespace uthin
