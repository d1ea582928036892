// A pool as people see it: volumes with names and sizes, kept together from metadata and catalogue.
//
// Every change of both stores is an intent in the catalogue, then the metadata commit, then the
// resolution (catalogue.h). On opening, pending intents are resolved by looking at the metadata.
//
// Invariants
//   DI1  A name or size that was told to a caller survives a power cut together with its device:
//        after any cut a command has happened wholly or not at all.
//   DI2  A device that is being reaped is no volume and its id is not given out.
//   DI3  The metadata and data devices are not written before the first change.
//   DI4  The pool's transaction id is moved only in pools that uthin made: there it makes every
//        identity unique, so that a reused id never gets an old name.
// Threads   Any, except open(), assemble(), start(), close() and the destructor: one thread,
//           nothing else running. Changes are made one after another.
// Failures  Refusals name the object, the cause and the remedy and change nothing. After a failed
//           commit of either store it is open whether the change happened: close and open again.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "pool/catalogue.h"
#include "pool/pool_devices.h"
#include "pool/pool_file.h"
#include "pool/pool_service.h"
#include "pool/target_message.h"
#include "thin_metadata/checker.h"
#include "uthin/pool.h"

namespace uthin {

class origin_job;

namespace thin_metadata {
class metadata_view;
}

enum class open_purpose : std::uint8_t {
    inspect,  // nothing is changed: neither store, not even to resolve intents
    change,   // intents are resolved, deletions run to their end in the calls that begin them
    serve,    // as change; deletions run in the background after start()
};

struct directory_options {
    open_purpose purpose = open_purpose::change;
    // For devices that another process owns.
    std::chrono::nanoseconds wait{0};
    std::string catalogue_vfs{};
    // How external origins are opened; empty: as files, disks and NBD exports.
    std::function<result<std::unique_ptr<block_device>>(const std::string& url, bool writable)>
        open_origin{};
    // What pool.json does not say; its fields are overwritten.
    pool_options pool{};
};

// An opened pool's parts, for callers that bring their own devices (crash simulation).
struct directory_parts {
    std::string directory{};
    pool_file file{};
    pool_devices devices;
    std::unique_ptr<catalogue> names;
};

struct create_pool_request {
    std::string directory{};
    std::uint64_t data_size_bytes = 0;
    std::uint64_t block_size_bytes = 64U << 10;
    std::optional<std::uint64_t> metadata_size_bytes{};
    std::string metadata_url{};  // empty: a new sparse file in the directory
    std::string data_url{};
    // "N%" of the data blocks, or blocks.
    std::string low_water{};
    pool_file features{};  // the switches of it
    std::chrono::nanoseconds wait{0};
    std::string catalogue_vfs{};
};

struct adopt_pool_request {
    std::string directory{};
    std::string metadata_url{};
    std::string data_url{};
    bool read_only = false;
    // A pool whose pool.json is there gets an empty catalogue; the old file is kept beside it.
    bool rebuild_catalogue = false;
    std::chrono::nanoseconds wait{0};
    std::string catalogue_vfs{};
};

// A volume in the making: nobody sees it, and a pool that is opened after a crash deletes it.
struct hidden_volume {
    intent what;                   // the reap that waits for it
    std::shared_ptr<volume> data;  // absent when it was published
};

class pool_directory {
public:
    // Makes DIR (if it is missing) and what is in it. Refuses what is there already; what a failed
    // call made is removed again.
    [[nodiscard]] static result<void> create(const create_pool_request& request, clock& time);
    // Makes DIR, pool.json and an empty catalogue around existing devices, which are only read.
    [[nodiscard]] static result<void> adopt(const adopt_pool_request& request, clock& time);
    [[nodiscard]] static result<std::unique_ptr<pool_directory>> open(
        const std::string& directory, const directory_options& options, clock& time);
    [[nodiscard]] static result<std::unique_ptr<pool_directory>> assemble(
        directory_parts parts, const directory_options& options, clock& time);
    ~pool_directory();
    pool_directory(const pool_directory&) = delete;
    pool_directory& operator=(const pool_directory&) = delete;

    // Starts the pool's thread and the deletions that were left over. Once.
    [[nodiscard]] result<void> start();
    // Until nothing is being deleted, or a deletion failed.
    [[nodiscard]] result<void> wait_for_deletions();
    // Commits and gives the devices back. Deletions go on at the next opening.
    [[nodiscard]] result<void> close();

