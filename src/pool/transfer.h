// A volume that is being filled by somebody who may break off and come back: hidden, kept over
// restarts, and published, dropped or forgotten in the end.
//
// Threads   Plain data.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace uthin {

// A transfer that nobody was heard of for so long is dropped.
inline constexpr std::int64_t transfer_keep_seconds = 24LL * 3600;

struct transfer_info {
    std::string id{};
    std::string name{};  // that the volume will have
    std::uint64_t size_bytes = 0;
    std::uint64_t mapped_bytes = 0;  // shared blocks included
    // What who fills it must know to go on.
    std::map<std::string, std::string> notes{};
    std::int64_t noted_unix_seconds = 0;  // when the notes were made
    bool in_use = false;                  // somebody is filling it
    bool operator==(const transfer_info&) const = default;
};

struct begin_transfer_request {
    std::string name{};
    std::string base{};  // it begins as a clone of this one; empty: as nothing
    std::uint64_t size_bytes = 0;
    std::map<std::string, std::string> notes{};
};

// A volume as somebody saw it.
struct seen_volume {
    std::uint64_t dev_id = 0;
    std::uint64_t creation_time = 0;
    std::uint64_t creation_transaction_id = 0;
    std::uint64_t size_bytes = 0;
    bool operator==(const seen_volume&) const = default;
};

struct publish_request {
    std::string name{};
    // The volume that has the name now, whose content is to be deleted. It must be that one, of
    // that size, and not in use; absent: the name must be free.
    std::optional<seen_volume> replaces{};
    std::string snapshot{};  // a snapshot of it is published with it; empty: none
    std::string received_from{};
    // Of the volume, beside those that it has; of the snapshot.
    std::map<std::string, std::string> labels{};
    std::map<std::string, std::string> snapshot_labels{};
    bool operator==(const publish_request&) const = default;
};

}  // namespace uthin
