#include <algorithm>
#include <stdexcept>

#include <fmt/format.h>

#include "base/thread.h"
#include "schedules/pairs.h"
#include "schedules/scheduler.h"

namespace uthin::test {

namespace {

void run_clients(small_pool& pool, client_plans& plans) {
    scheduler& turns = scheduler::instance();
    const auto start = [&](thread& client, requests& list) {
        const auto started = client.start([&] {
            for (request& one : list) {
                pool.perform(one);
            }
        });
        if (!started) {
            throw std::runtime_error(started.error().to_string());
        }
    };
    thread first;
    thread second;
    turns.begin_window();
    start(first, plans.first);
    start(second, plans.second);
    first.join();
    second.join();
    turns.end_window();
}

bool has(const requests& list, request_kind kind) {
    return std::ranges::any_of(list, [&](const request& one) { return one.kind == kind; });
}

std::string told(const client_plans& plans) {
    std::string text;
    for (const auto* list : {&plans.first, &plans.second}) {
        text += list == &plans.first ? "  one client:\n" : "  the other client:\n";
        for (const request& one : *list) {
            text += "    " + to_string(one) + "\n";
        }
    }
    return text;
}

}  // namespace

schedule_report pair_runner::run(std::uint64_t number, std::uint64_t horizon) {
    random_generator random(seed_of_schedule(pair_.name, number));
    client_plans plans = pair_.plan(random);
    pool_.reset(random.one_in(2));
    pool_content end{};
    std::string violation;
    bool failed = false;
    bool stays_open = !has(plans.first, request_kind::close_pool);
    const auto body = [&] {
        pool_.open(true);
        run_clients(pool_, plans);
        failed = pair_.loses_changes && pool_.has_failed();
        stays_open = stays_open && !failed;
        if (stays_open) {
            end = pool_.content();
        }
        violation = pool_.close();
    };
    const schedule_choice choice{.seed = random.next(), .horizon = horizon};
    const auto outcome =
        scheduler::instance().run(choice, name_of_schedule(pair_.name, number), body);
    if (violation.empty()) {
        violation =
            pool_.check(failed || (pair_.loses_changes && !has(plans.first, request_kind::mend)));
    }
    if (violation.empty()) {
        if (stays_open) {
            violation = judge_reopened(end);
        } else {
            pool_.open(false);
            end = pool_.content();
            violation = pool_.close();
        }
    }
    if (violation.empty()) {
        violation = judge(plans, end);
    }
    if (!violation.empty()) {
        violation = fmt::format("violation in {}: {}\n{}  at the end:\n{}",
                                name_of_schedule(pair_.name, number), violation, told(plans),
                                to_string(end));
    }
    return {.outcome = outcome, .violation = violation};
}

std::string pair_runner::judge(const client_plans& plans, const pool_content& end) {
    std::string wrong = judge_outcomes(plans, end);
    return wrong.empty() ? judge_cuts(plans) : wrong;
}

std::string pair_runner::judge_outcomes(const client_plans& plans, const pool_content& end) const {
    for (const auto* list : {&plans.first, &plans.second}) {
        for (const request& one : *list) {
            const bool judged = one.failure == error_code::not_found ||
                                one.failure == error_code::busy ||
                                one.failure == error_code::out_of_range;
            if (one.failure && !judged && !std::ranges::count(pair_.may_fail_with, *one.failure)) {
                return "a request failed: " + to_string(one);
            }
        }
    }
    if (!pair_.loses_changes) {
        return has_serial_order(pool_.beginning(), plans.first, plans.second, end)
                   ? std::string()
                   : "no serial order of the requests gives these outcomes";
    }
    // What nobody ever wrote must not be there; the beginning is a bound that nothing precedes.
    const request nothing{.ended = UINT64_MAX};
    std::string wrong = lost_by(pool_.beginning(), plans.first, plans.second, nothing, end);
    for (const auto* list : {&plans.first, &plans.second}) {
        for (const request& one : *list) {
            const bool is_durable =
                one.kind == request_kind::flush || one.kind == request_kind::write_fua;
            if (wrong.empty() && is_durable && !one.failure) {
                request until_now = one;  // what came later may be there, too
                until_now.ended = UINT64_MAX;
                wrong = lost_by(pool_.beginning(), plans.first, plans.second, until_now, end);
            }
        }
    }
    return wrong;
}

std::string pair_runner::judge_reopened(const pool_content& end) {
    pool_.open(false);
    const pool_content found = pool_.content();
    std::string wrong = pool_.close();
    const bool same = std::equal(found.begin(), found.end(), end.begin(),
                                 [](const auto& a, const auto& b) { return a.reads_as(b); });
    if (wrong.empty() && !same) {
        wrong = "after it was closed the pool holds something else:\n" + to_string(found);
    }
    return wrong;
}

// What a power cut after each of them leaves is whole, and holds what was promised.
std::string pair_runner::judge_cuts(const client_plans& plans) {
    for (const auto* list : {&plans.first, &plans.second}) {
        for (const request& one : *list) {
            if (!one.cut) {
                continue;
            }
            pool_.set(*one.cut);
            std::string wrong = pool_.check();
            if (wrong.empty()) {
                pool_.open(false);
                wrong = lost_by(pool_.beginning(), plans.first, plans.second, one, pool_.content());
                const std::string closed = pool_.close();
                wrong = wrong.empty() ? closed : wrong;
            }
            if (!wrong.empty()) {
                return "a power cut after (" + to_string(one) + ") lost something:" + wrong;
            }
        }
    }
    return {};
}

}  // namespace uthin::test
