// The options of the thin_* tools: what both families of the originals accept, in one parser.
//
//   -q --quiet --opt=V --opt V -oV -o=V -o V, -abc for flags, options behind the operand, "--";
//   a value may be optional: then it must be attached (--numeric-only=short, -nshort).
//
// Invariants
//   TO1  -h and -V print and end with 0; everything that cannot be understood ends with 2, one
//        line that names it, and the usage.
// Threads   One.
// Failures  None beyond TO1.
// Source    Behaviour of thin-provisioning-tools 0.9.0 (getopt_long) and 1.1.0.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "uthin/error.h"

namespace uthin::tools {

// Unsigned decimal without blanks.
[[nodiscard]] result<std::uint64_t> parse_number(std::string_view text,
                                                 std::uint64_t max = UINT64_MAX);

class option_table {
public:
    using value_function = std::function<result<void>(std::string_view value)>;
    using optional_value_function =
        std::function<result<void>(std::optional<std::string_view> value)>;

    option_table(std::string tool, std::string about);

    // `names` is "-q,--quiet" with any number of aliases; the last long one is shown in messages.
    void flag(std::string_view names, bool& target, std::string_view help);
    void text(std::string_view names, std::string_view shown, std::optional<std::string>& target,
              std::string_view help);
    void number(std::string_view names, std::string_view shown,
                std::optional<std::uint64_t>& target, std::string_view help,
                std::uint64_t max = UINT64_MAX);
    void value(std::string_view names, std::string_view shown, value_function take,
               std::string_view help);
    void optional_value(std::string_view names, std::string_view shown,
                        optional_value_function take, std::string_view help);
    // Not shown in the usage.
    void hidden_flag(std::string_view names, bool& target);
    void operand(std::string_view shown, std::optional<std::string>& target, std::string_view help);
    // One operand may be given, and means nothing.
    void ignore_operand();
    void require(std::string_view name);
    void conflict(std::string_view name, std::string_view others);

    // The exit status, when there is nothing left to do.
    [[nodiscard]] std::optional<int> parse(std::span<char* const> given);
    // Prints the message and the usage; returns 2.
    int usage_error(std::string_view message) const;
    [[nodiscard]] bool seen(std::string_view name) const;

private:
    enum class arity : std::uint8_t { none, optional, one };
    struct option {
        std::vector<std::string> names;
        arity takes = arity::none;
        std::string shown;
        std::string help;
        optional_value_function take;
        bool hidden = false;
        bool required = false;
        bool seen = false;
    };

    option& add(std::string_view names, arity takes, std::string_view shown,
                optional_value_function take, std::string_view help);
    [[nodiscard]] option* find(std::string_view name);
    [[nodiscard]] const option* find(std::string_view name) const;
    [[nodiscard]] option* find_abbreviated(std::string_view name);
    // Each returns what is wrong; empty when nothing is.
    [[nodiscard]] std::string take_long(std::span<char* const> given, std::size_t& at);
    [[nodiscard]] std::string take_short(std::span<char* const> given, std::size_t& at);
    [[nodiscard]] std::string take_operand(std::string_view text);
    [[nodiscard]] std::string apply(option& chosen, std::optional<std::string_view> value);
    [[nodiscard]] std::string find_fault() const;
    [[nodiscard]] std::string usage() const;
    [[nodiscard]] std::string help() const;

    std::string tool_;
    std::string about_;
    std::vector<option> options_;
    std::vector<std::pair<std::string, std::string>> conflicts_;
    std::string operand_shown_;
    std::string operand_help_;
    std::optional<std::string>* operand_ = nullptr;
    bool ignores_operand_ = false;
    bool operand_ignored_ = false;
    bool help_ = false;
    bool version_ = false;
    bool verbose_ = false;
};

}  // namespace uthin::tools
