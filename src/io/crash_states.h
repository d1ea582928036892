// Which writes survive a power cut, and how torn they are: the enumeration behind crash_device.
//
// A *choice* says for each write that was not yet durable whether its units (512-byte sectors, or
// 4096-byte ones) reached the medium. Choices are small values that can be kept, printed and
// replayed; they do not know the writes' contents.
//
// Invariants
//   CS1  The first choice drops everything, the second keeps everything.
//   CS2  With at most `exhaustive_writes_max` writes, every subset of whole writes is listed.
//   CS3  The list depends only on the arguments: the same seed gives the same choices.
//
// Threads   Plain values.
//
// Source    docs/testing.md (crash simulation).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace uthin::io {

// What is left of one write of `unit_count` units.
struct survival {
    enum class form : std::uint8_t {
        none,
        all,
        first,        // units [0, argument)
        last,         // the last `argument` units
        alternating,  // units whose index % 2 == argument
        mask,         // unit i survives if bit i % 64 of argument is set
        random        // a fair coin for each unit, from the seed in argument
    };
    form shape = form::all;
    std::uint64_t argument = 0;

    [[nodiscard]] bool keeps(std::uint64_t unit, std::uint64_t unit_count) const noexcept;
    [[nodiscard]] bool whole() const noexcept { return shape == form::all; }
    bool operator==(const survival&) const noexcept = default;
};

[[nodiscard]] std::string to_string(const survival& what);

// A write that a power cut may lose.
struct losable_write {
    std::uint64_t unit_count = 1;
    std::size_t device_index = 0;
    // Already durable (FUA): always kept whole.
    bool pinned = false;
};

// Which of the writes survive; `torn` overrides one of them.
struct crash_choice {
    enum class family : std::uint8_t {
        subset,       // write i survives if bit i of argument is set
        prefix,       // the first `argument` writes
        suffix,       // the last `argument` writes
        all_but_one,  // all but write `argument`
        only_one,     // only write `argument`
        devices,      // all writes of the devices whose bit is set in argument
        random,       // a fair coin for each write, from the seed in argument
        random_torn   // every write with its own random units, from the seed in argument
    };
    static constexpr std::size_t no_write = SIZE_MAX;

    family rule = family::subset;
    std::uint64_t argument = 0;
    std::size_t torn_write = no_write;
    survival torn;

    [[nodiscard]] survival of(std::size_t write_index,
                              std::span<const losable_write> writes) const noexcept;
    bool operator==(const crash_choice&) const noexcept = default;
};

// "prefix 3, write 2 first 5 units": enough to repeat the state by hand.
[[nodiscard]] std::string to_string(const crash_choice& choice);

struct crash_state_options {
    std::size_t exhaustive_writes_max = 10;
    std::size_t random_subsets = 256;
    bool torn = true;
    std::size_t random_masks = 16;         // for each torn write
    std::size_t torn_writes_max = 64;      // more are sampled
    bool all_masks_of_last_write = false;  // 2^units masks, units <= 8: the superblock
    std::size_t choices_max = 0;           // 0: all; else an even sample that keeps CS1
    std::uint64_t seed = 1;
};

[[nodiscard]] std::vector<crash_choice> enumerate_crash_choices(
    std::span<const losable_write> writes, const crash_state_options& options);

}  // namespace uthin::io
