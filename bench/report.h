// Rows of a benchmark: two sides measured in turns and compared, or one figure held to a limit.
//
// Invariants
//   RE1  Sides of a comparison take turns (A B A B); the ratio is that of the two runs of one
//        round, so that whatever else the machine does meets both. Medians are judged.
//   RE2  CPU is user + system time of the whole process, all threads: on a shared machine it means
//        something where wall time does not.
// Threads   One owner.
// Failures  Those of what is measured.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace uthin::bench {

struct bench_options {
    unsigned rounds = 5;
    bool quick = false;  // smaller pools
    std::vector<std::string> only;
    std::string directory = ".";  // for files
};

// What one operation took.
struct sample {
    double cpu_us = 0;
    double wall_us = 0;
};

[[nodiscard]] double cpu_seconds();
[[nodiscard]] double wall_seconds();
[[nodiscard]] std::uint64_t resident_bytes();

class stopwatch {
public:
    stopwatch() : cpu_(cpu_seconds()), wall_(wall_seconds()) {}
    [[nodiscard]] sample per_operation(std::uint64_t operations) const;

private:
    const double cpu_;
    const double wall_;
};

struct spread {
    double median = 0;
    double least = 0;
    double most = 0;
};
[[nodiscard]] spread spread_of(std::vector<double> values);

// One side: does the work of a round and says what an operation took.
using side = std::function<result<sample>(unsigned round)>;

struct comparison {
    std::string name;
    std::string base;  // what ours is compared with
    side base_work;
    side our_work;
    // At least this much of the base's throughput, in CPU time; absent: reported only.
    std::optional<double> at_least;
};

enum class bound : std::uint8_t { none, at_most, at_least };

class report {
public:
    explicit report(bench_options options) : options_(std::move(options)) {}

    [[nodiscard]] const bench_options& options() const noexcept { return options_; }
    // `name` was asked for: it, or a part of it up to a slash, stands in --only.
    [[nodiscard]] bool wanted(std::string_view name) const;

    // Measures, prints a line, keeps the row.
    [[nodiscard]] result<void> compare(const comparison& what);
    // The CPU ratio of a row that was measured.
    [[nodiscard]] std::optional<double> ratio(std::string_view name) const;
    void value(const std::string& name, double value, const std::string& unit,
               bound kind = bound::none, double limit = 0);

    // Everything as JSON.
    [[nodiscard]] std::string json() const;
    [[nodiscard]] unsigned missed() const noexcept { return missed_; }

private:
    struct compared_row {
        std::string name;
        std::string base;
        spread base_cpu, base_wall, our_cpu, our_wall, ratio_cpu, ratio_wall;
        std::optional<double> at_least;
    };
    struct value_row {
        std::string name;
        double value;
        std::string unit;
        bound kind;
        double limit;
    };
    const bench_options options_;
    std::vector<compared_row> compared_;
    std::vector<value_row> values_;
    unsigned missed_ = 0;
};

// One group of rows each.
[[nodiscard]] result<void> bench_hits(report& out);
[[nodiscard]] result<void> bench_first_writes(report& out);
[[nodiscard]] result<void> bench_sequential(report& out);
[[nodiscard]] result<void> bench_snapshots(report& out);
[[nodiscard]] result<void> bench_depth(report& out);
[[nodiscard]] result<void> bench_open(report& out);
[[nodiscard]] result<void> bench_beside(report& out);
[[nodiscard]] result<void> bench_growth(report& out);

}  // namespace uthin::bench
