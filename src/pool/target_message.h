// Messages to a pool, in the words of the kernel's thin-pool target.
//
// Invariants
//   TG1  A message is accepted exactly when the kernel accepts it, and refused with its errno.
// Threads   Plain functions.
// Failures  invalid_argument; unsupported where the pool's mode takes no messages. to_errno() is
//           what the kernel returns.
// Source    tests/kernel (recorded from 6.1 and 6.12); semantics of the thin-pool target.
#pragma once

#include <cstdint>
#include <string_view>

#include "uthin/error.h"
#include "uthin/pool.h"

namespace uthin {

enum class message_verb : std::uint8_t {
    create_thin,         // id
    create_snap,         // id, origin
    delete_thin,         // id
    set_transaction_id,  // current, next
    reserve_metadata_snap,
    release_metadata_snap,
};

struct target_message {
    message_verb verb = message_verb::create_thin;
    std::uint64_t first = 0;
    std::uint64_t second = 0;
    bool operator==(const target_message&) const = default;
};

// Asked before a message is even parsed, as the kernel does.
[[nodiscard]] result<void> takes_messages(pool_mode mode);
[[nodiscard]] result<target_message> parse_target_message(std::string_view text);
// To a pool without a catalogue: what the kernel's target does. pool_directory::message keeps the
// catalogue in step.
[[nodiscard]] result<void> apply_target_message(pool& to, const target_message& message);

}  // namespace uthin
