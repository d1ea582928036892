// A bounded cache of 4 KiB metadata blocks with one writer.
//
// The writer changes blocks in private copies; publish() puts the copies in place of the cached
// ones by swapping pointers. A published page never changes, so readers and the write-back work
// without locking its bytes.
//
// Invariants
//   BM1  A page is clean (equal to the device), dirty (published, not yet written) or private (the
//   writer's). BM2  Dirty and private pages are never evicted; clean ones go by second chance when
//   the cache is full. BM3  A block read from the device is validated once, before anybody sees it.
//   BM4  Block 0 is written by write_superblock only.
// Threads   "Any" or "Writer" as marked. The caller excludes readers of published state during
// publish(). Failures  A failed write-back or flush leaves pages dirty; the caller must abort
// (reset()). Source    docs/format.md 9, design decision "exclusive lock never held across device
// I/O".
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "persistent_data/block_source.h"
#include "uthin/block_device.h"

namespace uthin::persistent_data {

class block_manager final : public block_source {
public:
    // `block_count` blocks of `device` are used; `cache_blocks` bounds the clean pages plus half as
    // many dirty ones.
    block_manager(block_device& device, std::uint64_t block_count, std::uint64_t cache_blocks);
    ~block_manager() override;

    // Any. The published state; reads and validates on a miss, on the calling thread.
    [[nodiscard]] result<block_ref> read(metadata_block where, block_kind kind) override;
    [[nodiscard]] std::uint64_t block_count() const override { return block_count_.load(); }
    // Any.
    void prefetch(std::span<const metadata_block> blocks, block_kind kind) override;
    // Any. The cached page or would_block; never touches the device.
    [[nodiscard]] result<block_ref> read_cached(metadata_block where, block_kind kind);
    // Any. Straight from the device, past the cache; for superblock copies.
    [[nodiscard]] result<block_ref> read_uncached(metadata_block where, block_kind kind);

    // Writer. Private copy, then published page, then device.
    [[nodiscard]] result<block_ref> writer_read(metadata_block where, block_kind kind);
    // Writer. The private copy to change in place; valid until publish() or reset(). not_permitted
    // when read-only.
    [[nodiscard]] result<block_bytes> edit(metadata_block where, block_kind kind);
    // Writer. The same for a page that writer_read() has just returned.
    [[nodiscard]] result<block_bytes> edit(const block_ref& page);
    // Writer. A private page with the content of `from` (same kind) or of zeros; nothing is read
    // from `where`.
    [[nodiscard]] result<block_bytes> edit_copy(metadata_block where, const block_ref& from);
    [[nodiscard]] result<block_bytes> edit_new(metadata_block where, block_kind kind);
    // Writer. Makes private pages the published ones. No I/O, no allocation failure is survivable
    // in between.
    void publish();
    // Writer. Writes dirty pages in ascending runs: the next `blocks_max`, going on where the last
    // call stopped, or all. Private pages are not included: publish first.
    [[nodiscard]] result<void> write_dirty(std::size_t blocks_max = SIZE_MAX);
    // Writer. Sticky after a failure until reset().
    [[nodiscard]] result<void> flush();
    // Writer. Checksums and writes block 0; the caller flushes before and after.
    [[nodiscard]] result<void> write_superblock(block_bytes bytes);
    // Writer. Blocks that nobody reads any more: their clean pages make room, and memory, for
    // others.
    void forget(std::uint64_t begin, std::uint64_t end);
    // Writer. Forgets every page, dirty and private ones too.
    void reset();
    // Writer. The device grew.
    void set_block_count(std::uint64_t block_count) { block_count_.store(block_count); }

