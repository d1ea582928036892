// The state behind `metadata` (include/uthin/metadata.h), shared by its source files.
//
// Two copies of the roots: `now_` belongs to the writer, `published_` is what readers start from.
// Readers walk published pages under the shared side of state_lock_, never touching the device; a
// missing block is read with the lock released and the walk starts again, but for who has lost what
// he read again and again (read_published). The writer works on
// private pages without the lock and takes the exclusive side only to publish.
//
// Lock order  state_lock_, then a cache shard's lock. views_lock_ is a leaf.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "base/out_of_memory.h"
#include "persistent_data/btree.h"
#include "persistent_data/space_map_disk.h"
#include "persistent_data/space_map_metadata.h"
#include "persistent_data/transaction_manager.h"
#include "thin_metadata/metadata_view.h"
#include "thin_metadata/subtree_memo.h"
#include "thin_metadata/superblock.h"
#include "uthin/metadata.h"

namespace uthin {

// In-core record of a device that is open or was changed by the open transaction. Written by the
// writer, the atomics are read by anybody.
class thin_device {
public:
    explicit thin_device(device_id device) : id(device) {}

    const device_id id;
    std::atomic<std::uint64_t> mapped_blocks{0};
    std::atomic<std::uint64_t> transaction_id{0};
    std::atomic<std::uint32_t> creation_time{0};
    std::atomic<std::uint32_t> snapshotted_time{0};
    std::atomic<bool> changed{false};
    std::atomic<bool> aborted_with_changes{false};
    // Its creation was aborted while it was open: the record waits for its close.
    std::atomic<bool> creation_aborted{false};
    std::atomic<std::uint64_t> last_change{0};
    // Where its tree begins: the root's number (24 bits) and, above it, the low bits of the
    // metadata_roots::top_version that this is true for.
    mutable std::atomic<std::uint64_t> tree_memo{0};
    // Writer only.
    std::uint32_t open_count = 0;

    [[nodiscard]] device_details details() const {
        return {mapped_blocks.load(), transaction_id.load(), creation_time.load(),
                snapshotted_time.load()};
    }
    void set_details(const device_details& details) {
        mapped_blocks.store(details.mapped_blocks);
        transaction_id.store(details.transaction_id);
        creation_time.store(details.creation_time);
        snapshotted_time.store(details.snapshotted_time);
    }
};

namespace thin_metadata {

using persistent_data::block_kind;
using persistent_data::block_source;
using persistent_data::btree;

// Leaf entries of the top tree own one reference on a device's tree.
class top_rule final : public persistent_data::value_rule {
public:
    top_rule(persistent_data::transaction_manager& tm, btree& bottom) : tm_(tm), bottom_(bottom) {}
    [[nodiscard]] result<void> inc(const std::byte* values, std::uint32_t count) override;
    [[nodiscard]] result<void> dec(const std::byte* values, std::uint32_t count) override;

private:
    persistent_data::transaction_manager& tm_;
    btree& bottom_;
};

// Leaf entries of a device's tree own one reference on a data block.
class bottom_rule final : public persistent_data::value_rule {
public:
    explicit bottom_rule(persistent_data::space_map_disk& data) : data_(data) {}
    [[nodiscard]] result<void> inc(const std::byte* values, std::uint32_t count) override;
    [[nodiscard]] result<void> dec(const std::byte* values, std::uint32_t count) override;
    // The block counts, not the time.
    [[nodiscard]] bool equal(const std::byte* a, const std::byte* b) const override;

private:
    persistent_data::space_map_disk& data_;
};

// Everything that an abort throws away and opens anew.
struct open_structures {
    explicit open_structures(persistent_data::block_manager& blocks)
        : tm(blocks),
          data_map(tm),
          bottom_values(data_map),
          bottom(tm, 8, bottom_values),
          top_values(tm, bottom),
          top(tm, 8, top_values),
          details(tm, sizeof(disk_device_details), no_values) {}

    persistent_data::transaction_manager tm;
    persistent_data::space_map_disk data_map;
    persistent_data::value_rule no_values;
    bottom_rule bottom_values;
    btree bottom;
    top_rule top_values;
    btree top;
    btree details;
};

struct metadata_roots {
    metadata_block mapping;
    // Two states with one number have the same top tree, wherever its blocks are.
    std::uint64_t top_version = 0;
    metadata_block details;
    std::uint32_t time = 0;
    std::uint64_t transaction_id = 0;
    metadata_block held;
    space_counts data_space;
    space_counts metadata_space;
};

class live_view;

}  // namespace thin_metadata

struct metadata::impl {
    impl(block_device& on, const metadata_options& with, std::uint64_t block_count);

