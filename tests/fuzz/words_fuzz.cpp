// What people type, and words that come with requests: names, sizes, numbers, tokens, settings.
#include "frontends/since_export.h"
#include "fuzz/target.h"
#include "pool/labels.h"
#include "pool/names.h"
#include "pool/pool_file.h"
#include "replication/resume_token.h"
#include "tools/thin_options.h"

namespace uthin::fuzz {
namespace {

void read_name(const std::string& text) {
    const auto checked = check_volume_name(text, std::nullopt);
    require(
        !checked || (is_utf8(text) && printable(text) == text && !text.empty() &&
                     text.size() <= volume_name_bytes_max && text.find('/') == std::string::npos),
        "a name that is taken is printable and one component");
    require(is_utf8(printable(text)), "what is shown is text");
    require(printable(printable(text)) == printable(text), "and stays as it is");
    if (const auto id = id_of_default_name(text)) {
        require(default_volume_name(*id) == text, "a default name tells its device");
        require(!check_volume_name(text, device_id(id->value() + 1)), "and no other");
    }
    if (const auto path = split_volume_path(text)) {
        require(path->name.find('/') == std::string::npos, "a name ends the path");
        require(text.ends_with(path->name), "and is its end");
    }
    for (const frontends::since_name& name : frontends::since_names(text)) {
        require(text.starts_with(name.to), "a name and what it is compared with");
    }
}

void read_numbers(const std::string& text) {
    const auto decimal = parse_decimal(text);
    const auto number = tools::parse_number(text);
    require(!number || (decimal && *decimal == *number), "two readers of numbers agree");
    (void)tools::parse_number(text, 1000);
    const auto size = parse_size_bytes(text);
    require(!size || !number || *size == *number, "a bare number is a number of bytes");
    if (size) {
        (void)check_volume_size(*size);
        require(!readable_size(*size).empty(), "a size can be shown");
    }
    const auto low_water = parse_low_water(text, 1000);
    require(!low_water || *low_water <= 1000 || decimal, "a share of the blocks is a part of them");
    (void)parse_overcommit(text);
    const auto discard = parse_discard_mode(text);
    require(!discard || to_string(*discard) == text, "a mode is called what it was called");
}

void run(std::span<const std::byte> input) {
    const std::string text = text_of(input);
    read_name(text);
    read_numbers(text);
    if (const auto token = replication::parse_resume_token(text)) {
        const auto again = replication::parse_resume_token(replication::to_text(*token));
        require(again && *again == *token, "a token is written as it was read");
    }
    (void)path_of_url(text);
    (void)resolved_url("/pool", text);
    label_map labels;
    labels[std::string(lease_until_label)] = text;
    (void)lease_is_over(labels, 1'000'000);
    labels[std::string(lease_owner_label)] = text;
    (void)lease_is_over(labels, 1'000'000);
    (void)may_be_running(text);
    labels[text] = "x";
    (void)holder_of(labels);
}

std::vector<bytes> seeds() {
    std::vector<bytes> made;
    const std::string token = replication::to_text({"12", 1U << 20, "to-id", "from-id"});
    for (const std::string& text :
         {std::string("vol"), std::string("thin-7"), std::string("dir/sub/vol"), std::string("10G"),
          std::string("2TiB"), std::string("+17"), std::string("50%"), std::string("off"),
          std::string("no-passdown"), std::string("vol@since=snap"),
          std::string("nbd+unix:///x?socket=/s"), std::string("file:a"), std::string("\xc3\xa4"),
          std::string("18446744073709551615"), token, this_process_tag()}) {
        made.push_back(bytes_of(text));
    }
    return made;
}

const registration made({"words", run, seeds, mutated_text, 600});

}  // namespace
}  // namespace uthin::fuzz
