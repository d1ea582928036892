#include "support/crash_signatures.h"

namespace uthin::test {

namespace {

std::uint64_t mix(std::uint64_t value) {
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9;
    value = (value ^ value >> 27) * 0x94D049BB133111EB;
    return value ^ value >> 31;
}

std::uint64_t identity(const io::recorded_operation& operation) {
    return operation.data != nullptr
               ? mix(reinterpret_cast<std::uintptr_t>(operation.data.get()))
               : mix(operation.offset_bytes * 31 + operation.length_bytes * 7 +
                     operation.device_index + static_cast<std::uint64_t>(operation.kind) * 1013);
}

std::uint64_t kept_units(const io::survival& survival, std::uint64_t unit_count) {
    std::uint64_t mask = 0;
    for (std::uint64_t unit = 0; unit < unit_count; ++unit) {
        mask = mask * 31 + (survival.keeps(unit, unit_count) ? 2U : 1U);
    }
    return mask;
}

}  // namespace

void crash_signatures::completed(const io::recorded_operation& operation) {
    if (operation.kind != io::operation_kind::flush) {
        written_before_ += identity(operation);
    }
}

bool crash_signatures::is_new(const io::power_cut& cut, const io::crash_choice& choice,
                              const io::recorded_operation* in_flight, std::uint64_t duties) {
    std::uint64_t signature = written_before_ + mix(duties);
    for (std::size_t i = 0; i < cut.writes().size(); ++i) {
        const std::uint64_t name = identity(cut.operation_of(i));
        if (in_flight == nullptr || identity(*in_flight) != name) {
            signature -= name;
        }
        const io::survival survival = choice.of(i, cut.writes());
        if (survival.whole()) {
            signature += name;
        } else if (survival.shape != io::survival::form::none) {
            signature += mix(name + kept_units(survival, cut.writes()[i].unit_count));
        }
    }
    return seen_.insert(signature).second;
}

}  // namespace uthin::test