    [[nodiscard]] pool& engine() noexcept { return *pool_; }
    [[nodiscard]] const std::string& directory() const noexcept { return directory_; }
    [[nodiscard]] pool_file file() const;

    // ---- reading
    [[nodiscard]] result<std::vector<volume_info>> list();
    [[nodiscard]] result<volume_info> show(std::string_view name);
    // With what is exclusive and what is shared, of the last commit: docs/space.md says what it
    // costs.
    [[nodiscard]] result<std::vector<volume_info>> list_with_usage();
    [[nodiscard]] result<volume_info> show_with_usage(std::string_view name);
    [[nodiscard]] result<usage_reply> usage(const std::vector<std::string>& names);
    [[nodiscard]] result<pool_report> report();
    [[nodiscard]] events_reply events(const events_request& request);
    [[nodiscard]] result<diff_reply> diff(const diff_request& request);

    // ---- volumes
    [[nodiscard]] result<volume_info> create_volume(const create_volume_request& request);
    [[nodiscard]] result<std::vector<volume_info>> create_snapshots(
        const create_snapshots_request& request);
    [[nodiscard]] result<volume_info> rename(std::string_view name, std::string_view new_name);
    [[nodiscard]] result<volume_info> resize(std::string_view name, std::uint64_t size_bytes);
    [[nodiscard]] result<volume_info> set_volume(const set_volume_request& request);
    // False: there was none, and that was allowed.
    [[nodiscard]] result<bool> remove(const delete_volume_request& request);
    [[nodiscard]] result<volume_info> label(const label_request& request);
    [[nodiscard]] result<volume_info> rollback(const rollback_request& request);
    [[nodiscard]] result<std::shared_ptr<volume>> open_volume(std::string_view name,
                                                              bool read_only);

    // ---- volumes in the making
    // A clone of `base`, cut or grown to the size; an empty volume without one.
    [[nodiscard]] result<hidden_volume> make_hidden(std::string_view base,
                                                    std::uint64_t size_bytes);
    // What was written to it is durable and visible under its names. A refusal leaves it as hidden
    // as before; after another failure the next opening finds out whether it was published.
    [[nodiscard]] result<void> publish_hidden(hidden_volume& hidden,
                                              const publish_request& request);
    // No effect on one that is published, or may be.
    void drop_hidden(hidden_volume& hidden);

    // ---- merging and flattening
    // As in pool_service; to its end before start().
    [[nodiscard]] result<origin_job_info> start_origin_job(const origin_job_request& request);
    // On the caller's thread to its end, `between` after each step.
    [[nodiscard]] result<origin_job_info> run_origin_job(const origin_job_request& request,
                                                         const std::function<void()>& between);
    [[nodiscard]] result<origin_job_info> show_origin_job(std::string_view name);
    [[nodiscard]] result<origin_job_info> stop_origin_job(std::string_view name, bool forget);

    // ---- transfers: as in pool_service
    [[nodiscard]] result<transfer_info> begin_transfer(const begin_transfer_request& request);
    [[nodiscard]] result<std::vector<transfer_info>> list_transfers();
    [[nodiscard]] result<std::shared_ptr<volume>> open_transfer(std::string_view id);
    [[nodiscard]] result<void> note_transfer(std::string_view id,
                                             const std::map<std::string, std::string>& notes);
    [[nodiscard]] result<void> publish_transfer(std::string_view id,
                                                const publish_request& request);
    [[nodiscard]] result<void> drop_transfer(std::string_view id);
    // Deletes the snapshots whose lease is over and the transfers that nobody came back to. Done at
    // every opening for changes; who serves a pool for long calls it from time to time.
    [[nodiscard]] result<void> drop_expired();
    // ---- in the words of the kernel's targets (pool_directory_kernel.cpp)
    [[nodiscard]] result<target_lines> kernel_lines();
    [[nodiscard]] result<target_lines> kernel_lines(std::string_view volume_name);
    [[nodiscard]] result<release_reply> release();

    // ---- the pool
    [[nodiscard]] result<void> message(std::string_view text);
    [[nodiscard]] result<void> grow(const grow_request& request);
    [[nodiscard]] result<std::uint64_t> trim();
    [[nodiscard]] result<void> set(const std::map<std::string, std::string>& settings);
    [[nodiscard]] result<check_reply> check(const check_request& request);
    [[nodiscard]] result<metadata_snapshot_reply> metadata_snapshot(
        const metadata_snapshot_request& request);

private:
    // What the metadata says now.
    struct probe_result {
        std::uint32_t time = 0;
        std::uint64_t transaction_id = 0;
        std::map<device_id, device_details> devices;  // those asked for that exist
        [[nodiscard]] bool has(const device_identity& identity) const;
    };
    struct found_volume {
        volume_record record;  // without uuid for a device that is not in the catalogue
        device_details details;
        [[nodiscard]] bool recorded() const { return !record.uuid.empty(); }
    };
    using details_map = std::map<device_id, device_details>;

