// What the metadata cannot hold: names, sizes, parents and origins of volumes, and the changes that
// touch both stores.
//
// A volume is a device of the metadata plus a record here, joined by (device id, creation time,
// creation transaction id). A change of both stores is an *intent* (durable here), then the
// metadata's commit, then its resolution. After a crash the metadata alone decides: each intent
// names the device whose existence, with exactly that identity, proves that the commit happened.
//
// Invariants
//   CT1  A call that changes something is durable when it returns, and is one SQLite transaction.
//   CT2  Names and device ids are unique among volumes and pending creations together.
//   CT3  The hidden device of an intent is no volume: it appears in no list, and is reaped before
//        the intent goes away, or published in the transaction that takes the intent away.
//   CT4  After a failed commit every later change fails until the catalogue is opened anew: what
//        the file holds is not known.
// Threads   Any; one mutex.
// Failures  corrupt (not a catalogue, damaged, another pool's), unsupported (newer schema),
//           already_exists (name or id taken), not_found, busy (another process), io_error.
// Source    docs/catalogue.md; SQLite documentation: "Atomic Commit", "PRAGMA synchronous".
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "uthin/error.h"
#include "uthin/units.h"

namespace uthin {

// Which device of the metadata, so that a reused id is not taken for the old one.
struct device_identity {
    device_id id;
    std::uint32_t creation_time = 0;
    std::uint64_t creation_transaction_id = 0;
    bool operator==(const device_identity&) const = default;
};

struct volume_record {
    std::string uuid;
    device_identity identity;
    std::string name;
    std::uint64_t size_bytes = 0;
    std::string parent_uuid;  // of the volume it is a snapshot of; empty: none
    std::int64_t created_unix_seconds = 0;
    std::string external_origin;  // URL; empty: none
    // What replication brought here; of a snapshot: its content id. Empty: made here, and
    // unchanged.
    std::string received_from;
    std::map<std::string, std::string> labels;
    std::uint64_t reserved_bytes = 0;  // promised to it
    std::uint64_t limit_bytes = 0;     // it maps no more; 0: no limit
    bool operator==(const volume_record&) const = default;
};

// Who holds the pool's metadata snapshot, and until when.
struct metadata_snapshot_lease {
    std::string owner;
    std::int64_t expires_unix_seconds = 0;
    bool operator==(const metadata_snapshot_lease&) const = default;
};

enum class intent_kind : std::uint8_t {
    create,    // `volume` is being made, as a thin or a snapshot. Proof: volume.identity exists
    rollback,  // `volume` gets another root and volume.size_bytes. Proof: `hidden` (its old root)
    reap,      // `hidden` is being emptied and deleted. Done when it does not exist
    transfer,  // `hidden` is being filled for `volume` (uuid of the transfer, name, size, labels as
               // notes). Over when it does not exist
};

struct intent {
    std::int64_t number = 0;  // set by begin()
    intent_kind kind = intent_kind::reap;
    volume_record volume;
    device_identity hidden;
};

struct intent_outcome {
    intent what;
    bool happened = false;  // in the committed metadata
};

struct catalogue_options {
    bool read_only = false;
    // SQLite's name of the file access to use; empty: the system's. For crash simulation.
    std::string vfs_name;
};

class catalogue {
public:
    // Makes a new file; already_exists when there is one.
    [[nodiscard]] static result<std::unique_ptr<catalogue>> create(
        const std::string& path, std::string_view pool_uuid, const catalogue_options& options);
    // Checks the whole file before anything of it is believed.
    [[nodiscard]] static result<std::unique_ptr<catalogue>> open(const std::string& path,
                                                                 std::string_view pool_uuid,
                                                                 const catalogue_options& options);
    catalogue(const catalogue&) = delete;
    catalogue& operator=(const catalogue&) = delete;
    ~catalogue();

    // In ascending order of name.
    [[nodiscard]] result<std::vector<volume_record>> volumes();
    [[nodiscard]] result<std::optional<volume_record>> find_name(std::string_view name);
    [[nodiscard]] result<std::optional<volume_record>> find_device(device_id id);
    [[nodiscard]] result<std::optional<volume_record>> find_uuid(std::string_view uuid);
    // Those that have a promise or a limit, pending ones too.
    [[nodiscard]] result<std::vector<volume_record>> limited_volumes();
    [[nodiscard]] result<std::vector<intent>> intents();
    // Both, of one instant.
    struct contents {
        std::vector<volume_record> volumes;
        std::vector<intent> intents;
    };
    [[nodiscard]] result<contents> read_all();

    // Records the intents and numbers them. `stale_uuids` are records whose device is gone: they
    // make room. A reap takes the record of the hidden device away at once: its name is free and
    // the volume will not come back.
    [[nodiscard]] result<void> begin(std::span<intent> intents,
                                     std::span<const std::string> stale_uuids = {});
    // create: the volume is recorded, or nothing. rollback: the size is recorded and the intent
    // becomes a reap of `hidden`, or nothing. reap: gone when it happened, else it stays.
    [[nodiscard]] result<void> resolve(std::span<const intent_outcome> outcomes);

    // Hidden devices become volumes, all of them or none: the reap intents `numbers` go, `volumes`
    // are recorded (a record with the same uuid is replaced), and the intents `reaps` are begun for
    // the devices that they had before. already_exists: a name is taken.
    [[nodiscard]] result<void> publish(std::span<const std::int64_t> numbers,
                                       std::span<const volume_record> volumes,
                                       std::span<intent> reaps,
                                       std::span<const std::string> stale_uuids = {});

    // The device of the reap intent `number` stays for a transfer: `volume` has the transfer's
    // uuid, and the name and size that the volume will have.
    [[nodiscard]] result<void> keep(std::int64_t number, const volume_record& volume);
    // The device of a transfer is to be reaped.
    [[nodiscard]] result<void> forget(std::int64_t number);

    // Changes that the metadata does not take part in.
    // Of a volume or a transfer, all of them.
    [[nodiscard]] result<void> set_labels(std::string_view uuid,
                                          const std::map<std::string, std::string>& labels);
    // The volume stands on no external origin any more, and has these labels.
    [[nodiscard]] result<void> drop_origin(std::string_view uuid,
                                           const std::map<std::string, std::string>& labels);
    [[nodiscard]] result<void> rename(std::string_view uuid, std::string_view name);
    [[nodiscard]] result<void> resize(std::string_view uuid, std::uint64_t size_bytes);
    // What it holds, for other pools (received_from).
    [[nodiscard]] result<void> set_content(std::string_view uuid, std::string_view content_id);
    [[nodiscard]] result<void> set_limits(std::string_view uuid, std::uint64_t reserved_bytes,
                                          std::uint64_t limit_bytes);
    [[nodiscard]] result<std::optional<metadata_snapshot_lease>> lease();
    // Absent: there is none.
    [[nodiscard]] result<void> set_lease(const std::optional<metadata_snapshot_lease>& lease);
    // Records a volume whose device exists already.
    [[nodiscard]] result<void> adopt(const volume_record& volume,
                                     std::span<const std::string> stale_uuids = {});

private:
    struct impl;
    explicit catalogue(std::unique_ptr<impl> state);
    std::unique_ptr<impl> impl_;
};

}  // namespace uthin
