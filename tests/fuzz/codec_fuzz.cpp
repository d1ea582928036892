// Every structure that is read from JSON: what is understood is written and read again as it is.
//
// First byte: which one.
#include <functional>

#include "frontends/control/codec.h"
#include "fuzz/target.h"

namespace uthin::fuzz {
namespace {

namespace fe = frontends;
using fe::json;

using round_trip = std::function<void(const json&)>;

// `decode` reads what `encode` writes.
template <class Decode>
round_trip both_ways(Decode decode) {
    return [decode](const json& value) {
        const auto read = decode(value);
        if (!read) {
            require(read.error().message().find('\n') == std::string::npos, "a message is a line");
            return;
        }
        const json written = fe::encode(*read);
        const auto again = decode(written);
        require(again.has_value(), "what was written is read");
        require(fe::encode(*again) == written, "and is the same");
    };
}

template <class Decode>
round_trip one_way(Decode decode) {
    return [decode](const json& value) { (void)decode(value); };
}

const std::vector<round_trip>& structures() {
    static const std::vector<round_trip> all = {
        both_ways(fe::decode_report),
        both_ways(fe::decode_events_reply),
        both_ways(fe::decode_volume),
        both_ways(fe::decode_volumes),
        both_ways(fe::decode_check_reply),
        both_ways(fe::decode_target_lines),
        both_ways(fe::decode_release_reply),
        both_ways(fe::decode_diff_reply),
        both_ways(fe::decode_grow),
        both_ways(fe::decode_check),
        both_ways(fe::decode_create_volume),
        both_ways(fe::decode_create_snapshots),
        both_ways(fe::decode_rollback),
        both_ways(fe::decode_origin_job),
        both_ways(fe::decode_origin_job_info),
        both_ways(fe::decode_label),
        both_ways(fe::decode_transfer),
        both_ways(fe::decode_transfers),
        both_ways(fe::decode_begin_transfer),
        both_ways(fe::decode_publish),
        both_ways(fe::decode_metadata_snapshot),
        both_ways(fe::decode_metadata_snapshot_reply),
        both_ways(fe::decode_set_volume),
        both_ways(fe::decode_usage_reply),
        one_way(fe::decode_settings),
        one_way(fe::decode_names),
        one_way([](const json& value) { return fe::decode_text(value, "name"); }),
        one_way([](const json& value) { return fe::decode_number(value, "size"); }),
        one_way([](const json& value) { return fe::decode_reply_flag(value, "deleted"); }),
        [](const json& value) {
            const error read = fe::decode_error(value);
            const error again = fe::decode_error(fe::encode(read));
            require(again.code() == read.code() && again.message() == read.message(),
                    "an error is written as it was read");
        },
    };
    return all;
}

void run(std::span<const std::byte> input) {
    if (input.empty()) {
        return;
    }
    const auto value = fe::parse_object(text_of(input.subspan(1)));
    if (!value) {
        require(value.error().message().find('\n') == std::string::npos, "a message is a line");
        return;
    }
    (void)fe::to_text(*value);
    structures()[std::to_integer<std::size_t>(input.front()) % structures().size()](*value);
}

std::vector<bytes> seeds() {
    std::vector<bytes> made;
    const auto add = [&made](unsigned which, const json& value) {
        bytes seed = bytes_of(value.dump());
        seed.insert(seed.begin(), static_cast<std::byte>(which));
        made.push_back(std::move(seed));
    };
    volume_info volume;
    volume.name = "vol";
    volume.labels = {{"k", "v"}};
    volume.exclusive_bytes = 5;
    add(0, fe::encode(pool_report{}));
    add(1, fe::encode(events_reply{.events = {event_info{.number = 1, .text = "t"}}}));
    add(2, fe::encode(volume));
    add(3, fe::encode(std::vector<volume_info>{volume}));
    add(4, fe::encode(check_reply{.findings = {"fatal: x"}}));
    add(5, fe::encode(target_lines{"s", "t"}));
    add(6, fe::encode(release_reply{{}, {table_line{.name = "v"}}}));
    add(7, fe::encode(diff_reply{.ranges = {{0, 512, change_kind::added}}}));
    add(8, fe::encode(grow_request{.data_size_bytes = 4096}));
    add(9, fe::encode(check_request{true}));
    add(10, fe::encode(create_volume_request{.name = "v", .size_bytes = 512, .dev_id = 3}));
    add(11, fe::encode(create_snapshots_request{.snapshots = {{"a", "b", {{"k", "v"}}}}}));
    add(12, fe::encode(rollback_request{.to = "x"}));
    add(13, fe::encode(origin_job_request{.copy_up = true}));
    add(14, fe::encode(origin_job_info{.state = "running"}));
    add(15, fe::encode(label_request{.set = {{"k", "v"}}, .remove = {"r"}}));
    add(16, fe::encode(transfer_info{.id = "1", .notes = {{"k", "v"}}}));
    add(17, fe::encode(std::vector<transfer_info>{transfer_info{.id = "1"}}));
    add(18, fe::encode(begin_transfer_request{.name = "n", .size_bytes = 512}));
    add(19, fe::encode(publish_request{.name = "n", .replaces = seen_volume{1, 2, 3, 4}}));
    add(20, fe::encode(metadata_snapshot_request{.lease_s = 4, .owner = "o"}));
    add(21, fe::encode(metadata_snapshot_reply{.block = 9}));
    add(22, fe::encode(set_volume_request{.reserved_bytes = 1}));
    add(23, fe::encode(usage_reply{}));
    add(24, json{{"low-water", "10%"}});
    add(25, json{{"volumes", {"a", "b"}}});
    add(29, fe::encode(error(error_code::busy, "in use", 16)));
    return made;
}

const registration made({"codec", run, seeds, mutated_tagged_text, 400});

}  // namespace
}  // namespace uthin::fuzz
