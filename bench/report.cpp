#include "report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

namespace uthin::bench {

namespace {

double seconds_of(clockid_t which) {
    std::timespec now{};
    ::clock_gettime(which, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

nlohmann::json json_of(const spread& of) {
    return {{"median", of.median}, {"least", of.least}, {"most", of.most}};
}

}  // namespace

double cpu_seconds() {
    return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

double wall_seconds() {
    return seconds_of(CLOCK_MONOTONIC);
}

std::uint64_t resident_bytes() {
    unsigned long long total_pages = 0;
    unsigned long long resident_pages = 0;
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    if (file == nullptr || std::fscanf(file, "%llu %llu", &total_pages, &resident_pages) != 2) {
        resident_pages = 0;
    }
    if (file != nullptr) {
        std::fclose(file);
    }
    return resident_pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

sample stopwatch::per_operation(std::uint64_t operations) const {
    const auto count = static_cast<double>(operations);
    return {(cpu_seconds() - cpu_) * 1e6 / count, (wall_seconds() - wall_) * 1e6 / count};
}

spread spread_of(std::vector<double> values) {
    if (values.empty()) {
        return {};
    }
    std::ranges::sort(values);
    return {values[values.size() / 2], values.front(), values.back()};
}

bool report::wanted(std::string_view name) const {
    return options_.only.empty() ||
           std::ranges::any_of(options_.only, [name](const std::string& one) {
               return name == one || name.starts_with(one + "/") ||
                      std::string_view(one).starts_with(std::string(name) + "/");
           });
}

result<void> report::compare(const comparison& what) {
    if (!wanted(what.name)) {
        return {};
    }
    std::vector<double> base_cpu, base_wall, our_cpu, our_wall, ratio_cpu, ratio_wall;
    for (unsigned round = 0; round < options_.rounds; ++round) {
        const sample base = UTHIN_TRY_CTX(what.base_work(round), what.base);
        const sample ours = UTHIN_TRY_CTX(what.our_work(round), what.name);
        base_cpu.push_back(base.cpu_us);
        base_wall.push_back(base.wall_us);
        our_cpu.push_back(ours.cpu_us);
        our_wall.push_back(ours.wall_us);
        ratio_cpu.push_back(base.cpu_us / ours.cpu_us);
        ratio_wall.push_back(base.wall_us / ours.wall_us);
    }
    compared_row row{
        what.name,          what.base,           spread_of(base_cpu),  spread_of(base_wall),
        spread_of(our_cpu), spread_of(our_wall), spread_of(ratio_cpu), spread_of(ratio_wall),
        what.at_least};
    std::string verdict;
    if (what.at_least) {
        const bool met = row.ratio_cpu.median >= *what.at_least;
        missed_ += met ? 0 : 1;
        verdict = fmt::format("  {} {:.2f}", met ? "met" : "MISSED", *what.at_least);
    }
    fmt::print(stderr,
               "{:<38} {:9.3f} us CPU, {:<22} {:9.3f} us: {:.3f} of it ({:.3f}..{:.3f}), wall "
               "{:.3f}{}\n",
               row.name, row.our_cpu.median, row.base, row.base_cpu.median, row.ratio_cpu.median,
               row.ratio_cpu.least, row.ratio_cpu.most, row.ratio_wall.median, verdict);
    compared_.push_back(std::move(row));
    return {};
}

std::optional<double> report::ratio(std::string_view name) const {
    const auto row = std::ranges::find(compared_, name, &compared_row::name);
    return row == compared_.end() ? std::nullopt : std::optional(row->ratio_cpu.median);
}

void report::value(const std::string& name, double value, const std::string& unit, bound kind,
                   double limit) {
    std::string verdict;
    if (kind != bound::none) {
        const bool met = kind == bound::at_most ? value <= limit : value >= limit;
        missed_ += met ? 0 : 1;
        verdict = fmt::format("  {} {} {:g}", met ? "met:" : "MISSED:",
                              kind == bound::at_most ? "at most" : "at least", limit);
    }
    fmt::print(stderr, "{:<38} {:12.3f} {}{}\n", name, value, unit, verdict);
    values_.push_back({name, value, unit, kind, limit});
}

std::string report::json() const {
    nlohmann::json all;
    all["rounds"] = options_.rounds;
    all["quick"] = options_.quick;
    all["comparisons"] = nlohmann::json::array();
    for (const compared_row& row : compared_) {
        nlohmann::json one = {{"name", row.name},
                              {"base", row.base},
                              {"base_cpu_us", json_of(row.base_cpu)},
                              {"base_wall_us", json_of(row.base_wall)},
                              {"cpu_us", json_of(row.our_cpu)},
                              {"wall_us", json_of(row.our_wall)},
                              {"ratio_cpu", json_of(row.ratio_cpu)},
                              {"ratio_wall", json_of(row.ratio_wall)}};
        if (row.at_least) {
            one["at_least"] = *row.at_least;
            one["met"] = row.ratio_cpu.median >= *row.at_least;
        }
        all["comparisons"].push_back(std::move(one));
    }
    all["values"] = nlohmann::json::array();
    for (const value_row& row : values_) {
        nlohmann::json one = {{"name", row.name}, {"value", row.value}, {"unit", row.unit}};
        if (row.kind != bound::none) {
            const bool most = row.kind == bound::at_most;
            one[most ? "at_most" : "at_least"] = row.limit;
            one["met"] = most ? row.value <= row.limit : row.value >= row.limit;
        }
        all["values"].push_back(std::move(one));
    }
    return all.dump(1);
}

}  // namespace uthin::bench
