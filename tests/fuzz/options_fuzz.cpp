// The command lines of the thin_* tools: words between zero bytes.
#include <cstdio>
#include <optional>

#include "fuzz/target.h"
#include "tools/thin_options.h"

namespace uthin::fuzz {
namespace {

constexpr std::size_t words_max = 32;

// While it lives, what is printed goes nowhere. The descriptors stay: who tells of a crash uses
// them.
class silence {
public:
    silence() : out_(stdout), err_(stderr) {
        static std::FILE* const nowhere = std::fopen("/dev/null", "w");
        stdout = nowhere;
        stderr = nowhere;
    }
    ~silence() {
        stdout = out_;
        stderr = err_;
    }
    silence(const silence&) = delete;
    silence& operator=(const silence&) = delete;

private:
    std::FILE* out_;
    std::FILE* err_;
};

struct parsed {
    std::optional<int> status;
    bool quiet = false;
    bool repair = false;
    std::optional<std::string> output;
    std::optional<std::uint64_t> count;
    std::optional<std::string> operand;
};

parsed parse(std::span<char* const> words) {
    parsed found;
    tools::option_table table("thin_fuzz", "reads words");
    table.flag("-q,--quiet", found.quiet, "says nothing");
    table.flag("--auto-repair", found.repair, "repairs");
    table.text("-o,--output", "FILE", found.output, "where to");
    table.number("-c,--count,--number-of", "N", found.count, "how many", 1000);
    table.optional_value(
        "-n,--numeric", "FORM",
        [](std::optional<std::string_view> form) -> result<void> {
            return !form || *form == "short" || *form == "long"
                       ? result<void>()
                       : fail(error_code::invalid_argument, "no such form");
        },
        "numbers only");
    table.operand("DEVICE", found.operand, "what to read");
    table.conflict("--quiet", "--auto-repair");
    const silence quiet;
    found.status = table.parse(words);
    return found;
}

void run(std::span<const std::byte> input) {
    std::vector<std::string> words = {"thin_fuzz"};
    for (const std::byte byte : input) {
        if (byte != std::byte{0}) {
            words.back() += static_cast<char>(byte);
        } else if (words.size() < words_max) {
            words.emplace_back();
        }
    }
    words[0] = "thin_fuzz";
    std::vector<char*> given;
    for (std::string& word : words) {
        given.push_back(word.data());
    }
    for (const std::span<char* const> view :
         {std::span<char* const>(given), std::span<char* const>(given).subspan(1)}) {
        const parsed found = parse(view);
        require(!found.status || *found.status == 0 || *found.status == 2,
                "a line that is not understood ends with 2");
        require(found.status || !found.count || *found.count <= 1000, "a number has its limit");
        require(found.status || !found.quiet || !found.repair, "what excludes each other does");
    }
}

std::vector<bytes> seeds() {
    using namespace std::string_view_literals;
    std::vector<bytes> made;
    for (const std::string_view text :
         {"\0-q\0dev"sv, "\0--output\0x\0-c\00017\0dev"sv, "\0--output=x\0--number-of=9\0dev"sv,
          "\0-qox\0-nshort\0--\0-dev"sv, "\0--numeric=long\0--auto-rep\0dev"sv, "\0-h"sv, "\0-V"sv,
          "\0-c\0-1\0dev\0dev"sv}) {
        made.push_back(bytes_of(text));
    }
    return made;
}

const registration made({"options", run, seeds, mutated_bytes, 400});

}  // namespace
}  // namespace uthin::fuzz
