#include "pool/target_status.h"

#include <fmt/format.h>

#include <string_view>

namespace uthin {

namespace {

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

std::string pool_status_line(const pool_status& status) {
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

std::string status_line_of_failure(const error& why) {
    return why.code() == error_code::failed ? "Fail" : "Error";
}

std::string thin_status_line(std::uint64_t mapped_blocks, std::optional<virtual_block> highest,
                             std::uint32_t block_size_sectors) {
    const std::string last =
        highest ? std::to_string((highest->value() + 1) * block_size_sectors - 1) : "-";
    return fmt::format("{} {}", mapped_blocks * block_size_sectors, last);
}

}  // namespace uthin
