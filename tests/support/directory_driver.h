// Runs operations on a whole pool (engine, catalogue, metadata, data) and keeps, in plain maps,
// what a power cut at any moment may leave.
//
// Each 4 KiB cell of a volume has its history of writes. After a cut a sector may hold any write
// that is not older than the newest one that had to be durable then. Names, sizes and which volume
// shows which history change in whole commands only.
//
// Invariants
//   DM1  Every write carries its own number and place in each sector.
//   DM2  A command (create, snapshot, delete, rename, rollback...) that returned has happened after
//        any cut; one in progress has happened wholly or not at all.
//
// Threads   One; the pool is never started, so that all of it runs on this thread.
// Failures  step() returns every error that the pool gives.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "pool/pool_directory.h"

namespace uthin::test {

// Those before `commit` and it are the ones of short workloads.
enum class directory_operation : std::uint8_t {
    write,
    write_block,
    write_fua,
    write_zeroes,
    discard,
    flush,
    create,
    snapshot,
    snapshot_pair,
    remove,
    rollback,
    rename,
    resize,
    grow,
    metadata_snapshot,
    commit,
    tick,      // time passes: the periodic commit
    let_go,    // closes the volumes that are open
    transfer,  // a volume is filled unseen, and published, dropped or left as it is
};
inline constexpr std::size_t directory_operation_count = 19;
[[nodiscard]] const char* to_string(directory_operation operation);

inline constexpr std::uint64_t cell_bytes = 4096;
inline constexpr std::uint64_t cells_per_block = 16;
inline constexpr std::uint64_t cells_max = 5 * cells_per_block + 3;

struct cell_write {
    static constexpr std::uint64_t never = UINT64_MAX;
    std::uint64_t order = 0;  // 0: there before anything was written
    bool zero = true;
    // A part of a block that was discarded: it reads as zeros once its block has been unmapped,
    // which happens at any time, or never.
    bool maybe = false;
    std::uint64_t begin = 0;           // sequence when the call began
    std::uint64_t durable_at = never;  // sequence when it was acknowledged as durable (FUA)
    // Instead of a stamp: what was found there.
    std::shared_ptr<const std::vector<std::byte>> found;
    std::uint64_t found_offset = 0;
};

// The content of a volume since it was made, snapshotted or rolled back.
struct volume_history {
    std::vector<std::vector<cell_write>> cells;  // oldest first
    struct flushed {
        std::uint64_t order = 0;         // every write up to this one...
        std::uint64_t acknowledged = 0;  // ...was durable at this sequence
    };
    std::vector<flushed> flushes;
};

struct volume_model {
    std::shared_ptr<volume_history> history;
    std::uint64_t size_bytes = 0;
    std::string uuid;
};

struct directory_state {
    std::map<std::string, volume_model> volumes;
    std::uint64_t data_blocks = 0;
    bool held = false;
    std::string holder;  // of its lease; empty: none
};

struct directory_record {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    directory_state state;
};

class directory_driver {
public:
    directory_driver(std::uint64_t seed, std::function<std::uint64_t()> sequence);
    ~directory_driver();
    directory_driver(const directory_driver&) = delete;
    directory_driver& operator=(const directory_driver&) = delete;

    // Takes an opened pool and believes what it shows. For cuts from sequence 0 on.
    [[nodiscard]] result<void> adopt(std::unique_ptr<pool_directory> pool);
    [[nodiscard]] result<void> step(directory_operation operation);
    [[nodiscard]] directory_operation any_operation();
    [[nodiscard]] result<void> create(const std::string& name, std::uint64_t cells);
    [[nodiscard]] result<void> write(const std::string& name, std::uint64_t cell,
                                     std::uint64_t count, bool fua);
    [[nodiscard]] result<void> snapshot(const std::string& origin, const std::string& name);
    [[nodiscard]] result<void> commit();
    [[nodiscard]] result<void> close();
    // Everything is durable: sequence 0 is now.
    void restart_recording();

    // Empty, or what is wrong: the running pool against the model, every sector.
    [[nodiscard]] std::string live_complaint();
    // The same for a pool that was opened after a cut at `operations`; any allowed state will do.
    [[nodiscard]] std::string complaint_after(pool_directory& pool, std::uint64_t operations) const;
    // Changes when other states become allowed.
    [[nodiscard]] std::uint64_t duties_after(std::uint64_t operations) const;

    [[nodiscard]] manual_clock& time() { return time_; }
    [[nodiscard]] const directory_state& now() const { return now_; }
    // Devices that are no volumes and are to stay.
    [[nodiscard]] std::size_t hidden_count() { return pool_->list_transfers().value().size(); }

private:
    [[nodiscard]] std::string complaint_against(const directory_state& state, pool_directory& pool,
                                                std::uint64_t operations) const;
    [[nodiscard]] result<std::shared_ptr<volume>> open(const std::string& name);
    [[nodiscard]] result<void> write_somewhere(directory_operation operation);
    [[nodiscard]] result<void> write_zeroes();
    [[nodiscard]] result<void> discard();
    [[nodiscard]] result<void> flush();
    [[nodiscard]] result<void> snapshot_pair();
    [[nodiscard]] result<void> remove();
    [[nodiscard]] result<void> rollback();
    [[nodiscard]] result<void> rename();
    [[nodiscard]] result<void> resize();
    [[nodiscard]] result<void> grow();
    [[nodiscard]] result<void> toggle_metadata_snapshot();
    [[nodiscard]] result<void> transfer();
    [[nodiscard]] result<void> begin_transfer(const std::string& name);
    [[nodiscard]] result<void> fill_transfer(const std::string& id, volume_model& model);
    [[nodiscard]] result<void> publish_transfer(const std::string& id, const std::string& name,
                                                volume_model model);
    void note_write(const std::string& name, std::uint64_t cell, std::uint64_t count, bool zero,
                    std::uint64_t order, bool maybe = false);
    // The newest write of these cells is acknowledged as durable.
    void durable(const std::string& name, std::uint64_t cell, std::uint64_t count);
    // The command that began at `begin` led to now_.
    void record(std::uint64_t begin);
    void flushed(volume_model& model, std::uint64_t order);
    [[nodiscard]] std::string any_volume();
    [[nodiscard]] std::string unused_name() const;  // empty: all are used

    random_generator random_;
    std::function<std::uint64_t()> sequence_;
    manual_clock time_;
    std::unique_ptr<pool_directory> pool_;
    std::map<std::string, std::shared_ptr<volume>> open_;
    directory_state now_;
    std::vector<directory_record> records_;
    std::vector<std::uint64_t> acknowledged_;  // sequences
    std::uint64_t order_ = 0;
};

}  // namespace uthin::test