    // Writer.
    void set_read_only(bool read_only) noexcept { read_only_ = read_only; }
    [[nodiscard]] bool read_only() const noexcept { return read_only_; }
    // Changes with every publish() and reset(): pointers from edit() die with it.
    [[nodiscard]] std::uint64_t generation() const noexcept { return generation_; }
    [[nodiscard]] std::uint64_t dirty_blocks() const noexcept { return dirty_count_.load(); }
    [[nodiscard]] std::uint64_t private_blocks() const noexcept { return private_.size(); }
    [[nodiscard]] std::uint64_t cache_blocks() const noexcept { return cache_blocks_; }
    // Any.
    [[nodiscard]] std::uint64_t cached_blocks() const noexcept { return cached_count_.load(); }
    [[nodiscard]] std::uint64_t blocks_read() const noexcept { return blocks_read_.load(); }
    [[nodiscard]] std::uint64_t blocks_written() const noexcept { return blocks_written_.load(); }
    [[nodiscard]] std::uint64_t superblock_writes() const noexcept {
        return superblock_writes_.load();
    }

private:
    static constexpr std::size_t shard_count = 16;
    static constexpr std::uint64_t no_block = UINT64_MAX;

    struct entry {
        block_ref page;
        bool dirty = false;
        std::uint32_t place = 0;  // in sweep_order
    };
    struct load_state {
        std::uint32_t readers = 0;
        bool stale = false;
    };
    struct shard {
        mutex lock;
        std::unordered_map<std::uint64_t, entry> entries GUARDED_BY(lock);
        // Blocks being read from the device. The writer marks those that it publishes meanwhile, so
        // that older bytes are not cached.
        std::unordered_map<std::uint64_t, load_state> loads GUARDED_BY(lock);
        // Every cached block in the order of the eviction sweep, no_block where one was removed.
        std::vector<std::uint64_t> sweep_order GUARDED_BY(lock);
        std::vector<std::uint32_t> free_places GUARDED_BY(lock);
        std::size_t sweep_at GUARDED_BY(lock) = 0;
    };

    [[nodiscard]] shard& shard_of(metadata_block where) noexcept;
    [[nodiscard]] block_ref find_cached(metadata_block where);
    [[nodiscard]] result<block_ref> load(metadata_block where, block_kind kind);
    using entry_map = std::unordered_map<std::uint64_t, entry>;
    void insert_clean(shard& in, const block_ref& loaded) REQUIRES(in.lock);
    void add(shard& in, const block_ref& page, bool dirty) REQUIRES(in.lock);
    void remove(shard& in, entry_map::iterator cached) REQUIRES(in.lock);
    void make_room(shard& in) REQUIRES(in.lock);
    [[nodiscard]] result<void> check_writable(metadata_block where) const;
    // Writes the dirty pages in [begin, end), at most write_batch_blocks of them.
    using dirty_pages = std::map<std::uint64_t, block_ref>;
    [[nodiscard]] result<void> write_pages(dirty_pages::const_iterator begin,
                                           dirty_pages::const_iterator end);
    void now_clean(std::uint64_t number);
    // In place of the private page that the block may have had.
    void keep_private(block_ref page);

    block_device& device_;
    std::atomic<std::uint64_t> block_count_;
    std::uint64_t cache_blocks_;
    bool read_only_ = false;
    bool flush_failed_ = false;
    std::uint64_t generation_ = 1;
    std::array<shard, shard_count> shards_;
    // Writer only.
    std::unordered_map<std::uint64_t, block_ref> private_;
    // Private pages of blocks that were freed and used anew since: what edit() returned stays valid
    // where damaged metadata has a block counted as free that somebody changes.
    std::vector<block_ref> replaced_;
    dirty_pages dirty_;
    std::uint64_t write_next_ = 0;  // where write_dirty() goes on
    std::atomic<std::uint64_t> dirty_count_{0};
    std::atomic<std::uint64_t> cached_count_{0};
    std::atomic<std::uint64_t> blocks_read_{0};
    std::atomic<std::uint64_t> blocks_written_{0};
    std::atomic<std::uint64_t> superblock_writes_{0};
};

}  // namespace uthin::persistent_data
