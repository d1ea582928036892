// Every scenario of tests/data/scenarios gives with uthin what a real kernel gave, step by step:
// errno, printed lines, content of every thin, metadata. tests/kernel/scenarios_test.py asks a
// kernel anew.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "support/paths.h"
#include "support/scenario_uthin.h"

namespace uthin::test {
namespace {

std::filesystem::path data_folder() {
    return test_data_dir();
}

std::string file_text(const std::filesystem::path& path) {
    std::ifstream file(path);
    EXPECT_TRUE(file) << path;
    return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> recorded_names() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(data_folder() / "scenarios")) {
        if (entry.path().extension() == ".kernel") {
            names.push_back(entry.path().stem());
        }
    }
    std::sort(names.begin(), names.end());
    return names;
}

class Scenarios : public ::testing::TestWithParam<std::string> {};

TEST_P(Scenarios, GiveWhatTheKernelGave) {
    const auto folder = data_folder() / "scenarios";
    const std::string scenario = file_text(folder / (GetParam() + ".scenario"));
    const std::string recorded = file_text(folder / (GetParam() + ".kernel"));
    for (const std::string& one :
         compare_outcomes(scenario, recorded, run_scenario_by_uthin(scenario))) {
        ADD_FAILURE() << one;
    }
}

INSTANTIATE_TEST_SUITE_P(Recorded, Scenarios, ::testing::ValuesIn(recorded_names()),
                         [](const auto& each) {
                             std::string name = each.param;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

// ---- the table of bad input

struct bad_row {
    std::string name;
    std::string error;  // as errno_word() says it
};

std::vector<bad_row> bad_rows() {
    static const std::map<std::string, std::string> words = {
        {"Invalid argument", "EINVAL"},
        {"Operation not permitted", "EPERM"},
        {"No such device", "ENODEV"},
        {"No such device or address", "ENXIO"},
        {"Input/output error", "EIO"},
        {"No space left on device", "ENOSPC"},
        {"Block device required", "ENOTBLK"},
        {"Invalid or incomplete multibyte or wide character", "EILSEQ"},
        {"Operation not supported", "EOPNOTSUPP"},
        {"File exists", "EEXIST"},
        {"No data available", "ENODATA"},
        {"Device or resource busy", "EBUSY"},
    };
    std::vector<bad_row> rows;
    std::istringstream in(file_text(data_folder() / "kernel-badinput-6.1.tsv"));
    std::string line;
    std::getline(in, line);  // the heads of the columns
    while (std::getline(in, line)) {
        const std::size_t first = line.find('\t');
        const std::size_t second = line.find('\t', first + 1);
        bad_row row{line.substr(0, first), "0"};
        if (line.substr(first + 1, second - first - 1) == "1") {
            const std::size_t end = std::min(line.find('\t', second + 1), line.size());
            const std::string reply = line.substr(second + 1, end - second - 1);
            row.error = words.at(reply.substr(reply.find(": ") + 2));
        }
        rows.push_back(std::move(row));
    }
    return rows;
}

// {line of the scenario: how it ended}; what is missing ended well.
std::map<std::size_t, std::string> errors_by_line(const std::string& outcome) {
    std::map<std::size_t, std::string> errors;
    std::istringstream in(outcome);
    for (std::string line; std::getline(in, line);) {
        std::size_t number = 0;
        std::size_t at = 0;
        std::istringstream words(line);
        if (!line.starts_with(" ") && words >> number >> at) {
            errors[at] = line.substr(line.rfind(" = ") + 3);
        }
    }
    return errors;
}

TEST(BadInput, EveryRowOfTheKernelsTableEndsWithItsErrno) {
    constexpr std::string_view mark = "#@ ";
    const std::string scenario = file_text(data_folder() / "scenarios" / "bad-input.scenario");
    const auto errors = errors_by_line(run_scenario_by_uthin(scenario));
    const std::vector<bad_row> rows = bad_rows();
    ASSERT_EQ(rows.size(), 182U);
    std::istringstream in(scenario);
    std::size_t number = 0;
    std::size_t row = 0;
    std::size_t different = 0;
    for (std::string line; std::getline(in, line);) {
        ++number;
        const std::size_t at = line.find(mark);
        if (at == std::string::npos) {
            continue;
        }
        ASSERT_LT(row, rows.size());
        EXPECT_EQ(line.substr(at + mark.size()), rows[row].name) << "line " << number;
        const auto found = errors.find(number);
        const std::string error = found == errors.end() ? "0" : found->second;
        if (line.starts_with("!")) {  // its difference is judged with the other scenarios
            ++different;
            EXPECT_NE(error, rows[row].error) << line;
        } else {
            EXPECT_EQ(error, rows[row].error) << line;
        }
        ++row;
    }
    EXPECT_EQ(row, rows.size());
    EXPECT_EQ(different, 6U) << "docs/kernel-differences.md D20 and D22 list them";
}

}  // namespace
}  // namespace uthin::test