    pool_directory(directory_parts parts, const directory_options& options, clock& time);

    [[nodiscard]] result<void> resolve_pending();
    [[nodiscard]] result<void> settle_deletions() REQUIRES(change_lock_);
    void begin_reaping(device_id id) REQUIRES(change_lock_);
    [[nodiscard]] result<void> finish_reaping() REQUIRES(change_lock_);
    [[nodiscard]] result<void> prepare_change(std::string_view what) REQUIRES(change_lock_);

    [[nodiscard]] bool is_hidden(device_id id) const REQUIRES(change_lock_) {
        return reaping_.contains(id) || making_.contains(id) || transfers_.contains(id);
    }
    [[nodiscard]] result<hidden_volume> make_hidden_locked(std::string_view base,
                                                           std::uint64_t size_bytes)
        REQUIRES(change_lock_);
    [[nodiscard]] result<intent> must_find_transfer(std::string_view id) REQUIRES(change_lock_);
    [[nodiscard]] transfer_info info_of(const intent& transfer,
                                        const std::map<device_id, device_details>& devices);
    [[nodiscard]] result<void> drop_transfer_locked(const intent& transfer) REQUIRES(change_lock_);
    [[nodiscard]] result<void> change_labels(const std::string& uuid, const label_request& request);
    // Somebody was heard of.
    [[nodiscard]] result<void> note_transfer_locked(intent transfer,
                                                    const std::map<std::string, std::string>& notes)
        REQUIRES(change_lock_);
    [[nodiscard]] result<bool> remove_locked(const delete_volume_request& request)
        REQUIRES(change_lock_);
    // Makes a device that is reaped unless it is published.
    [[nodiscard]] result<intent> make_unpublished(device_id id, std::optional<device_id> origin)
        REQUIRES(change_lock_);
    void reap_unpublished(const intent& what) REQUIRES(change_lock_);
    // As the pool's file says; on, whatever it says, while volumes are being filled: a block that
    // is written in part must read as zeros around it.
    void apply_zeroing() REQUIRES(change_lock_);
    [[nodiscard]] result<void> publish_records(hidden_volume& hidden,
                                               std::span<const std::int64_t> numbers,
                                               std::span<const volume_record> records,
                                               std::span<intent> reaps) REQUIRES(change_lock_);
    // Who has the name: the one that is to be replaced, or nobody.
    [[nodiscard]] result<std::optional<found_volume>> find_replaced(const publish_request& request)
        REQUIRES(change_lock_);
    [[nodiscard]] result<volume_record> published_record(const hidden_volume& hidden,
                                                         const publish_request& request)
        REQUIRES(change_lock_);

    // Both sides of a diff and the committed state that holds them.
    struct diff_sides;
    class range_collector;
    [[nodiscard]] result<diff_sides> find_sides(const diff_request& request);
    // The tag of the device, which is the one that is wanted, if one is.
    [[nodiscard]] result<std::string> check_device(const found_volume& found,
                                                   const std::string& wanted) const;
    [[nodiscard]] result<bool> add_changes(const diff_sides& sides,
                                           std::optional<metadata_block> from_root,
                                           range<virtual_block> within, range_collector& ranges);

    // The device of an external origin, the same for all who use it.
    [[nodiscard]] result<std::shared_ptr<block_device>> origin_device(const std::string& url,
                                                                      bool writable)
        REQUIRES(change_lock_);
    [[nodiscard]] result<std::shared_ptr<volume>> open_on_origin(
        const volume_record& record, std::shared_ptr<block_device> origin) REQUIRES(change_lock_);
    // Other volumes on the same origin.
    [[nodiscard]] result<std::vector<volume_record>> neighbours(const volume_record& record)
        REQUIRES(change_lock_);
    [[nodiscard]] result<void> check_origin_job(const origin_job_request& request,
                                                const found_volume& target,
                                                std::span<const volume_record> others)
        REQUIRES(change_lock_);
    [[nodiscard]] result<std::shared_ptr<block_device>> prepare_origin(
        const origin_job_request& request, const volume_record& record) REQUIRES(change_lock_);
    // Recorded and ready to run.
    [[nodiscard]] result<std::shared_ptr<origin_job>> make_origin_job(
        const origin_job_request& request) REQUIRES(change_lock_);
    // Those that were running when the pool was closed.
    [[nodiscard]] result<void> resume_origin_jobs() REQUIRES(change_lock_);
    void stop_origin_jobs();
    // busy while the volume is merged or flattened.
    [[nodiscard]] result<void> refuse_moving(device_id id, std::string_view name)
        REQUIRES(change_lock_);
    // busy while a volume is merged into that origin.
    [[nodiscard]] result<void> refuse_merging(const std::string& url, std::string_view name)
        REQUIRES(change_lock_);

