// Runs operations on a pool's metadata and on a plain model of it side by side, with stamped data
// blocks on a data device, in the order that the pool uses: data first, then the mapping.
//
// The data device holds 4 KiB for each data block: metadata never looks at it, and crash states
// stay small.
//
// Invariants
//   MM1  now() is what the open transaction must look like, committed().back() the last commit.
//   MM2  Every write carries its own number in each sector, so that stale, foreign and misplaced
//        data are told apart.
//   MM3  What contradicts the model at once (a lookup, a block handed out twice, an unshared block
//        that two thins map) is in complaints().
//
// Threads   One.
// Failures  step() returns those errors that no healthy device may cause; refusals and a full pool
//           are taken as the pool would take them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/random.h"
#include "support/pool_state.h"

namespace uthin::test {

// The first `bounded_operations` are those of the exhaustive short workloads.
enum class pool_operation : std::uint8_t {
    write_new,
    overwrite,
    overwrite_shared,
    overwrite_fua,
    discard,
    create,
    snapshot,
    remove,
    commit,
    resize_data,
    resize_metadata,
    metadata_snapshot,  // reserve, or release if one is held
    rollback,           // swap_root
    replace,            // replace_root
    transaction_id,
    write_run,
    discard_run,
    discard_slice,
    build,
    needs_check,
    flush_data,
    abort,
    reopen,
    begin_batch,
    end_batch,
};
inline constexpr std::size_t bounded_operations = 14;
inline constexpr std::size_t pool_operation_count = 25;
[[nodiscard]] const char* to_string(pool_operation operation);

struct driver_options {
    std::uint64_t seed = 1;
    std::uint64_t cache_bytes = 1 << 20;
    std::uint64_t devices_max = 6;
    std::uint64_t span_blocks = 8;  // virtual blocks of each thin that operations touch
    std::uint64_t run_blocks_max = 8;
    std::uint64_t metadata_blocks_max = 128;
    std::uint64_t data_blocks_max = 96;
    std::uint64_t grow_blocks = 8;
    bool flush_data_before_commit = true;
    bool write_data = true;
    // Number of operations that the devices have recorded; 0 when they do not.
    std::function<std::uint64_t()> sequence = [] { return std::uint64_t{0}; };
    // Called after each successful commit.
    std::function<void()> on_commit = [] {};
};

struct commit_record {
    std::uint64_t begin = 0;  // sequence when the commit was asked for
    std::uint64_t end = 0;    // and when it was acknowledged
    pool_state state;
};

inline constexpr std::uint64_t stamped_block_bytes = 4096;
// A data block's content for the write `content`.
[[nodiscard]] std::vector<std::byte> stamped_block(std::uint64_t content);

class metadata_driver {
public:
    // The devices outlive the driver.
    metadata_driver(block_device& metadata, block_device& data, const driver_options& options);
    ~metadata_driver();
    metadata_driver(const metadata_driver&) = delete;
    metadata_driver& operator=(const metadata_driver&) = delete;

    // Formats a blank device and gives the pool `data_blocks`.
    [[nodiscard]] result<void> format(std::uint64_t data_blocks);
    // Opens what is there and knows it to be `state`.
    [[nodiscard]] result<void> open(const pool_state& state);

    // One operation with arguments of the seed's choice.
    [[nodiscard]] result<void> step(pool_operation operation);
    [[nodiscard]] pool_operation any_operation();
    [[nodiscard]] result<void> commit();
    [[nodiscard]] result<void> abort();
    [[nodiscard]] result<void> close();
    [[nodiscard]] result<void> write(std::uint64_t id, std::uint64_t block, std::uint64_t count,
                                     bool fua = false);
    [[nodiscard]] result<void> create(std::uint64_t id);
    [[nodiscard]] result<void> snapshot(std::uint64_t id, std::uint64_t origin);