    // ---- open, commit, abort (pool_metadata.cpp)
    [[nodiscard]] result<void> open();
    [[nodiscard]] result<void> format();
    [[nodiscard]] result<void> load(const thin_metadata::disk_superblock& superblock);
    [[nodiscard]] result<void> check_stored_values(
        const thin_metadata::disk_superblock& superblock) const;
    [[nodiscard]] result<void> read_superblock(thin_metadata::disk_superblock* superblock);
    [[nodiscard]] result<void> commit();
    [[nodiscard]] result<void> write_transaction();
    [[nodiscard]] result<void> write_details();
    [[nodiscard]] result<void> publish_superblock(const thin_metadata::disk_superblock& next);
    void transaction_is_durable();
    [[nodiscard]] result<void> abort();
    [[nodiscard]] bool has_changes() const;
    [[nodiscard]] result<void> reload();
    void publish();
    // Without memory for it half of the pages are published: fail mode, so that nobody reads them.
    void publish_pages() REQUIRES(state_lock_);
    // Publishes pages that nothing published points to yet.
    void publish_unreachable();
    void refresh_counts();
    [[nodiscard]] result<void> bound_dirty();
    void install_hooks();
    [[nodiscard]] std::uint64_t reserve_blocks() const;

    // Runs one mutation: mode checks before, publishing after; marks the transaction as broken when
    // it failed half-way.
    template <class Body>
    auto mutate(const Body& body) -> decltype(body());
    template <class Body>
    auto mutate_if_possible(const Body& body) -> decltype(body());
    // Runs what leaves abort() only when there is no memory for all of it.
    template <class Body>
    auto or_broken(const Body& body) -> decltype(body());
    [[nodiscard]] result<void> writable() const;
    [[nodiscard]] result<void> usable() const;

    // Runs a reading function over the published state until it needs no missing block.
    // `body(source, roots)`.
    template <class Body>
    auto read_published(const Body& body) const
        -> decltype(body(std::declval<thin_metadata::block_source&>(),
                         std::declval<const thin_metadata::metadata_roots&>()));

    // ---- devices (pool_metadata_devices.cpp)
    [[nodiscard]] result<std::optional<device_details>> details_in(
        thin_metadata::block_source& source, const thin_metadata::metadata_roots& roots,
        device_id id) const;
    [[nodiscard]] result<thin_device*> device(device_id id);
    [[nodiscard]] thin_device* add_device(device_id id, const device_details& details);
    [[nodiscard]] result<void> check_vacant(device_id id);
    void forget_device(device_id id);
    void mark_changed(thin_device& device);
    [[nodiscard]] result<void> put_details(device_id id, const device_details& details);
    [[nodiscard]] result<metadata_block> tree_of(device_id id);
    [[nodiscard]] result<metadata_block> tree_of(const thin_device& device);
    // Before each change of the top tree, which may fail half-way.
    void top_changes() noexcept { now_.top_version = ++top_versions_; }
    // tree_memo, if it is of that state.
    [[nodiscard]] static std::optional<metadata_block> remembered_tree(
        const thin_metadata::metadata_roots& roots, const thin_device& device) noexcept;
    static void remember_tree(const thin_metadata::metadata_roots& roots, const thin_device& device,
                              metadata_block root) noexcept;
    [[nodiscard]] result<void> insert_top(device_id id, metadata_block root);
    [[nodiscard]] result<void> remove_top(device_id id);
    [[nodiscard]] result<std::uint32_t> next_time() const;

