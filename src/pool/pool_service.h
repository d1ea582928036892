// Every command on a pool as a method: what the command line, the control socket and the tests
// call, whether the pool is open in this process or served by another one.
//
// Requests and replies are plain structures of text and numbers, so that any front end can write
// them as JSON; sizes are in bytes unless the name says otherwise.
//
// Threads   Any thread, except close() and the destructor: one thread, nothing else running.
// Failures  One line: the object, the cause and the remedy. Codes as the pool's; busy also when
//           another process owns the pool. A refused command changed nothing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pool/transfer.h"
#include "uthin/error.h"
#include "uthin/thin.h"

namespace uthin {

struct volume_info {
    std::string name{};
    std::string uuid{};  // empty for a device that is not in the catalogue
    std::uint64_t dev_id = 0;
    std::uint64_t size_bytes = 0;
    std::uint64_t mapped_bytes = 0;  // shared blocks included
    // What deleting it would free, and the rest of `mapped`; absent when it cannot be told now.
    std::optional<std::uint64_t> exclusive_bytes{};
    std::optional<std::uint64_t> shared_bytes{};
    std::uint64_t reserved_bytes = 0;       // promised to it, mapped or not
    std::uint64_t limit_bytes = 0;          // it maps no more; 0: no limit
    std::string parent{};                   // name of the volume it is a snapshot of; empty: none
    std::string parent_uuid{};              // stays when the parent is gone
    std::int64_t created_unix_seconds = 0;  // 0: not known
    std::uint64_t creation_time = 0;        // the pool's counter of snapshots
    std::uint64_t creation_transaction_id = 0;
    std::string external_origin{};
    std::string received_from{};
    std::map<std::string, std::string> labels{};
    bool in_use = false;  // open for I/O in the process that has the pool
    bool operator==(const volume_info&) const = default;
};

// Names the device that a volume is now, in its pool and for all time; and the content id of a
// snapshot that is a copy or was changed.
[[nodiscard]] std::string device_tag(const volume_info& volume);

struct pool_report {
    std::string uuid{};
    std::string directory{};
    std::string metadata_url{};
    std::string data_url{};
    bool adopted = false;
    bool served = false;
    bool opened_read_only = false;  // nothing in it can change while it is open
    std::string mode{};        // write, out_of_data_space, out_of_metadata_space, read_only, fail
    std::string mode_cause{};  // empty in write mode
    bool needs_check = false;
    std::uint64_t transaction_id = 0;
    std::uint64_t block_size_bytes = 0;
    std::uint64_t data_blocks = 0;
    std::uint64_t data_used_blocks = 0;
    std::uint64_t metadata_blocks = 0;
    std::uint64_t metadata_used_blocks = 0;
    std::optional<std::uint64_t> metadata_snapshot_block{};
    std::uint64_t low_water_blocks = 0;
    bool zeroing = true;
    std::string cache{};     // none, writeback
    std::string discard{};   // passdown, no-passdown, ignore: the effective one
    std::string no_space{};  // queue, error: the effective one
    std::uint64_t volume_count = 0;
    std::uint64_t deletions_running = 0;
    std::uint64_t virtual_bytes = 0;  // sum of the volumes' sizes
    // Of the free blocks, or more than are free: promised to volumes that have not mapped them yet.
    std::uint64_t data_promised_blocks = 0;
    std::uint64_t overcommit_percent = 0;  // of virtual_bytes; 0: no bound
    std::uint64_t discard_rate_bytes_per_s = 0;
    std::string metadata_snapshot_owner{};
    std::int64_t metadata_snapshot_expires_unix_seconds = 0;  // 0: held until it is released
};

struct events_request {
    std::uint64_t after = 0;   // the number of the last one known; 0: all that are kept
    std::uint64_t wait_s = 0;  // for the first one, if there is none yet
};

struct event_info {
    std::uint64_t number = 0;
    std::int64_t unix_seconds = 0;
    std::string event{};  // low_data_space, low_metadata_space, mode_changed, no_space_timeout
    std::string mode{};   // of the pool, afterwards
    std::string text{};   // one line for people
    bool operator==(const event_info&) const = default;
};

struct events_reply {
    std::vector<event_info> events{};
    std::uint64_t last = 0;  // what the next request goes on after
    // There were more than are kept, or the server was started anew: look at the pool's state.
    bool some_lost = false;
    bool operator==(const events_reply&) const = default;
};

struct grow_request {
    // Absent: what the device has now.
    std::optional<std::uint64_t> data_size_bytes{};
    std::optional<std::uint64_t> metadata_size_bytes{};
};

struct check_request {
    bool repair = false;
};

struct check_reply {
    bool clean = false;
    std::uint64_t fatal = 0;
    std::uint64_t repairable = 0;
    std::uint64_t cosmetic = 0;
    std::vector<std::string> findings{};  // "fatal: ...", one line each; the first ones only
    std::uint64_t devices = 0;
    std::uint64_t mapped_blocks = 0;
    std::uint64_t data_blocks_used = 0;
    std::uint64_t metadata_blocks_used = 0;
    bool needs_check = false;  // afterwards
    bool repaired = false;     // needs_check was cleared
    bool leaks_mended = false;
};

enum class metadata_snapshot_action : std::uint8_t { reserve, renew, release, show };

struct metadata_snapshot_request {
    metadata_snapshot_action action = metadata_snapshot_action::show;
    // Absent: held until it is released, as by the kernel's message. Of reserve and renew.
    std::optional<std::uint64_t> lease_s{};
    // Who renews or releases must name the owner, or nobody: an administrator.
    std::string owner{};
};

struct metadata_snapshot_reply {
    std::optional<std::uint64_t> block{};  // absent: none is held
    std::string owner{};
    std::int64_t expires_unix_seconds = 0;  // 0: no lease
    bool operator==(const metadata_snapshot_reply&) const = default;
};

struct create_volume_request {
    std::string name{};
    std::uint64_t size_bytes = 0;  // 0: that of the external origin
    std::optional<std::uint64_t> dev_id{};
    // Path or URL of what unmapped blocks read as, opened read-only; empty: zeros.
    std::string external_origin{};
    std::uint64_t reserved_bytes = 0;
    std::uint64_t limit_bytes = 0;  // 0: no limit
    bool if_not_exists = false;
};

// What is absent stays.
struct set_volume_request {
    std::string name{};
    std::optional<std::uint64_t> reserved_bytes{};
    std::optional<std::uint64_t> limit_bytes{};
};

struct usage_reply {
    std::uint64_t mapped_bytes = 0;  // sum of the volumes'
    std::uint64_t freed_bytes = 0;   // what deleting all of them would free
    bool operator==(const usage_reply&) const = default;
};

struct snapshot_pair {
    std::string source{};
    std::string name{};
    std::map<std::string, std::string> labels{};
};

struct create_snapshots_request {
    // All at one instant. A later source may be an earlier name.
    std::vector<snapshot_pair> snapshots{};
    bool if_not_exists = false;
};

struct delete_volume_request {
    std::string name{};
    bool if_exists = false;
    bool force = false;  // also when somebody holds it (labels.h)
};

// Texts of users and programs about a volume; labels.h has those that mean something here.
struct label_request {
    std::string name{};
    std::map<std::string, std::string> set{};
    std::vector<std::string> remove{};
};

struct rollback_request {
    std::string name{};
    std::string to{};
    // Also when the volume is in use, or `to` is no snapshot of it or has another size.
    bool force = false;
};

// changed: mapped elsewhere than before; added: not mapped before; removed: not mapped any more.
enum class change_kind : std::uint8_t { changed, added, removed };

struct changed_range {
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
    change_kind kind = change_kind::changed;
    bool operator==(const changed_range&) const = default;
};

struct diff_request {
    std::string from{};  // empty: nothing, so that everything mapped is added
    std::string to{};
    // Which devices are meant, as device_tag() names them: refused with not_found when another one
    // has the name by now. Empty: whichever has it.
    std::string from_device{};
    std::string to_device{};
    std::uint64_t offset_bytes = 0;        // of the first byte that is asked for
    std::uint64_t ranges_max = 64U << 10;  // also the greatest number that is given
};

// Changes of mapping, whole blocks but for the end of a volume. Ranges ascend, neighbours of one
// kind are joined. What lies in the blocks behind the end of a smaller `from` was never part of it
// and is added, even if both map the same there; on an external origin, whatever is mapped.
struct diff_reply {
    std::uint64_t from_size_bytes = 0;
    std::uint64_t to_size_bytes = 0;
    std::uint64_t block_size_bytes = 0;
    std::vector<changed_range> ranges{};
    // Where the next request goes on; absent: this was all.
    std::optional<std::uint64_t> next_offset_bytes{};
    // For the next request.
    std::string from_device{};
    std::string to_device{};
    bool operator==(const diff_reply&) const = default;
};

// Work on a volume with an external origin, while clients use it.
enum class origin_job_kind : std::uint8_t {
    merge,    // what the volume maps goes into the origin, until it maps nothing
    flatten,  // what it does not map comes out of the origin, until it needs none
};

struct origin_job_request {
    std::string name{};
    origin_job_kind kind = origin_job_kind::merge;
    // Merging: other volumes of the pool on the same origin get a copy of what would change under
    // them. Otherwise there must be none.
    bool copy_up = false;
    // Merging: an origin that is shorter than the volume is made as long.
    bool grow_origin = false;
};

struct origin_job_info {
    std::string name{};
    origin_job_kind kind = origin_job_kind::merge;
    // running, done, failed, paused (until it is started again), stopped (goes on when the pool is
    // served again)
    std::string state{};
    std::string failure{};
    // Merging: what is still mapped. Flattening: what is still to be looked at.
    std::uint64_t left_bytes = 0;
    std::uint64_t total_bytes = 0;  // left_bytes when it was started
    bool operator==(const origin_job_info&) const = default;
};

// A pool or volume in the words of the kernel's targets.
struct target_lines {
    std::string status{};  // as `dmsetup status` after the target's name, or "Fail", "Error"
    std::string table{};   // whole, for `dmsetup create`; empty when the pool cannot tell
};

// A volume as the device-mapper is to be told about it.
struct table_line {
    std::string name{};
    std::uint64_t dev_id = 0;  // of a volume
    std::uint64_t size_bytes = 0;
    std::string table{};
};

struct release_reply {
    table_line pool;
    std::vector<table_line> volumes{};
};

// The bytes of one volume. The object keeps the volume in use.
class volume_data {
public:
    volume_data() = default;
    volume_data(const volume_data&) = delete;
    volume_data& operator=(const volume_data&) = delete;
    virtual ~volume_data() = default;