    // Forgets commits before the last; the devices' sequence starts again at 0.
    void restart_recording();
    // The states that a cut after `operations` device operations may leave.
    [[nodiscard]] std::vector<const pool_state*> allowed_after(std::uint64_t operations) const;
    // Changes when a cut there must preserve more.
    [[nodiscard]] std::uint64_t duties_after(std::uint64_t operations) const;
    // Empty when every mapping of `state` (one of the committed ones) finds legal sectors on `data`
    // after a cut at `operations`.
    [[nodiscard]] std::string data_complaint(const pool_state& state, block_device& data,
                                             std::uint64_t operations) const;
    // Every lookup, counter and sector against the model.
    [[nodiscard]] std::string live_complaint();
    // The counters that must be right after each commit.
    [[nodiscard]] std::string counter_complaint();
    // A view of the last commit; the driver complains when a data block that it maps is given out.
    [[nodiscard]] result<std::shared_ptr<thin_metadata::metadata_view>> create_view();

    [[nodiscard]] metadata& pool() { return *pool_; }
    [[nodiscard]] const pool_state& now() const { return now_; }
    [[nodiscard]] const std::vector<commit_record>& committed() const { return committed_; }
    [[nodiscard]] const std::vector<std::string>& complaints() const { return complaints_; }
    [[nodiscard]] std::uint64_t refusals() const { return refusals_; }
    [[nodiscard]] std::uint64_t full_aborts() const { return full_aborts_; }
    [[nodiscard]] random_generator& random() { return random_; }
    // The choices of what follows depend on `seed` and on the pool's state alone, so that
    // operations before it may be left out.
    void reseed(std::uint64_t seed) { random_ = random_generator(seed); }

private:
    struct fua_write {
        std::uint64_t content = 0;
        std::uint64_t acknowledged = 0;  // sequence
    };
    [[nodiscard]] result<void> run(pool_operation operation);
    [[nodiscard]] result<void> write_kind(pool_operation operation);
    [[nodiscard]] result<void> write_block(thin_device& device, std::uint64_t block, bool fua);
    [[nodiscard]] result<void> write_in_place(mapped_block& mapping, bool fua);
    [[nodiscard]] result<void> discard(std::uint64_t id, std::uint64_t begin, std::uint64_t end,
                                       std::uint64_t budget);
    [[nodiscard]] result<void> remove();
    [[nodiscard]] result<void> resize_data();
    [[nodiscard]] result<void> resize_metadata();
    [[nodiscard]] result<void> toggle_metadata_snapshot();
    [[nodiscard]] result<void> rollback();
    [[nodiscard]] result<void> replace();
    [[nodiscard]] result<void> change_transaction_id();
    [[nodiscard]] result<void> build();
    [[nodiscard]] result<void> toggle_needs_check();
    [[nodiscard]] result<void> reopen();
    void end_batch();
    void committed_at(std::uint64_t begin);
    void check_allocated(std::uint64_t block);
    void forget_dead_views();
    [[nodiscard]] std::string published_complaint();
    [[nodiscard]] std::uint64_t any_device();
    [[nodiscard]] std::uint64_t unused_device() const;
    [[nodiscard]] result<void> open_pool(bool format);
    void complain(std::string text);
    // Marks the data blocks that the state maps.
    [[nodiscard]] std::vector<bool> data_used(const pool_state& state) const;

    block_device& metadata_device_;
    block_device& data_device_;
    const driver_options options_;
    random_generator random_;
    std::unique_ptr<metadata> pool_;
    pool_state now_;
    std::vector<commit_record> committed_;
    std::vector<bool> committed_data_;
    struct watched_view {
        std::weak_ptr<thin_metadata::metadata_view> view;
        std::vector<bool> data;
    };
    std::vector<watched_view> views_;
    // Blocks may still be kept for views that went away since the last commit that wrote something.
    bool blocks_may_be_kept_ = false;
    std::uint64_t durable_transaction_ = 0;
    bool in_batch_ = false;
    device_states before_batch_;

    std::uint64_t content_ = 0;
    std::unordered_map<std::uint64_t, std::vector<std::uint64_t>> in_place_;  // by data block
    std::unordered_map<std::uint64_t, std::vector<fua_write>> fua_;
    // Contents up to `content` were flushed when the sequence was `acknowledged`.
    std::vector<fua_write> data_flushes_;
    std::vector<std::string> complaints_;
    std::uint64_t refusals_ = 0;
    std::uint64_t full_aborts_ = 0;
};

}  // namespace uthin::test