    // ---- mappings (pool_metadata_mappings.cpp)
    // Of the published roots, within read_published(); or of now_, by the writer.
    [[nodiscard]] result<metadata_block> tree_in(thin_metadata::block_source& source,
                                                 const thin_metadata::metadata_roots& roots,
                                                 const thin_device& device) const;
    [[nodiscard]] result<std::optional<lookup_result>> lookup_published(
        thin_metadata::block_source& source, const thin_device& device, virtual_block block) const
        REQUIRES_SHARED(state_lock_);
    // Within mutate(). False: the block is not mapped to `*present`, and nothing was changed.
    [[nodiscard]] result<bool> insert(thin_device& device, virtual_block block, data_block data,
                                      const std::optional<data_block>* present);
    // Within mutate().
    [[nodiscard]] result<void> build(device_id id, const device_details& details,
                                     const run_source& next);
    // In `root`, the tree of `device`.
    [[nodiscard]] static result<std::optional<lookup_result>> lookup_in(
        thin_metadata::block_source& source, metadata_block root, const thin_device& device,
        virtual_block block);
    [[nodiscard]] static result<std::optional<mapped_range>> lookup_range(
        thin_metadata::block_source& source, metadata_block mapping_root, const thin_device& device,
        range<virtual_block> within);

    // ---- views (pool_metadata_views.cpp)
    void release_dead_views();
    [[nodiscard]] bool any_view();
    void revoke_all_views();
    bool revoke_oldest();
    void make_metadata_room();

    block_device& device_;
    const metadata_options options;
    mutable persistent_data::block_manager blocks;
    thin_metadata::subtree_memo memo_;
    std::unique_ptr<thin_metadata::open_structures> open_;
    thin_metadata::metadata_roots now_;
    thin_metadata::disk_superblock committed_{};
    thin_metadata::disk_superblock durable_{};  // the last one that is
    // Writer only. Kept: an aligned allocation for each commit makes the C library tidy a heap that
    // is as large as the cache.
    aligned_buffer superblock_page_{metadata_block_size_bytes};

    mutable shared_mutex state_lock_;
    thin_metadata::metadata_roots published_ GUARDED_BY(state_lock_);
    std::map<std::uint64_t, std::unique_ptr<thin_device>> devices_ GUARDED_BY(state_lock_);

    // Writer only.
    bool in_service_ = false;
    bool broken_ = false;
    bool restored_last_commit_ = true;
    // A superblock was written after `durable_`, and it is not known whether it is durable, too.
    bool superblock_in_doubt_ = false;
    bool in_batch_ = false;
    bool dirty_ = false;
    std::uint64_t top_versions_ = 0;  // goes on over aborts
    std::function<result<void>()> pre_commit_;
    std::function<void(data_block)> freed_;
    struct threshold {
        std::uint64_t free_blocks = 0;
        std::function<void()> crossed;
        bool armed = true;
        void observe(std::uint64_t free);
    };
    threshold metadata_threshold_;
    threshold data_threshold_;

    std::atomic<bool> failed_{false};
    std::atomic<bool> needs_check_{false};
    std::atomic<bool> read_only_{false};
    std::atomic<std::uint64_t> open_transaction_{1};
    std::atomic<std::uint64_t> durable_transaction_{0};
    std::atomic<std::uint64_t> commits_{0};
    std::atomic<std::uint32_t> changed_devices_{0};

    mutex views_lock_;
    std::vector<std::weak_ptr<thin_metadata::live_view>> views_ GUARDED_BY(views_lock_);

    mutable mutex prefetch_lock_;
    mutable std::vector<std::pair<metadata_block, thin_metadata::block_kind>> prefetches_
        GUARDED_BY(prefetch_lock_);
};

namespace thin_metadata {

// Published pages only; remembers the block that was missing.
class cached_source final : public block_source {
public:
    explicit cached_source(persistent_data::block_manager& blocks) : blocks_(blocks) {}

    [[nodiscard]] result<persistent_data::block_ref> read(metadata_block where,
                                                          block_kind kind) override {
        auto page = blocks_.read_cached(where, kind);
        if (!page && page.error().code() == error_code::would_block) {
            missed_ = where;
            missed_kind_ = kind;
        }
        return page;
    }
    [[nodiscard]] std::uint64_t block_count() const override { return blocks_.block_count(); }
    void prefetch(std::span<const metadata_block>, block_kind) override {}

    [[nodiscard]] metadata_block missed() const noexcept { return missed_; }
    [[nodiscard]] block_kind missed_kind() const noexcept { return missed_kind_; }

private:
    persistent_data::block_manager& blocks_;
    metadata_block missed_;
    block_kind missed_kind_ = block_kind::btree_node;
};

// A committed state of a live pool.
class live_view final : public metadata_view {
public:
    live_view(persistent_data::block_manager& blocks, const disk_superblock& superblock,
              std::uint64_t transaction, subtree_memo& memo)
        : superblock_(superblock),
          transaction_(transaction),
          memo_(memo),
          source_(blocks, expired_) {}

