#include "pool/kernel_words.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <vector>

#include "base/result.h"
#include "pool/names.h"

namespace uthin {

namespace {

// Words between white space; a backslash takes the next character as it is.
std::vector<std::string> split_words(std::string_view text) {
    std::vector<std::string> words;
    bool inside = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        const bool space = c == ' ' || (c >= '\t' && c <= '\r');
        if (space) {
            inside = false;
            continue;
        }
        if (!inside) {
            words.emplace_back();
            inside = true;
        }
        if (c == '\\' && i + 1 < text.size()) {
            ++i;
        }
        words.back() += text[i];
    }
    return words;
}

std::string lower_case(std::string text) {
    for (char& c : text) {
        c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
    return text;
}

struct grammar {
    std::string_view name;
    kernel_verb verb;
    std::size_t word_count;
};

constexpr auto grammars = std::to_array<grammar>({
    {"create_thin", kernel_verb::create_thin, 2},
    {"create_snap", kernel_verb::create_snap, 3},
    {"delete", kernel_verb::delete_thin, 2},
    {"set_transaction_id", kernel_verb::set_transaction_id, 3},
    {"reserve_metadata_snap", kernel_verb::reserve_metadata_snap, 1},
    {"release_metadata_snap", kernel_verb::release_metadata_snap, 1},
});

constexpr std::string_view known_messages =
    "use create_thin ID, create_snap ID ORIGIN, delete ID, set_transaction_id CURRENT NEW, "
    "reserve_metadata_snap or release_metadata_snap";

std::string_view mode_word(pool_mode mode) {
    switch (mode) {
        case pool_mode::write: return "rw";
        case pool_mode::out_of_data_space: return "out_of_data_space";
        case pool_mode::out_of_metadata_space:
        case pool_mode::read_only: return "ro";
        case pool_mode::fail: return "Fail";
    }
    return "Error";
}

std::string_view discard_word(discard_mode mode) {
    switch (mode) {
        case discard_mode::passdown: return "discard_passdown";
        case discard_mode::no_passdown: return "no_discard_passdown";
        case discard_mode::ignore: return "ignore_discard";
    }
    return "discard_passdown";
}

}  // namespace

std::string kernel_status_line(const pool_status& status) {
    if (status.mode == pool_mode::fail) {
        return "Fail";
    }
    return fmt::format(
        "{} {}/{} {}/{} {} {} {} {} {} {} ", status.transaction_id, status.metadata_used_blocks,
        status.metadata_total_blocks, status.data_used_blocks, status.data_total_blocks,
        status.metadata_snap ? std::to_string(status.metadata_snap->value()) : "-",
        mode_word(status.mode), discard_word(status.discard),
        status.error_if_no_space ? "error_if_no_space" : "queue_if_no_space",
        status.needs_check ? "needs_check" : "-", status.metadata_low_watermark_blocks);
}

result<kernel_message> parse_kernel_message(std::string_view text) {
    const auto refuse = [](std::string_view cause, std::string_view remedy) {
        return fail(error_code::invalid_argument,
                    fmt::format("{} (Invalid argument); {}", cause, remedy));
    };
    const std::vector<std::string> words = split_words(text);
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
    kernel_message message;
    message.verb = found->verb;
    const bool ids = found->verb != kernel_verb::set_transaction_id;
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

std::string pool_table_line(const pool_status& status, const pool_file& file,
                            std::string_view metadata_url, std::string_view data_url) {
    std::vector<std::string_view> features;
    if (!file.zero_new_blocks) {
        features.emplace_back("skip_block_zeroing");
    }
    // The kernel takes four feature words at most; ignore_discard makes passing down moot.
    if (file.discard == discard_mode::ignore) {
        features.emplace_back("ignore_discard");
    } else if (file.discard == discard_mode::no_passdown) {
        features.emplace_back("no_discard_passdown");
    }
    if (file.read_only) {
        features.emplace_back("read_only");
    }
    if (file.error_if_no_space) {
        features.emplace_back("error_if_no_space");
    }
    std::string line = fmt::format("0 {} thin-pool {} {} {} {} {}",
                                   status.data_total_blocks * status.data_block_size_sectors,
                                   metadata_url, data_url, status.data_block_size_sectors,
                                   file.low_water_blocks, features.size());
    for (const std::string_view feature : features) {
        line += ' ';
        line += feature;
    }
    return line;
}

std::string thin_table_line(std::uint64_t size_bytes, std::string_view pool_device, device_id id) {
    return fmt::format("0 {} thin {} {}", size_bytes / sector_size_bytes, pool_device, id.value());
}

}  // namespace uthin