    [[nodiscard]] virtual std::uint64_t size_bytes() const = 0;
    // A length that suits the pool: the data block size, at most 32 MiB.
    [[nodiscard]] virtual std::uint64_t preferred_bytes() const = 0;
    [[nodiscard]] virtual result<void> read(std::uint64_t offset_bytes,
                                            std::span<std::byte> buffer) = 0;
    [[nodiscard]] virtual result<void> write(std::uint64_t offset_bytes,
                                             std::span<const std::byte> buffer) = 0;
    // Whole blocks become holes.
    [[nodiscard]] virtual result<void> write_zeroes(std::uint64_t offset_bytes,
                                                    std::uint64_t length_bytes) = 0;
    [[nodiscard]] virtual result<void> flush() = 0;
    // Covers the range from its begin without gaps; may end early.
    [[nodiscard]] virtual result<std::vector<volume_extent>> extents(
        std::uint64_t offset_bytes, std::uint64_t length_bytes) = 0;
};

class pool_service {
public:
    pool_service() = default;
    pool_service(const pool_service&) = delete;
    pool_service& operator=(const pool_service&) = delete;
    virtual ~pool_service() = default;

    [[nodiscard]] virtual result<pool_report> status() = 0;
    [[nodiscard]] virtual result<target_lines> kernel_lines() = 0;
    [[nodiscard]] virtual result<target_lines> kernel_lines_of(std::string_view name) = 0;
    // What happened to a pool that is served. May end its wait early, with nothing.
    [[nodiscard]] virtual result<events_reply> events(const events_request& request) = 0;
    // The kernel's message grammar; to_errno() of the error is what the kernel would return.
    [[nodiscard]] virtual result<void> message(std::string_view text) = 0;
    [[nodiscard]] virtual result<pool_report> grow(const grow_request& request) = 0;
    // Discards all free space of the data device; the bytes told to it.
    [[nodiscard]] virtual result<std::uint64_t> trim() = 0;
    [[nodiscard]] virtual result<check_reply> check(const check_request& request) = 0;
    // Keys: low-water, no-space, no-space-timeout, discard, discard-rate, overcommit, cache,
    // zeroing, read-only. All or none.
    [[nodiscard]] virtual result<pool_report> set(
        const std::map<std::string, std::string>& settings) = 0;
    // What is held afterwards.
    [[nodiscard]] virtual result<metadata_snapshot_reply> metadata_snapshot(
        const metadata_snapshot_request& request) = 0;