    // ---- space (pool_directory_space.cpp)
    struct device_usage {
        std::uint64_t mapped_blocks = 0;
        std::uint64_t exclusive_blocks = 0;
    };
    using usage_map = std::map<device_id, device_usage>;
    [[nodiscard]] result<std::shared_ptr<thin_metadata::metadata_view>> present_view();
    [[nodiscard]] result<std::shared_ptr<const usage_map>> measured_usage();
    void add_usage(std::span<volume_info> volumes);
    // Those of the catalogue, with `changed` in place of what it holds of that device; null: as it
    // is.
    [[nodiscard]] result<void> apply_policies(const volume_record* changed, bool must_fit)
        REQUIRES(change_lock_);
    void renew_policies() REQUIRES(change_lock_);
    [[nodiscard]] result<void> check_limits(const volume_record& record) const;
    [[nodiscard]] result<void> apply_limits(const volume_record& record) REQUIRES(change_lock_);
    // That the volumes may grow by so much together.
    [[nodiscard]] result<void> check_overcommit(std::uint64_t added_bytes, std::string_view what)
        REQUIRES(change_lock_);

    // ---- the metadata snapshot and its lease (pool_directory_lease.cpp)
    [[nodiscard]] result<std::optional<std::uint64_t>> held_block();
    [[nodiscard]] result<metadata_snapshot_reply> held_snapshot();
    [[nodiscard]] result<metadata_snapshot_lease> new_lease(
        const metadata_snapshot_request& request) const;
    [[nodiscard]] result<void> reserve_snapshot(const metadata_snapshot_request& request)
        REQUIRES(change_lock_);
    [[nodiscard]] result<void> release_snapshot() REQUIRES(change_lock_);
    [[nodiscard]] result<void> check_owner(const metadata_snapshot_request& request)
        REQUIRES(change_lock_);
    [[nodiscard]] result<void> set_lease(const std::optional<metadata_snapshot_lease>& lease)
        REQUIRES(change_lock_);
    [[nodiscard]] result<void> settle_lease() REQUIRES(change_lock_);
    [[nodiscard]] result<void> load_lease() REQUIRES(change_lock_);
    void keep_leases();
    void stop_leases();

    [[nodiscard]] result<probe_result> probe(std::span<const device_id> ids);
    // With the mapped end of `id` in blocks.
    [[nodiscard]] result<std::uint64_t> mapped_end_bytes(device_id id);
    [[nodiscard]] result<details_map> list_devices();
    [[nodiscard]] result<std::optional<found_volume>> find(std::string_view name)
        REQUIRES(change_lock_);
    [[nodiscard]] result<found_volume> must_find(std::string_view name) REQUIRES(change_lock_);
    // The volume's record, made if the device had none.
    [[nodiscard]] result<volume_record> must_have_record(std::string_view name)
        REQUIRES(change_lock_);
    // Records that stand in the way of `name` and `id` though their devices are gone.
    [[nodiscard]] result<std::vector<std::string>> stale_records(std::span<const std::string> names,
                                                                 std::span<const device_id> ids)
        REQUIRES(change_lock_);
    [[nodiscard]] result<std::vector<volume_info>> gather();
    [[nodiscard]] result<volume_info> describe(std::string_view name) REQUIRES(change_lock_);
    [[nodiscard]] volume_info info_of(const volume_record& record, const device_details& details,
                                      const std::map<std::string, std::string>& names) const;

