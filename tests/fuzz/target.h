// A fuzz target: what is done with bytes that somebody else made, and what must hold whatever they
// are. libFuzzer runs one target for each program (libfuzzer.cpp); replay_test.cpp runs all.
//
// Threads   One.
// Failures  A broken promise ends the process (SIGABRT) with a line that names it: that is how a
//           fuzzer is told.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "uthin/error.h"

namespace uthin::fuzz {

using bytes = std::vector<std::byte>;

struct target {
    std::string_view name;
    void (*run)(std::span<const std::byte> input);
    // Small inputs that get far.
    std::vector<bytes> (*seeds)();
    // `input` with a few changes that make sense for its form.
    bytes (*mutate)(std::span<const std::byte> input, random_generator& random);
    // Executions in a replay.
    std::uint64_t replay_mutants = 200;
};

// A target announces itself with an object of this kind.
class registration {
public:
    explicit registration(const target& made);
};
[[nodiscard]] const std::vector<target>& targets();

[[noreturn]] void violated(std::string_view promise);
inline void require(bool holds, std::string_view promise) {
    if (!holds) [[unlikely]] {
        violated(promise);
    }
}
template <class T>
decltype(auto) require_ok(result<T>&& outcome, std::string_view promise) {
    if (!outcome) [[unlikely]] {
        violated(std::string(promise) + ": " + outcome.error().to_string());
    }
    if constexpr (!std::is_void_v<T>) {
        return T(std::move(*outcome));
    }
}

// Decisions that an input takes: numbers, one after the other; zeros when it has no more.
class decisions {
public:
    explicit decisions(std::span<const std::byte> from) : rest_(from) {}
    [[nodiscard]] bool at_end() const noexcept { return rest_.empty(); }
    [[nodiscard]] std::uint64_t byte();
    // 1 to 9 bytes: how many, and the number.
    [[nodiscard]] std::uint64_t number();
    [[nodiscard]] std::uint64_t below(std::uint64_t bound) { return number() % bound; }
    [[nodiscard]] std::span<const std::byte> rest() const noexcept { return rest_; }

private:
    std::span<const std::byte> rest_;
};

// ---- forms that need no more than bytes and text
[[nodiscard]] bytes bytes_of(std::string_view text);
[[nodiscard]] std::string text_of(std::span<const std::byte> input);
// A few bytes changed, put in, taken out, repeated.
[[nodiscard]] bytes mutated_bytes(std::span<const std::byte> input, random_generator& random);
[[nodiscard]] bytes mutated_text(std::span<const std::byte> input, random_generator& random);
// The first byte says how the text is to be read.
[[nodiscard]] bytes mutated_tagged_text(std::span<const std::byte> input, random_generator& random);

}  // namespace uthin::fuzz