    [[nodiscard]] virtual result<volume_info> create_volume(
        const create_volume_request& request) = 0;
    [[nodiscard]] virtual result<std::vector<volume_info>> list_volumes() = 0;
    [[nodiscard]] virtual result<volume_info> show_volume(std::string_view name) = 0;
    [[nodiscard]] virtual result<volume_info> rename_volume(std::string_view name,
                                                            std::string_view new_name) = 0;
    [[nodiscard]] virtual result<volume_info> resize_volume(std::string_view name,
                                                            std::uint64_t size_bytes) = 0;
    [[nodiscard]] virtual result<volume_info> set_volume(const set_volume_request& request) = 0;
    // Of these volumes together.
    [[nodiscard]] virtual result<usage_reply> usage(const std::vector<std::string>& names) = 0;
    // The name is free on return; space comes back in the background. False: there was none.
    [[nodiscard]] virtual result<bool> delete_volume(const delete_volume_request& request) = 0;
    [[nodiscard]] virtual result<volume_info> rollback_volume(const rollback_request& request) = 0;
    [[nodiscard]] virtual result<std::vector<volume_info>> create_snapshots(
        const create_snapshots_request& request) = 0;
    [[nodiscard]] virtual result<volume_info> label_volume(const label_request& request) = 0;

    // ---- transfers: volumes that are being filled
    // Its device is durable on return, and so are the notes.
    [[nodiscard]] virtual result<transfer_info> begin_transfer(
        const begin_transfer_request& request) = 0;
    [[nodiscard]] virtual result<std::vector<transfer_info>> list_transfers() = 0;
    // For one user at a time; busy for others.
    [[nodiscard]] virtual result<std::unique_ptr<volume_data>> open_transfer(
        std::string_view id) = 0;
    // Durable on return; what the notes speak of must be durable before.
    [[nodiscard]] virtual result<void> note_transfer(
        std::string_view id, const std::map<std::string, std::string>& notes) = 0;
    // What was written to it is durable and visible under its names. A refusal leaves it as hidden
    // as before; busy while it is open.
    [[nodiscard]] virtual result<void> publish_transfer(std::string_view id,
                                                        const publish_request& request) = 0;
    [[nodiscard]] virtual result<void> drop_transfer(std::string_view id) = 0;

    // Begins it or goes on with it, in the background if the pool is served; recorded in the
    // catalogue until it is done or forgotten.
    [[nodiscard]] virtual result<origin_job_info> start_origin_job(
        const origin_job_request& request) = 0;
    [[nodiscard]] virtual result<origin_job_info> show_origin_job(std::string_view name) = 0;
    // What was moved stays where it is now. `forget`: for good, else until it is started again.
    [[nodiscard]] virtual result<origin_job_info> stop_origin_job(std::string_view name,
                                                                  bool forget) = 0;

    // Costs what changed, not what is mapped. Each reply is of one instant; unsupported when the
    // two have different external origins.
    [[nodiscard]] virtual result<diff_reply> diff(const diff_request& request) = 0;

    // Finishes every deletion, and tells how the kernel would activate the pool. busy while
    // volumes are in use.
    [[nodiscard]] virtual result<release_reply> release() = 0;

    [[nodiscard]] virtual result<std::unique_ptr<volume_data>> open_data(std::string_view name,
                                                                         bool read_only) = 0;
    // What was changed is durable; nothing else may be called afterwards.
    [[nodiscard]] virtual result<void> close() = 0;
};

}  // namespace uthin
