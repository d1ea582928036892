// uthin-bench: the pool engine against the device below it, in one process.
//
//   uthin-bench [--rounds N] [--quick] [--only NAME[,NAME...]] [--directory DIR] [--json FILE]
//
// Prints a line for each row as it is measured; with --json everything goes to FILE as well.
// docs/benchmarking.md says what the rows are.
#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "report.h"

namespace uthin::bench {
namespace {

struct arguments {
    bench_options options;
    std::string json_path;
};

int usage() {
    fmt::print(stderr,
               "usage: uthin-bench [--rounds N] [--quick] [--only NAME[,NAME...]] "
               "[--directory DIR] [--json FILE]\n");
    return 2;
}

std::vector<std::string> split(std::string_view list) {
    std::vector<std::string> parts;
    while (!list.empty()) {
        const std::size_t end = std::min(list.find(','), list.size());
        parts.emplace_back(list.substr(0, end));
        list.remove_prefix(std::min(end + 1, list.size()));
    }
    return parts;
}

std::optional<arguments> parse(int argc, char** argv) {
    arguments parsed;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") {
            parsed.options.quick = true;
            continue;
        }
        if (i + 1 == argc) {
            return std::nullopt;
        }
        const char* const value = argv[++i];
        if (word == "--rounds") {
            const char* const end = value + std::strlen(value);
            if (std::from_chars(value, end, parsed.options.rounds).ptr != end ||
                parsed.options.rounds == 0) {
                return std::nullopt;
            }
        } else if (word == "--only") {
            parsed.options.only = split(value);
        } else if (word == "--directory") {
            parsed.options.directory = value;
        } else if (word == "--json") {
            parsed.json_path = value;
        } else {
            return std::nullopt;
        }
    }
    return parsed;
}

result<void> measure(report& out) {
    for (const auto group : {bench_hits, bench_first_writes, bench_sequential, bench_snapshots,
                             bench_depth, bench_open, bench_beside, bench_growth}) {
        UTHIN_TRY(group(out));
    }
    return {};
}

int run(const arguments& parsed) {
    report out(parsed.options);
    if (const auto measured = measure(out); !measured) {
        fmt::print(stderr, "uthin-bench: {}\n", measured.error().message());
        return 1;
    }
    if (!parsed.json_path.empty()) {
        std::FILE* const file = std::fopen(parsed.json_path.c_str(), "w");
        if (file == nullptr) {
            fmt::print(stderr, "uthin-bench: {} cannot be written\n", parsed.json_path);
            return 1;
        }
        const std::string text = out.json() + "\n";
        const bool whole = std::fwrite(text.data(), 1, text.size(), file) == text.size();
        if (std::fclose(file) != 0 || !whole) {
            fmt::print(stderr, "uthin-bench: {} was not written whole\n", parsed.json_path);
            return 1;
        }
    }
    fmt::print(stderr, "{} rows missed their target\n", out.missed());
    return 0;
}

}  // namespace
}  // namespace uthin::bench

int main(int argc, char** argv) {
    const auto parsed = uthin::bench::parse(argc, argv);
    return parsed ? uthin::bench::run(*parsed) : uthin::bench::usage();
}