    [[nodiscard]] result<device_id> unused_id(bool hidden) REQUIRES(change_lock_);
    [[nodiscard]] result<bool> id_is_free(device_id id) REQUIRES(change_lock_);
    // Makes the identities of the next creations unique, where that is allowed.
    [[nodiscard]] result<probe_result> advance_transaction_id() REQUIRES(change_lock_);
    [[nodiscard]] result<void> make_devices(std::span<intent> intents,
                                            std::span<const std::string> stale,
                                            const std::function<result<void>()>& make)
        REQUIRES(change_lock_);
    [[nodiscard]] result<std::optional<std::vector<volume_info>>> existing_snapshots(
        const create_snapshots_request& request) REQUIRES(change_lock_);
    [[nodiscard]] result<void> check_rollback(const rollback_request& request,
                                              const found_volume& target,
                                              const found_volume& source) REQUIRES(change_lock_);
    // A snapshot is about to get another content, so it gets another content id: what was sent of
    // it has it as its base no more. By a command, or by the first change through a handle.
    [[nodiscard]] result<void> renew_content(const volume_record& record);
    [[nodiscard]] result<void> resize_live(device_id id, std::uint64_t old_bytes,
                                           std::uint64_t new_bytes) REQUIRES(change_lock_);
    // Of the last committed state.
    [[nodiscard]] result<thin_metadata::check_report> check_metadata() REQUIRES(change_lock_);
    [[nodiscard]] result<void> apply_message(const target_message& message) REQUIRES(change_lock_);
    [[nodiscard]] std::string pool_device_name() const;
    [[nodiscard]] std::string table_of_pool(const pool_status& status) const;
    [[nodiscard]] std::string table_of(const volume_info& volume) const;
    [[nodiscard]] result<std::string> thin_status(device_id id);
    [[nodiscard]] result<pool_file> changed_file(const std::map<std::string, std::string>& settings)
        REQUIRES(change_lock_);
    [[nodiscard]] result<void> apply_file(const pool_file& wanted) REQUIRES(change_lock_);
    [[nodiscard]] result<void> grow_device(block_device& device, std::string_view url,
                                           std::uint64_t size_bytes) REQUIRES(change_lock_);
    [[nodiscard]] bool in_use(device_id id);
    [[nodiscard]] std::size_t volumes_in_use();

    const std::string directory_;
    clock& time_;
    const open_purpose purpose_;
    const std::function<result<std::unique_ptr<block_device>>(const std::string&, bool)>
        open_origin_;
    pool_options pool_options_;
    pool_devices devices_;                     // until the pool has them
    block_device* metadata_device_ = nullptr;  // the pool's
    std::unique_ptr<catalogue> names_;
    std::unique_ptr<pool> pool_;
    bool started_ = false;

    mutable mutex file_lock_;  // innermost
    pool_file file_ GUARDED_BY(file_lock_);

    mutex change_lock_;  // outermost
    std::map<device_id, intent> reaping_ GUARDED_BY(change_lock_);
    std::set<device_id> making_ GUARDED_BY(change_lock_);
    std::map<device_id, intent> transfers_ GUARDED_BY(change_lock_);
    std::uint64_t next_id_ GUARDED_BY(change_lock_) = 0;
    bool has_policies_ GUARDED_BY(change_lock_) = false;

    mutex usage_lock_;  // may be taken inside change_lock_
    std::shared_ptr<const usage_map> usage_ GUARDED_BY(usage_lock_);
    std::uint64_t usage_transaction_ GUARDED_BY(usage_lock_) = 0;

    mutex lease_lock_;  // innermost
    condition lease_changed_;
    std::optional<std::int64_t> lease_end_ GUARDED_BY(lease_lock_);  // seconds since 1970
    bool lease_stopping_ GUARDED_BY(lease_lock_) = false;
    thread lease_thread_;

    // Around reading and writing a volume's labels: an origin job does so at its end, when whoever
    // stops it may hold change_lock_. Taken inside that; the catalogue's lock is taken inside it.
    mutex labels_lock_;
    mutex open_lock_;  // taken inside change_lock_
    std::map<device_id, std::weak_ptr<volume>> open_ GUARDED_BY(open_lock_);

    struct live_origin {
        std::weak_ptr<block_device> device;
        bool writable = false;
    };
    std::map<std::string, live_origin> origins_ GUARDED_BY(change_lock_);
    // By uuid; those that ended too, until they are started again. Destroyed before the pool.
    std::map<std::string, std::shared_ptr<origin_job>> jobs_ GUARDED_BY(change_lock_);
};

// Every command on an opened directory, in this process. The first form closes the directory when
// it is closed itself; the second leaves that to the owner.
[[nodiscard]] std::unique_ptr<pool_service> make_pool_service(
    std::unique_ptr<pool_directory> directory);
[[nodiscard]] std::unique_ptr<pool_service> make_pool_service(pool_directory& directory);

}  // namespace uthin
