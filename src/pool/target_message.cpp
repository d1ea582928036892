#include "pool/target_message.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "pool/names.h"
#include "pool/target_words.h"

namespace uthin {

namespace {

struct grammar {
    std::string_view name;
    message_verb verb;
    std::size_t word_count;
};

constexpr auto grammars = std::to_array<grammar>({
    {"create_thin", message_verb::create_thin, 2},
    {"create_snap", message_verb::create_snap, 3},
    {"delete", message_verb::delete_thin, 2},
    {"set_transaction_id", message_verb::set_transaction_id, 3},
    {"reserve_metadata_snap", message_verb::reserve_metadata_snap, 1},
    {"release_metadata_snap", message_verb::release_metadata_snap, 1},
});

constexpr std::string_view known_messages =
    "use create_thin ID, create_snap ID ORIGIN, delete ID, set_transaction_id CURRENT NEW, "
    "reserve_metadata_snap or release_metadata_snap";

}  // namespace

result<void> takes_messages(pool_mode mode) {
    if (mode == pool_mode::write || mode == pool_mode::out_of_data_space) {
        return {};
    }
    return fail(error_code::unsupported,
                fmt::format("the pool is in mode {} (Operation not supported); see 'uthin pool "
                            "status'",
                            to_string(mode)));
}

result<target_message> parse_target_message(std::string_view text) {
    const auto refuse = [](std::string_view cause, std::string_view remedy) {
        return fail(error_code::invalid_argument,
                    fmt::format("{} (Invalid argument); {}", cause, remedy));
    };
    const std::vector<std::string> words = split_target_words(text);
    if (words.empty()) {
        return refuse("empty message", known_messages);
    }
    const std::string verb = lower_case(words[0]);
    const grammar* found = nullptr;
    for (const grammar& known : grammars) {
        found = known.name == verb ? &known : found;
    }
    if (found == nullptr) {
        return refuse("unknown message", known_messages);
    }
    if (words.size() != found->word_count) {
        return refuse(fmt::format("{} words instead of {}", words.size(), found->word_count),
                      known_messages);
    }
    target_message message;
    message.verb = found->verb;
    const bool ids = found->verb != message_verb::set_transaction_id;
    for (std::size_t i = 1; i < words.size(); ++i) {
        const std::optional<std::uint64_t> number = parse_decimal(words[i]);
        if (!number || (ids && *number > device_id_max)) {
            return refuse(fmt::format("{} '{}' is not valid", ids ? "device id" : "transaction id",
                                      printable(words[i])),
                          ids ? "use a decimal number from 0 to 16777215" : "use a decimal number");
        }
        (i == 1 ? message.first : message.second) = *number;
    }
    return message;
}

result<void> apply_target_message(pool& to, const target_message& message) {
    const device_id first(message.first);
    switch (message.verb) {
        case message_verb::create_thin: return to.create_thin(first);
        case message_verb::create_snap: {
            const snapshot_request request{device_id(message.second), first};
            return to.create_snapshots(std::span(&request, 1));
        }
        case message_verb::delete_thin: return to.delete_thin(first);
        case message_verb::set_transaction_id:
            return to.set_transaction_id(message.first, message.second);
        case message_verb::reserve_metadata_snap: return to.reserve_metadata_snap();
        case message_verb::release_metadata_snap: return to.release_metadata_snap();
    }
    return {};
}

}  // namespace uthin
