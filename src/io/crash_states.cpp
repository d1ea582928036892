#include "io/crash_states.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/random.h"

namespace uthin::io {
namespace {

constexpr std::size_t exhaustive_writes_limit = 20;
constexpr std::size_t devices_max = 8;        // combinations of whole devices
constexpr std::uint64_t partial_lengths = 8;  // torn writes are cut at eighths
constexpr std::uint64_t mask_units_max = 8;

// A well mixed function of both (the finaliser of splitmix64).
std::uint64_t mix(std::uint64_t seed, std::uint64_t index) noexcept {
    std::uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

bool fair_coin(std::uint64_t seed, std::uint64_t index) noexcept {
    return (mix(seed, index) & 1) != 0;
}

survival whole_if(bool kept) noexcept {
    return {kept ? survival::form::all : survival::form::none, 0};
}

class choice_lister {
public:
    choice_lister(std::span<const losable_write> writes, const crash_state_options& options)
        : writes_(writes), options_(options), random_(options.seed) {}

    std::vector<crash_choice> list() {
        add(crash_choice::family::subset, 0);
        if (writes_.empty()) {
            return std::move(choices_);
        }
        add(crash_choice::family::prefix, writes_.size());
        add_whole_writes();
        add_whole_devices();
        if (options_.torn) {
            add_torn_writes();
        }
        if (options_.all_masks_of_last_write) {
            add_masks_of_last_write();
        }
        sample();
        return std::move(choices_);
    }

private:
    using family = crash_choice::family;

    void add(family rule, std::uint64_t argument) {
        choices_.push_back({rule, argument, crash_choice::no_write, {}});
    }

    void add_whole_writes() {
        const std::size_t count = writes_.size();
        if (count <= std::min(options_.exhaustive_writes_max, exhaustive_writes_limit)) {
            for (std::uint64_t bits = 1; bits + 1 < std::uint64_t{1} << count; ++bits) {
                add(family::subset, bits);
            }
            return;
        }
        for (std::size_t i = 1; i < count; ++i) {
            add(family::prefix, i);
            add(family::suffix, i);
        }
        // The ends of these two are prefixes and suffixes already.
        for (std::size_t i = 1; i + 1 < count; ++i) {
            add(family::all_but_one, i);
            add(family::only_one, i);
        }
        for (std::size_t i = 0; i < options_.random_subsets; ++i) {
            add(family::random, random_.next());
        }
    }

    void add_whole_devices() {
        std::size_t device_count = 0;
        for (const losable_write& write : writes_) {
            device_count = std::max(device_count, write.device_index + 1);
        }
        if (device_count < 2 || device_count > devices_max) {
            return;
        }
        for (std::uint64_t bits = 1; bits + 1 < std::uint64_t{1} << device_count; ++bits) {
            add(family::devices, bits);
        }
    }

    // One write torn; those before it kept, or all others, or none.
    void add_torn(std::size_t write_index, survival torn) {
        const std::array<std::pair<family, std::uint64_t>, 3> contexts = {
            {{family::prefix, write_index}, {family::prefix, writes_.size()}, {family::subset, 0}}};
        const bool first = write_index == 0;
        const bool last = write_index + 1 == writes_.size();
        for (std::size_t i = 0; i < contexts.size(); ++i) {
            // The last write's prefix is all others, the first write's is none.
            if ((i == 1 && last) || (i == 2 && first)) {
                continue;
            }
            choices_.push_back({contexts[i].first, contexts[i].second, write_index, torn});
        }
    }

    void add_torn_writes() {
        std::vector<std::size_t> candidates;
        for (std::size_t i = 0; i < writes_.size(); ++i) {
            if (writes_[i].unit_count > 1 && !writes_[i].pinned) {
                candidates.push_back(i);
            }
        }
        // The last one is the one in flight: never sampled away.
        while (candidates.size() > std::max<std::size_t>(options_.torn_writes_max, 1)) {
            const std::uint64_t victim = random_.below(candidates.size() - 1);
            candidates.erase(candidates.begin() + static_cast<std::ptrdiff_t>(victim));
        }
        for (const std::size_t i : candidates) {
            const std::uint64_t units = writes_[i].unit_count;
            const std::uint64_t steps = std::min(units, partial_lengths);
            for (std::uint64_t step = 1; step < steps; ++step) {
                const std::uint64_t kept = units * step / steps;
                add_torn(i, {survival::form::first, kept});
                add_torn(i, {survival::form::last, kept});
            }
            if (units > 2) {
                add_torn(i, {survival::form::alternating, 0});
                add_torn(i, {survival::form::alternating, 1});
                for (std::size_t n = 0; n < options_.random_masks; ++n) {
                    add_torn(i, {survival::form::random, random_.next()});
                }
            }
        }
        for (std::size_t n = 0; !candidates.empty() && n < options_.random_masks; ++n) {
            add(family::random_torn, random_.next());
        }
    }

    void add_masks_of_last_write() {
        const std::uint64_t units = writes_.back().unit_count;
        if (units > mask_units_max || writes_.back().pinned) {
            return;
        }
        for (std::uint64_t bits = 1; bits + 1 < std::uint64_t{1} << units; ++bits) {
            add_torn(writes_.size() - 1, {survival::form::mask, bits});
        }
    }

    // Keeps choices_max of the list in order, the first two always (CS1).
    void sample() {
        if (options_.choices_max == 0 || choices_.size() <= options_.choices_max) {
            return;
        }
        std::vector<crash_choice> kept(choices_.begin(), choices_.begin() + 2);
        std::size_t wanted = std::max<std::size_t>(options_.choices_max, 2) - 2;
        for (std::size_t i = 2; i < choices_.size() && wanted != 0; ++i) {
            if (random_.below(choices_.size() - i) < wanted) {
                kept.push_back(choices_[i]);
                --wanted;
            }
        }
        choices_ = std::move(kept);
    }

    std::span<const losable_write> writes_;
    const crash_state_options& options_;
    random_generator random_;
    std::vector<crash_choice> choices_;
};

}  // namespace

bool survival::keeps(std::uint64_t unit, std::uint64_t unit_count) const noexcept {
    switch (shape) {
        case form::none: return false;
        case form::all: return true;
        case form::first: return unit < argument;
        case form::last: return unit + argument >= unit_count;
        case form::alternating: return unit % 2 == argument;
        case form::mask: return (argument >> (unit % 64) & 1) != 0;
        case form::random: return fair_coin(argument, unit);
    }
    return false;
}

std::string to_string(const survival& what) {
    switch (what.shape) {
        case survival::form::none: return "nothing";
        case survival::form::all: return "everything";
        case survival::form::first: return fmt::format("first {} units", what.argument);
        case survival::form::last: return fmt::format("last {} units", what.argument);
        case survival::form::alternating:
            return fmt::format("every second unit from {}", what.argument);
        case survival::form::mask: return fmt::format("units of mask {:#x}", what.argument);
        case survival::form::random: return fmt::format("random units of {:#x}", what.argument);
    }
    return "unknown";
}

survival crash_choice::of(std::size_t write_index,
                          std::span<const losable_write> writes) const noexcept {
    const losable_write& write = writes[write_index];
    if (write.pinned) {
        return {};
    }
    if (write_index == torn_write) {
        return torn;
    }
    switch (rule) {
        case family::subset:
            return whole_if(write_index < 64 && (argument >> write_index & 1) != 0);
        case family::prefix: return whole_if(write_index < argument);
        case family::suffix: return whole_if(write_index + argument >= writes.size());
        case family::all_but_one: return whole_if(write_index != argument);
        case family::only_one: return whole_if(write_index == argument);
        case family::devices:
            return whole_if(write.device_index < 64 && (argument >> write.device_index & 1) != 0);
        case family::random: return whole_if(fair_coin(argument, write_index));
        case family::random_torn: return {survival::form::random, mix(argument, write_index)};
    }
    return {};
}

std::string to_string(const crash_choice& choice) {
    constexpr std::array<const char*, 8> names = {"subset",   "prefix",  "suffix", "all but",
                                                  "only one", "devices", "random", "random torn"};
    std::string text =
        fmt::format("{} {:#x}", names[static_cast<std::size_t>(choice.rule)], choice.argument);
    if (choice.torn_write != crash_choice::no_write) {
        text += fmt::format(", write {} keeps {}", choice.torn_write, to_string(choice.torn));
    }
    return text;
}

std::vector<crash_choice> enumerate_crash_choices(std::span<const losable_write> writes,
                                                  const crash_state_options& options) {
    return choice_lister(writes, options).list();
}

}  // namespace uthin::io
