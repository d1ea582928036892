#include "support/scenario_uthin.h"

#include <fmt/format.h>

#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>

#include "base/result.h"
#include "io/memory_device.h"
#include "io/open.h"
#include "support/device_mapper.h"
#include "support/pool_state.h"
#include "support/scenario.h"
#include "thin_metadata/metadata_view.h"
#include "thin_metadata/superblock.h"

namespace uthin::test {

namespace {

class uthin_backend final : public scenario_backend {
public:
    device_mapper mapper{table_dialect::strict_kernel};

    int make_disk(const std::string& name, std::uint64_t size_sectors) override {
        mapper.make_disk(name, size_sectors);
        return 0;
    }
    int create(const std::string& name, const std::string& table) override {
        return mapper.create(name, table);
    }
    int load(const std::string& name, const std::string& table) override {
        return mapper.load(name, table);
    }
    int clear(const std::string& name) override { return mapper.clear(name); }
    int suspend(const std::string& name, bool) override { return mapper.suspend(name); }
    int resume(const std::string& name) override { return mapper.resume(name); }
    int remove(const std::string& name) override { return mapper.remove(name); }
    int message(const std::string& name, std::uint64_t sector, const std::string& text) override {
        return mapper.message(name, sector, text);
    }
    int status(const std::string& name, bool noflush, std::string& text) override {
        return mapper.status(name, noflush, text);
    }
    int table(const std::string& name, std::string& text) override {
        return mapper.table(name, text);
    }
    int events(const std::string& name, std::uint64_t& count) override {
        return mapper.events(name, count);
    }
    int set_no_space_timeout(std::uint64_t seconds) override {
        mapper.set_no_space_timeout(std::chrono::seconds(seconds));
        return 0;
    }
    std::int64_t read(const std::string& name, std::uint64_t sector,
                      std::span<std::byte> into) override {
        return mapper.read(name, sector, into);
    }
    std::int64_t write(const std::string& name, std::uint64_t sector,
                       std::span<const std::byte> from) override {
        return mapper.write(name, sector, from);
    }
    int discard(const std::string& name, std::uint64_t sector, std::uint64_t length) override {
        return mapper.discard(name, sector, length);
    }
    int flush(const std::string& name) override { return mapper.flush(name); }
    std::uint64_t size_sectors(const std::string& name) override {
        return mapper.size_sectors(name);
    }
    std::string dump(const std::string& disk) override {
        const auto device = mapper.find("/dev/" + disk);
        return device == nullptr ? "  no disk\n" : metadata_text(*device);
    }
    std::span<std::byte> buffer(std::size_t bytes) override {
        thread_local std::vector<std::byte> memory;
        memory.resize(std::max(memory.size(), bytes));
        return std::span(memory).first(bytes);
    }
};

// One run of mappings that look alike.
struct text_run {
    std::uint64_t begin = 0;
    std::uint64_t length = 0;
    std::uint64_t data = 0;
    std::uint32_t time = 0;
    std::uint64_t owners = 0;