    [[nodiscard]] block_source& source() override { return source_; }
    [[nodiscard]] const disk_superblock& superblock() const override { return superblock_; }
    [[nodiscard]] bool has_space_maps() const override { return true; }
    [[nodiscard]] bool expired() const override { return expired_.load(); }
    [[nodiscard]] std::uint64_t transaction() const override { return transaction_; }
    [[nodiscard]] subtree_memo* memo() override { return &memo_; }
    void expire() noexcept { expired_.store(true); }

private:
    class checked_source final : public block_source {
    public:
        checked_source(persistent_data::block_manager& blocks, const std::atomic<bool>& expired)
            : blocks_(blocks), expired_(expired) {}
        [[nodiscard]] result<persistent_data::block_ref> read(metadata_block where,
                                                              block_kind kind) override {
            auto page = blocks_.read(where, kind);
            // After the read: what was read before the view expired is the view's.
            if (expired_.load()) {
                return fail(error_code::view_expired,
                            "the read view was given up because its space was needed");
            }
            return page;
        }
        [[nodiscard]] std::uint64_t block_count() const override { return blocks_.block_count(); }
        void prefetch(std::span<const metadata_block> wanted, block_kind kind) override {
            blocks_.prefetch(wanted, kind);
        }

    private:
        persistent_data::block_manager& blocks_;
        const std::atomic<bool>& expired_;
    };

    std::atomic<bool> expired_{false};
    const disk_superblock superblock_;
    const std::uint64_t transaction_;
    subtree_memo& memo_;
    checked_source source_;
};

}  // namespace thin_metadata

template <class Body>
auto metadata::impl::or_broken(const Body& body) -> decltype(body()) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        broken_ = true;
        return out_of_memory();
    }
}

template <class Body>
auto metadata::impl::mutate(const Body& body) -> decltype(body()) {
    return or_broken([&] { return mutate_if_possible(body); });
}

template <class Body>
auto metadata::impl::mutate_if_possible(const Body& body) -> decltype(body()) {
    if (auto allowed = writable(); !allowed) {
        return std::unexpected(std::move(allowed).error());
    }
    in_service_ = true;
    auto outcome = body();
    if (!outcome) {
        switch (outcome.error().code()) {
            case error_code::already_exists:
            case error_code::not_found:
            case error_code::busy:
            case error_code::invalid_argument:
            case error_code::out_of_range:
            case error_code::no_data_space: return outcome;
            // What could not be read before the first change has broken nothing.
            default: broken_ = has_changes(); return outcome;
        }
    }
    dirty_ = true;
    if (!in_batch_) {
        publish();
        if (auto bounded = bound_dirty(); !bounded) {
            broken_ = true;
            return std::unexpected(std::move(bounded).error());
        }
    }
    return outcome;
}

template <class Body>
auto metadata::impl::read_published(const Body& body) const
    -> decltype(body(std::declval<thin_metadata::block_source&>(),
                     std::declval<const thin_metadata::metadata_roots&>())) {
    // Far more than the depth of both trees; beyond it the cache is thrashing and we read under the
    // shared lock, which delays only the writer's publishing.
    constexpr int attempts_max = 64;
    return or_out_of_memory([&]() -> decltype(body(blocks, published_)) {
        thin_metadata::cached_source source(blocks);
        for (int attempt = 0; attempt < attempts_max; ++attempt) {
            std::uint64_t generation = 0;
            {
                const shared_lock guard(state_lock_);
                UTHIN_TRY(usable());
                generation = blocks.generation();
                auto outcome = body(source, published_);
                if (outcome || outcome.error().code() != error_code::would_block) {
                    return outcome;
                }
            }
            if (auto loaded = blocks.read(source.missed(), source.missed_kind()); !loaded) {
                // The block may have been used anew meanwhile: only of the state that is still the
                // published one it says something.
                const shared_lock guard(state_lock_);
                if (generation == blocks.generation()) {
                    return std::unexpected(std::move(loaded).error());
                }
            }
        }
        const shared_lock guard(state_lock_);
        UTHIN_TRY(usable());
        return body(blocks, published_);
    });
}

}  // namespace uthin
