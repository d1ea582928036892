// What lets a stream go on where it broke off: given by who received it to who sends.
//
//   r1.TRANSFER.POSITION.TO.FROM.CRC, all in letters, digits, '-' and '%'; TO and FROM are content
//   ids, POSITION counts bytes of the volume, CRC is the CRC-32C of what is before its dot.
//
// Threads   Plain data.
// Failures  invalid_argument: no token, or mistyped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "uthin/error.h"

namespace uthin::replication {

struct resume_token {
    std::string transfer_id{};
    std::uint64_t position_bytes = 0;
    std::string to_id{};
    std::string from_id{};  // empty: the whole content was being sent
    bool operator==(const resume_token&) const = default;
};

[[nodiscard]] std::string to_text(const resume_token& token);
[[nodiscard]] result<resume_token> parse_resume_token(std::string_view text);

}  // namespace uthin::replication