    [[nodiscard]] bool goes_on(std::uint64_t block, std::uint64_t at, std::uint32_t made,
                               std::uint64_t count) const {
        return length != 0 && block == begin + length && at == data + length && made == time &&
               count == owners;
    }
    [[nodiscard]] std::string text() const {
        return length == 0 ? ""
                           : fmt::format("    {}+{} -> {} time {} owners {}\n", begin, length, data,
                                         time, owners);
    }
};

// `numbers` and `owners` go on from one set of devices to the next.
std::string devices_text(const device_states& devices, std::string_view word,
                         std::map<std::uint64_t, std::uint64_t>& numbers) {
    std::map<std::uint64_t, std::uint64_t> owners;
    for (const auto& [id, device] : devices) {
        for (const auto& [block, mapping] : device.mappings) {
            ++owners[mapping.data];
        }
    }
    std::string text;
    for (const auto& [id, device] : devices) {
        const device_details& details = device.details;
        text += fmt::format("  {} {} mapped {} transaction {} created {} snapshotted {}\n", word,
                            id, details.mapped_blocks, details.transaction_id,
                            details.creation_time, details.snapshotted_time);
        text_run run;
        for (const auto& [block, mapping] : device.mappings) {
            const auto at = numbers.emplace(mapping.data, numbers.size()).first->second;
            if (!run.goes_on(block, at, mapping.time, owners[mapping.data])) {
                text += run.text();
                run = {block, 0, at, mapping.time, owners[mapping.data]};
            }
            ++run.length;
        }
        text += run.text();
    }
    return text;
}

result<std::string> try_metadata_text(block_device& metadata) {
    const auto view = UTHIN_TRY(thin_metadata::open_offline(metadata, {}));
    const pool_state state = UTHIN_TRY(read_state(*view, &metadata));
    std::map<std::uint64_t, std::uint64_t> numbers;
    std::string text =
        fmt::format("  metadata transaction {} time {} needs_check {} data {} held {}\n",
                    state.transaction_id, state.time, state.needs_check ? "yes" : "no",
                    state.data_blocks, state.held != nullptr ? "yes" : "no");
    text += devices_text(state.devices, "thin", numbers);
    if (state.held != nullptr) {
        text += devices_text(*state.held, "held", numbers);
    }
    if (const std::string complaint = check_complaint(*view); !complaint.empty()) {
        text += fmt::format("  check: {}\n", complaint);
    }
    return text;
}

struct step_outcome {
    std::size_t line = 0;
    std::string step;
    std::string error;
    std::vector<std::string> printed;
};

std::map<std::size_t, step_outcome> parse_outcome(const std::string& text, std::string& end) {
    std::map<std::size_t, step_outcome> steps;
    std::istringstream in(text);
    step_outcome* last = nullptr;
    for (std::string line; std::getline(in, line);) {
        if (line.starts_with("steps ")) {
            end = line;
        } else if (line.starts_with(" ") && last != nullptr) {
            last->printed.push_back(line);
        } else {
            std::istringstream words(line);
            std::size_t number = 0;
            step_outcome step;
            words >> number >> step.line;
            const std::size_t equals = line.rfind(" = ");
            step.error = line.substr(equals + 3);
            step.step = line.substr(0, equals);
            last = &(steps[number] = step);
        }
    }
    return steps;
}

// "a/b" as two numbers.
bool two_numbers(const std::string& word, std::uint64_t& first, std::uint64_t& second) {
    char slash = 0;
    std::istringstream in(word);
    return static_cast<bool>(in >> first >> slash >> second) && slash == '/';
}

bool same_line(const std::string& kernel, const std::string& uthin) {
    if (kernel == uthin) {
        return true;
    }
    std::istringstream kernel_in(kernel);
    std::istringstream uthin_in(uthin);
    std::vector<std::string> k;
    std::vector<std::string> u;
    for (std::string word; kernel_in >> word;) {
        k.push_back(word);
    }
    for (std::string word; uthin_in >> word;) {
        u.push_back(word);
    }
    constexpr std::size_t metadata_word = 4;
    constexpr std::size_t held_word = 6;
    if (k.size() != u.size() || k.size() < 12 || k[2] != "thin-pool") {
        return false;
    }
    for (std::size_t i = 0; i < k.size(); ++i) {
        std::uint64_t used[2] = {};
        std::uint64_t total[2] = {};
        const bool fits = i == metadata_word && two_numbers(k[i], used[0], total[0]) &&
                          two_numbers(u[i], used[1], total[1]) && total[0] == total[1] &&
                          used[1] <= used[0] + used[0] / 10 + 16;
        const bool both_held = i == held_word && (k[i] == "-") == (u[i] == "-");
        if (k[i] != u[i] && !fits && !both_held) {
            return false;
        }
    }
    return true;
}

bool same_step(const step_outcome& kernel, const step_outcome& uthin) {
    if (kernel.error != uthin.error || kernel.printed.size() != uthin.printed.size()) {
        return false;
    }
    for (std::size_t i = 0; i < kernel.printed.size(); ++i) {
        if (!same_line(kernel.printed[i], uthin.printed[i])) {
            return false;
        }
    }
    return true;
}

std::string shown(const step_outcome& step) {
    std::string text = step.error.empty() ? "0" : step.error;
    for (std::size_t i = 0; i < step.printed.size() && i < 12; ++i) {
        text += "\n      " + step.printed[i];
    }
    return text;
}

struct announcement {
    std::string word;  // "D5", "D5=EIO"
    bool certain = true;
};

std::map<std::size_t, announcement> announced(const std::string& scenario) {
    std::map<std::size_t, announcement> lines;
    std::istringstream in(scenario);
    std::size_t number = 0;
    for (std::string line; std::getline(in, line);) {
        ++number;
        const std::size_t at = line.find_first_not_of(" \t");
        if (at != std::string::npos && (line[at] == '!' || line[at] == '?')) {
            lines[number].certain = line[at] == '!';
            std::istringstream words(line.substr(at + 1));
            words >> lines[number].word;
        }
    }
    return lines;
}

}  // namespace

std::string run_scenario_by_uthin(const std::string& text) {
    uthin_backend backend;
    return run_scenario(text, backend);
}

result<std::string> run_scenario_on(const std::string& text, const std::filesystem::path& metadata,
                                    const std::filesystem::path& data) {
    uthin_backend backend;
    const std::filesystem::path paths[] = {metadata, data};
    for (std::size_t i = 0; i < 2; ++i) {
        auto device = UTHIN_TRY(io::open_device(paths[i].string(), {.direct = false}));
        backend.mapper.add_disk(fmt::format("disk{}", i), std::move(device));
    }
    return run_scenario(text, backend);
}

std::string metadata_text(block_device& metadata) {
    auto text = try_metadata_text(metadata);
    return text ? *text : fmt::format("  unreadable: {}\n", text.error().to_string());
}

std::string with_dumps(const std::string& outcome, const std::filesystem::path& dumps) {
    constexpr std::string_view mark = "  @dump ";
    std::istringstream in(outcome);
    std::string text;
    for (std::string line; std::getline(in, line);) {
        if (!line.starts_with(mark)) {
            text += line + "\n";
            continue;
        }
        std::ifstream file(dumps / line.substr(mark.size()), std::ios::binary);
        std::uint64_t blocks = 0;
        file.read(reinterpret_cast<char*>(&blocks), sizeof blocks);
        io::memory_device device(blocks * metadata_block_size_bytes, "dump");
        std::uint64_t index = 0;
        std::vector<std::byte> block(metadata_block_size_bytes);
        while (file.read(reinterpret_cast<char*>(&index), sizeof index) &&
               file.read(reinterpret_cast<char*>(block.data()),
                         static_cast<std::streamsize>(block.size()))) {
            if (!device.write(index * metadata_block_size_bytes, block)) {
                throw std::runtime_error("a dump does not fit: " + line);
            }
        }
        text += metadata_text(device);
    }
    return text;
}

std::vector<std::string> compare_outcomes(const std::string& scenario, const std::string& kernel,
                                          const std::string& uthin) {
    std::vector<std::string> differences;
    std::string kernel_end;
    std::string uthin_end;
    auto by_kernel = parse_outcome(kernel, kernel_end);
    auto by_uthin = parse_outcome(uthin, uthin_end);
    if (kernel_end != uthin_end || kernel_end.empty()) {
        differences.push_back(fmt::format("kernel: '{}', uthin: '{}'", kernel_end, uthin_end));
    }
    std::set<std::size_t> numbers;
    for (const auto* steps : {&by_kernel, &by_uthin}) {
        for (const auto& [number, step] : *steps) {
            numbers.insert(number);
        }
    }
    const std::map<std::size_t, announcement> expected = announced(scenario);
    std::set<std::size_t> seen;
    for (const std::size_t number : numbers) {
        const bool in_kernel = by_kernel.contains(number);
        const step_outcome step = in_kernel ? by_kernel[number] : by_uthin[number];
        step_outcome ours = by_uthin[number];
        step_outcome theirs = by_kernel[number];
        ours.error = ours.error.empty() ? "0" : ours.error;
        theirs.error = theirs.error.empty() ? "0" : theirs.error;
        const auto reason = expected.find(step.line);
        if (same_step(theirs, ours)) {
            continue;
        }
        if (reason == expected.end()) {
            differences.push_back(fmt::format("{}\n    kernel: {}\n    uthin:  {}", step.step,
                                              shown(theirs), shown(ours)));
            continue;
        }
        seen.insert(step.line);
        const std::string& word = reason->second.word;
        const std::size_t equals = word.find('=');
        if (equals != std::string::npos && word.substr(equals + 1) != ours.error) {
            differences.push_back(fmt::format("{}: uthin must answer {}, but {}", step.step,
                                              word.substr(equals + 1), shown(ours)));
        }
    }
    for (const auto& [line, reason] : expected) {
        if (reason.certain && !seen.contains(line)) {
            differences.push_back(fmt::format("line {}: announced as different ({}), but it is not",
                                              line, reason.word));
        }
    }
    return differences;
}

}  // namespace uthin::test
