#include "pool/labels.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "pool/names.h"

namespace uthin {

namespace {

std::string first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// Process numbers mean something within one namespace of one start of the machine.
std::string process_space() {
    struct stat space {};
    if (::stat("/proc/self/ns/pid", &space) != 0) {
        return {};
    }
    return fmt::format("{}/{}", first_line("/proc/sys/kernel/random/boot_id"), space.st_ino);
}

// In clock ticks since the machine was started; empty: no such process (proc(5), field 22).
std::string start_time_of(std::string_view pid) {
    const std::string line = first_line(fmt::format("/proc/{}/stat", pid));
    // The second field is the program's name in parentheses, and may hold anything.
    const std::size_t name_end = line.rfind(')');
    if (name_end == std::string::npos) {
        return {};
    }
    std::istringstream rest(line.substr(name_end + 1));
    constexpr int fields_between = 20;
    std::string field;
    for (int i = 0; i < fields_between; ++i) {
        rest >> field;
    }
    return field;
}

}  // namespace

std::string this_process_tag() {
    const std::string pid = fmt::format("{}", ::getpid());
    return fmt::format("{} {} {}", pid, start_time_of(pid), process_space());
}

bool may_be_running(std::string_view process_tag) {
    std::istringstream parts{std::string(process_tag)};
    std::string pid;
    std::string start_time;
    std::string space;
    parts >> pid >> start_time >> space;
    if (!parse_decimal(pid) || space.empty()) {
        return true;
    }
    const std::string here = process_space();
    const std::string boot = here.substr(0, here.find('/'));
    if (boot != space.substr(0, space.find('/'))) {
        return boot.empty();  // the machine was started again
    }
    return space != here || start_time_of(pid) == start_time;
}

label_map make_lease(std::int64_t until_unix_seconds) {
    return {{std::string(lease_until_label), fmt::format("{}", until_unix_seconds)},
            {std::string(lease_owner_label), this_process_tag()}};
}

bool lease_is_over(const label_map& labels, std::int64_t now_unix_seconds) {
    const auto until = labels.find(std::string(lease_until_label));
    const auto end = until == labels.end() ? std::nullopt : parse_decimal(until->second);
    if (!end) {
        return false;
    }
    const auto owner = labels.find(std::string(lease_owner_label));
    return *end < static_cast<std::uint64_t>(now_unix_seconds) ||
           (owner != labels.end() && !may_be_running(owner->second));
}

bool is_marked_read_only(const label_map& labels) {
    const auto label = labels.find(std::string(read_only_label));
    return label != labels.end() && label->second == "true";
}

std::optional<std::string> holder_of(const label_map& labels) {
    const auto at = labels.lower_bound(std::string(hold_label_prefix));
    if (at == labels.end() || !at->first.starts_with(hold_label_prefix)) {
        return std::nullopt;
    }
    const std::string who = at->first.substr(hold_label_prefix.size());
    return at->second.empty() ? who : fmt::format("{} ({})", who, at->second);
}

}  // namespace uthin
