// What the thin_* tools share: how metadata is opened, how text leaves, how failures are told.
//
// Threads   One.
// Failures  A tool returns its exit status: 0; 64 what was asked could not be done; 2 the command
//           line cannot be understood. A failure is one line on stderr.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "thin_metadata/metadata_view.h"
#include "thin_metadata/xml_writer.h"
#include "tools/thin_options.h"
#include "uthin/block_device.h"

namespace uthin::tools {

inline constexpr int exit_ok = 0;
inline constexpr int exit_usage = 2;
inline constexpr int exit_failed = 64;

enum class access : std::uint8_t {
    exclusive_read,  // fails while somebody has the metadata in use
    live_read,       // beside a running pool: only its metadata snapshot may be looked at
    exclusive_write,
};

// Opens a metadata device, image or the metadata of a pool directory.
[[nodiscard]] result<std::unique_ptr<block_device>> open_metadata_input(const std::string& path,
                                                                        access how);
// The target of a restore or repair: at least 10 blocks.
[[nodiscard]] result<std::unique_ptr<block_device>> open_metadata_output(const std::string& path);
// Fails when both mean the same file or disk; a pool directory means its metadata.
[[nodiscard]] result<void> refuse_same_file(const std::string& input, const std::string& output);
// Keeps everybody else from a file or disk that is about to be written over. Null: there is
// nothing yet, or something that cannot be locked.
[[nodiscard]] result<std::unique_ptr<block_device>> claim_output(const std::string& path);

struct input_metadata {
    std::unique_ptr<block_device> device;
    std::unique_ptr<thin_metadata::metadata_view> view;
};
[[nodiscard]] result<input_metadata> open_metadata_view(const std::string& path,
                                                        const thin_metadata::offline_options& how);

// Standard output, or a file made (or emptied) at the first piece of text; busy when somebody else
// has that file open.
class text_file {
public:
    explicit text_file(std::optional<std::string> path = std::nullopt) : path_(std::move(path)) {}
    text_file(const text_file&) = delete;
    text_file& operator=(const text_file&) = delete;
    ~text_file();

    [[nodiscard]] result<void> write(std::string_view text);
    // Everything has arrived.
    [[nodiscard]] result<void> close();
    [[nodiscard]] thin_metadata::text_output output() {
        return [this](std::string_view text) { return write(text); };
    }

private:
    [[nodiscard]] result<void> failure() const;

    std::optional<std::string> path_;
    std::unique_ptr<block_device> claim_;
    std::FILE* file_ = nullptr;
};

// On standard error. Where that cannot be written nobody listens, and nothing else changes.
void tell(std::string_view text);
// On standard output; it has arrived.
[[nodiscard]] result<void> print_result(std::string_view text);
// Tells what went wrong, unless `quiet` or a reader went away; returns 64.
int report_failure(std::string_view tool, const error& failure, bool quiet = false);
[[nodiscard]] inline int finish(std::string_view tool, const result<void>& outcome,
                                bool quiet = false) {
    return outcome ? exit_ok : report_failure(tool, outcome.error(), quiet);
}

using arguments = std::span<char* const>;
int thin_check_main(arguments given);
int thin_delta_main(arguments given);
int thin_dump_main(arguments given);
int thin_ls_main(arguments given);
int thin_metadata_pack_main(arguments given);
int thin_metadata_size_main(arguments given);
int thin_metadata_unpack_main(arguments given);
int thin_migrate_main(arguments given);
int thin_repair_main(arguments given);
int thin_restore_main(arguments given);
int thin_rmap_main(arguments given);
int thin_shrink_main(arguments given);
int thin_trim_main(arguments given);

}  // namespace uthin::tools
