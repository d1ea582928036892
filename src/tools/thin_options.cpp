#include "tools/thin_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "base/result.h"
#include "tools/thin_tool.h"
#include "uthin/version.h"

namespace uthin::tools {

result<std::uint64_t> parse_number(std::string_view text, std::uint64_t max) {
    std::uint64_t value = 0;
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (status == std::errc::result_out_of_range || (status == std::errc() && value > max)) {
        return fail(error_code::invalid_argument, fmt::format("number too large, at most {}", max));
    }
    if (text.empty() || status != std::errc() || end != text.data() + text.size()) {
        return fail(error_code::invalid_argument, "invalid digit found in string");
    }
    return value;
}

option_table::option_table(std::string tool, std::string about)
    : tool_(std::move(tool)), about_(std::move(about)) {
    flag("-h,--help", help_, "Print help");
    flag("-V,--version", version_, "Print version");
    hidden_flag("-v", verbose_);
    add(
        "--io-engine", arity::one, "ENGINE", [](auto) { return result<void>(); }, "")
        .hidden = true;
}

option_table::option& option_table::add(std::string_view names, arity takes, std::string_view shown,
                                        optional_value_function take, std::string_view help) {
    option made;
    while (!names.empty()) {
        const std::size_t comma = std::min(names.find(','), names.size());
        made.names.emplace_back(names.substr(0, comma));
        names.remove_prefix(std::min(comma + 1, names.size()));
    }
    made.takes = takes;
    made.shown = shown;
    made.help = help;
    made.take = std::move(take);
    options_.push_back(std::move(made));
    return options_.back();
}

void option_table::flag(std::string_view names, bool& target, std::string_view help) {
    const auto set = [&target](std::optional<std::string_view>) -> result<void> {
        target = true;
        return {};
    };
    (void)add(names, arity::none, "", set, help);
}

void option_table::hidden_flag(std::string_view names, bool& target) {
    flag(names, target, "");
    options_.back().hidden = true;
}

void option_table::value(std::string_view names, std::string_view shown, value_function take,
                         std::string_view help) {
    const auto set = [taker = std::move(take)](std::optional<std::string_view> text) {
        return taker(text.value_or(""));
    };
    (void)add(names, arity::one, shown, set, help);
}

void option_table::optional_value(std::string_view names, std::string_view shown,
                                  optional_value_function take, std::string_view help) {
    (void)add(names, arity::optional, shown, std::move(take), help);
}

void option_table::text(std::string_view names, std::string_view shown,
                        std::optional<std::string>& target, std::string_view help) {
    value(
        names, shown,
        [&target](std::string_view given) -> result<void> {
            target = std::string(given);
            return {};
        },
        help);
}

void option_table::number(std::string_view names, std::string_view shown,
                          std::optional<std::uint64_t>& target, std::string_view help,
                          std::uint64_t max) {
    value(
        names, shown,
        [&target, max](std::string_view given) -> result<void> {
            target = UTHIN_TRY(parse_number(given, max));
            return {};
        },
        help);
}

void option_table::operand(std::string_view shown, std::optional<std::string>& target,
                           std::string_view help) {
    operand_ = &target;
    operand_shown_ = shown;
    operand_help_ = help;
}

void option_table::ignore_operand() {
    ignores_operand_ = true;
}

void option_table::require(std::string_view name) {
    find(name)->required = true;
}

void option_table::conflict(std::string_view name, std::string_view others) {
    while (!others.empty()) {
        const std::size_t comma = std::min(others.find(','), others.size());
        conflicts_.emplace_back(name, others.substr(0, comma));
        others.remove_prefix(std::min(comma + 1, others.size()));
    }
}

const option_table::option* option_table::find(std::string_view name) const {
    for (const option& candidate : options_) {
        if (std::find(candidate.names.begin(), candidate.names.end(), name) !=
            candidate.names.end()) {
            return &candidate;
        }
    }
    return nullptr;
}

option_table::option* option_table::find(std::string_view name) {
    return const_cast<option*>(std::as_const(*this).find(name));
}

// A prefix that only one option has, as getopt_long takes it.
option_table::option* option_table::find_abbreviated(std::string_view name) {
    if (option* exact = find(name)) {
        return exact;
    }
    option* found = nullptr;
    for (option& candidate : options_) {
        const bool fits = std::any_of(
            candidate.names.begin(), candidate.names.end(),
            [&](const std::string& full) { return full.size() > 2 && full.starts_with(name); });
        if (fits && name.size() > 3 && found != nullptr) {
            return nullptr;
        }
        found = fits && name.size() > 3 ? &candidate : found;
    }
    return found;
}

bool option_table::seen(std::string_view name) const {
    const option* known = find(name);
    return known != nullptr && known->seen;
}

std::string option_table::apply(option& chosen, std::optional<std::string_view> value) {
    chosen.seen = true;
    const auto taken = chosen.take(value);
    if (taken) {
        return {};
    }
    return fmt::format("invalid value '{}' for '{} <{}>': {}", value.value_or(""),
                       chosen.names.back(), chosen.shown, taken.error().message());
}

std::string option_table::take_long(std::span<char* const> given, std::size_t& at) {
    const std::string_view text(given[at]);
    const std::size_t equals = text.find('=');
    const std::string_view name = text.substr(0, equals);
    option* chosen = find_abbreviated(name);
    if (chosen == nullptr) {
        return fmt::format("unexpected argument '{}' found", name);
    }
    if (equals != std::string_view::npos) {
        if (chosen->takes == arity::none) {
            return fmt::format("unexpected value '{}' for '{}' found; no more were expected",
                               text.substr(equals + 1), name);
        }
        return apply(*chosen, text.substr(equals + 1));
    }
    if (chosen->takes != arity::one) {
        return apply(*chosen, std::nullopt);
    }
    if (at + 1 == given.size()) {
        return fmt::format("a value is required for '{} <{}>' but none was supplied", name,
                           chosen->shown);
    }
    return apply(*chosen, given[++at]);
}

std::string option_table::take_short(std::span<char* const> given, std::size_t& at) {
    const std::string_view text(given[at]);
    for (std::size_t index = 1; index < text.size(); ++index) {
        const std::string name = fmt::format("-{}", text[index]);
        option* chosen = find(name);
        if (chosen == nullptr) {
            return fmt::format("unexpected argument '{}' found", name);
        }
        std::string_view rest = text.substr(index + 1);
        if (chosen->takes == arity::none) {
            if (auto fault = apply(*chosen, std::nullopt); !fault.empty()) {
                return fault;
            }
            continue;
        }
        if (!rest.empty()) {
            rest.remove_prefix(rest.front() == '=' ? 1 : 0);
            return apply(*chosen, rest);
        }
        if (chosen->takes == arity::optional) {
            return apply(*chosen, std::nullopt);
        }
        if (at + 1 == given.size()) {
            return fmt::format("a value is required for '{} <{}>' but none was supplied", name,
                               chosen->shown);
        }
        return apply(*chosen, given[++at]);
    }
    return {};
}

std::string option_table::take_operand(std::string_view text) {
    if (operand_ != nullptr && !*operand_) {
        *operand_ = std::string(text);
        return {};
    }
    if (ignores_operand_ && !operand_ignored_) {
        operand_ignored_ = true;
        return {};
    }
    return fmt::format("unexpected argument '{}' found", text);
}

std::string option_table::find_fault() const {
    if (operand_ != nullptr && !*operand_) {
        return fmt::format("No input file provided: the argument <{}> is required", operand_shown_);
    }
    for (const option& known : options_) {
        if (known.required && !known.seen) {
            const std::string& name = known.names.back();
            const std::string_view plain = name == "--input"    ? "No input file provided: "
                                           : name == "--output" ? "No output file provided: "
                                                                : "";
            return fmt::format("{}the argument '{} <{}>' is required", plain, name, known.shown);
        }
    }
    for (const auto& [name, other] : conflicts_) {
        if (seen(name) && seen(other)) {
            return fmt::format("the argument '{}' cannot be used with '{}'", name, other);
        }
    }
    return {};
}

std::optional<int> option_table::parse(std::span<char* const> given) {
    bool only_operands = false;
    for (std::size_t at = 0; at < given.size(); ++at) {
        const std::string_view text(given[at]);
        std::string fault;
        if (!only_operands && text == "--") {
            only_operands = true;
        } else if (!only_operands && text.starts_with("--")) {
            fault = take_long(given, at);
        } else if (!only_operands && text.size() > 1 && text.front() == '-') {
            fault = take_short(given, at);
        } else {
            fault = take_operand(text);
        }
        if (!fault.empty()) {
            return usage_error(fault);
        }
        if (help_) {
            return finish(tool_, print_result(help()));
        }
        if (version_) {
            return finish(tool_, print_result(fmt::format("{}\n", version_string)));
        }
    }
    const std::string fault = find_fault();
    return fault.empty() ? std::nullopt : std::optional(usage_error(fault));
}

std::string option_table::usage() const {
    std::string text = fmt::format("Usage: {} [OPTIONS]", tool_);
    for (const option& known : options_) {
        if (known.required) {
            text += fmt::format(" {} <{}>", known.names.back(), known.shown);
        }
    }
    return operand_ == nullptr ? text : text + fmt::format(" <{}>", operand_shown_);
}

int option_table::usage_error(std::string_view message) const {
    tell(fmt::format("error: {}\n\n{}\n\nFor more information, try '--help'.\n", message, usage()));
    return exit_usage;
}

std::string option_table::help() const {
    std::string text = fmt::format("{}\n\n{}\n", about_, usage());
    if (operand_ != nullptr) {
        text += fmt::format("\nArguments:\n  <{}>  {}\n", operand_shown_, operand_help_);
    }
    text += "\nOptions:\n";
    std::vector<std::pair<std::string, std::string_view>> lines;
    for (const option& known : options_) {
        if (known.hidden) {
            continue;
        }
        std::string left = known.names.front().starts_with("--") ? "      " : "  ";
        for (std::size_t index = 0; index < known.names.size(); ++index) {
            left += (index == 0 ? "" : ", ") + known.names[index];
        }
        if (known.takes == arity::one) {
            left += fmt::format(" <{}>", known.shown);
        } else if (known.takes == arity::optional) {
            left += fmt::format("[=<{}>]", known.shown);
        }
        lines.emplace_back(std::move(left), known.help);
    }
    std::size_t width = 0;
    for (const auto& [left, help] : lines) {
        width = std::max(width, left.size());
    }
    for (const auto& [left, help] : lines) {
        text += fmt::format("{:<{}}  {}\n", left, width, help);
    }
    return text;
}

}  // namespace uthin::tools
