#include "persistent_data/block_manager.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/assert.h"
#include "base/kept_by_thread.h"
#include "base/out_of_memory.h"

namespace uthin::persistent_data {
namespace {

// Longest run of neighbouring blocks that goes out in one write, and how much is in flight at once.
constexpr std::size_t write_run_blocks_max = 64;
constexpr std::size_t write_batch_blocks = 512;

std::uint64_t offset_of(metadata_block where) {
    return where.value() * metadata_block_size_bytes;
}

// Its bytes are to be overwritten whole.
block_ref make_page(metadata_block where, block_kind kind) {
    return block_ref(page::make(where, kind));
}

// For what one write-back puts together.
class staging_area {
public:
    explicit staging_area(std::size_t size_bytes) {
        kept_area* const kept = size_bytes > kept_bytes ? nullptr : kept_by_thread<kept_area>();
        if (kept == nullptr) {
            own_ = aligned_buffer(size_bytes);
            bytes_ = own_.span();
            return;
        }
        if (kept->memory.size() == 0) {
            kept->memory = aligned_buffer(kept_bytes);
        }
        bytes_ = kept->memory.span().first(size_bytes);
    }
    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return bytes_; }

private:
    static constexpr std::size_t kept_bytes = 32 * metadata_block_size_bytes;
    struct kept_area {
        aligned_buffer memory;
    };

    aligned_buffer own_;
    std::span<std::byte> bytes_;
};

error used_as_two_kinds(const page& cached, block_kind kind) {
    return error(error_code::corrupt,
                 fmt::format("block {} is used as {} and as {}", cached.where().value(),
                             to_string(cached.kind()), to_string(kind)));
}

}  // namespace

block_manager::block_manager(block_device& device, std::uint64_t block_count,
                             std::uint64_t cache_blocks)
    : device_(device),
      block_count_(block_count),
      cache_blocks_(std::max<std::uint64_t>(cache_blocks, 4 * shard_count)) {
}

block_manager::~block_manager() = default;

block_manager::shard& block_manager::shard_of(metadata_block where) noexcept {
    return shards_[where.value() % shard_count];
}

block_ref block_manager::find_cached(metadata_block where) {
    shard& in = shard_of(where);
    const lock_guard guard(in.lock);
    const auto found = in.entries.find(where.value());
    if (found == in.entries.end()) {
        return {};
    }
    // relaxed: a hint for the eviction sweep.
    found->second.page.page_->recently_used_.store(true, std::memory_order_relaxed);
    return found->second.page;
}

result<block_ref> block_manager::read(metadata_block where, block_kind kind) {
    if (block_ref cached = find_cached(where)) {
        if (cached.get()->kind() != kind) {
            return std::unexpected(used_as_two_kinds(*cached.get(), kind));
        }
        return cached;
    }
    return load(where, kind);
}

result<block_ref> block_manager::read_cached(metadata_block where, block_kind kind) {
    if (where.value() >= block_count()) {
        return fail(error_code::corrupt,
                    fmt::format("{} {}: beyond the metadata device of {} blocks", to_string(kind),
                                where.value(), block_count()));
    }
    block_ref cached = find_cached(where);
    if (!cached) {
        return fail(error_code::would_block, {});
    }
    if (cached.get()->kind() != kind) {
        return std::unexpected(used_as_two_kinds(*cached.get(), kind));
    }
    return cached;
}

result<block_ref> block_manager::read_uncached(metadata_block where, block_kind kind) {
    if (where.value() >= block_count()) {
        return fail(error_code::corrupt,
                    fmt::format("{} {}: beyond the metadata device of {} blocks", to_string(kind),
                                where.value(), block_count()));
    }
    block_ref fresh = make_page(where, kind);
    UTHIN_TRY_CTX(device_.read(offset_of(where), fresh.page_->mutable_bytes()),
                  fmt::format("{} {}", to_string(kind), where.value()));
    blocks_read_.fetch_add(1, std::memory_order_relaxed);
    UTHIN_TRY(check_block(kind, where, fresh.bytes()));
    return fresh;
}

result<block_ref> block_manager::load(metadata_block where, block_kind kind) {
    shard& in = shard_of(where);
    while (true) {
        {
            const lock_guard guard(in.lock);
            // Published since the caller looked: what the device has may be older, or half written.
            if (const auto found = in.entries.find(where.value()); found != in.entries.end()) {
                if (found->second.page.get()->kind() != kind) {
                    return std::unexpected(used_as_two_kinds(*found->second.page.get(), kind));
                }
                return found->second.page;
            }
            ++in.loads[where.value()].readers;
        }
        // Whatever becomes of it: a reader that is never taken off would void every later load.
        result<block_ref> fresh = or_out_of_memory([&] { return read_uncached(where, kind); });
        const lock_guard guard(in.lock);
        const auto load = in.loads.find(where.value());
        const bool stale = load->second.stale;
        if (--load->second.readers == 0) {
            in.loads.erase(load);
        }
        if (const auto found = in.entries.find(where.value()); found != in.entries.end()) {
            if (found->second.page.get()->kind() != kind) {
                return std::unexpected(used_as_two_kinds(*found->second.page.get(), kind));
            }
            return found->second.page;
        }
        if (stale) {
            continue;  // published, written and evicted while we read: what we have may be older
        }
        if (fresh) {
            // Called at once, under in.lock.
            if_memory_allows([&]() NO_THREAD_SAFETY_ANALYSIS { insert_clean(in, *fresh); });
        }
        return fresh;
    }
}

void block_manager::insert_clean(shard& in, const block_ref& loaded) {
    make_room(in);
    add(in, loaded, false);
}

// Without memory for it nothing is added; at most a free place more is left.
void block_manager::add(shard& in, const block_ref& page, bool dirty) {
    if (in.free_places.empty()) {
        in.sweep_order.push_back(no_block);
        in.free_places.reserve(in.sweep_order.capacity());  // so that remove() needs no memory
        in.free_places.push_back(static_cast<std::uint32_t>(in.sweep_order.size() - 1));
    }
    const std::uint32_t place = in.free_places.back();
    in.entries.emplace(page.where().value(), entry{page, dirty, place});
    in.free_places.pop_back();
    in.sweep_order[place] = page.where().value();
    cached_count_.fetch_add(1, std::memory_order_relaxed);
}

void block_manager::remove(shard& in, entry_map::iterator cached) {
    in.sweep_order[cached->second.place] = no_block;
    in.free_places.push_back(cached->second.place);
    in.entries.erase(cached);
    cached_count_.fetch_sub(1, std::memory_order_relaxed);
}

void block_manager::make_room(shard& in) {
    const std::size_t capacity = cache_blocks_ / shard_count;
    // What one large transaction left behind: the sweep would look at all its places each time.
    if (in.free_places.size() > in.entries.size() + capacity) {
        in.sweep_order.clear();
        in.free_places.clear();
        for (auto& [number, cached] : in.entries) {
            cached.place = static_cast<std::uint32_t>(in.sweep_order.size());
            in.sweep_order.push_back(number);
        }
    }
    std::size_t steps = 2 * in.sweep_order.size();
    while (in.entries.size() >= capacity && steps-- > 0 && !in.sweep_order.empty()) {
        in.sweep_at = in.sweep_at < in.sweep_order.size() ? in.sweep_at : 0;
        const std::uint64_t number = in.sweep_order[in.sweep_at++];
        if (number == no_block) {
            continue;
        }
        const auto found = in.entries.find(number);
        UTHIN_ASSERT(found != in.entries.end());
        page* candidate = found->second.page.page_;
        // relaxed: a hint.
        if (!found->second.dirty &&
            !candidate->recently_used_.exchange(false, std::memory_order_relaxed)) {
            remove(in, found);
        }
    }
}

void block_manager::prefetch(std::span<const metadata_block> blocks, block_kind kind) {
    std::vector<block_ref> fresh;
    std::vector<io_op> ops;
    // What there is no memory for is read when it is wanted.
    if_memory_allows([&] {
        fresh.reserve(blocks.size());
        ops.reserve(blocks.size());
        for (const metadata_block where : blocks) {
            if (where.value() >= block_count() || find_cached(where)) {
                continue;
            }
            block_ref target = make_page(where, kind);
            shard& in = shard_of(where);
            const lock_guard guard(in.lock);
            ++in.loads[where.value()].readers;
            ops.push_back({io_kind::read, offset_of(where), target.page_->mutable_bytes()});
            fresh.push_back(std::move(target));
        }
    });
    const bool good = ops.empty() || or_out_of_memory([&] { return device_.run(ops); });
    blocks_read_.fetch_add(fresh.size(), std::memory_order_relaxed);
    for (const block_ref& loaded : fresh) {
        const bool valid = good && or_out_of_memory([&] {
                               return check_block(kind, loaded.where(), loaded.bytes());
                           });
        shard& in = shard_of(loaded.where());
        const lock_guard guard(in.lock);
        const auto load = in.loads.find(loaded.where().value());
        const bool stale = load->second.stale;
        if (--load->second.readers == 0) {
            in.loads.erase(load);
        }
        if (valid && !stale && !in.entries.contains(loaded.where().value())) {
            if_memory_allows([&]() NO_THREAD_SAFETY_ANALYSIS { insert_clean(in, loaded); });
        }
    }
}

result<block_ref> block_manager::writer_read(metadata_block where, block_kind kind) {
    if (const auto found = private_.find(where.value()); found != private_.end()) {
        if (found->second.get()->kind() != kind) {
            return std::unexpected(used_as_two_kinds(*found->second.get(), kind));
        }
        return found->second;
    }
    return read(where, kind);
}

result<void> block_manager::check_writable(metadata_block where) const {
    if (read_only_) {
        return fail(error_code::not_permitted, "the metadata is read-only");
    }
    if (where.value() >= block_count()) {
        return fail(error_code::corrupt,
                    fmt::format("block {}: beyond the metadata device of {} blocks", where.value(),
                                block_count()));
    }
    return {};
}

result<block_bytes> block_manager::edit(metadata_block where, block_kind kind) {
    UTHIN_TRY(check_writable(where));
    if (const auto found = private_.find(where.value()); found != private_.end()) {
        // A damaged pointer can name a block that counted as free and became something else since.
        if (found->second.get()->kind() != kind) {
            return std::unexpected(used_as_two_kinds(*found->second.get(), kind));
        }
        return found->second.page_->mutable_bytes();
    }
    const block_ref published = UTHIN_TRY(read(where, kind));
    return edit_copy(where, published);
}

result<block_bytes> block_manager::edit(const block_ref& page) {
    if (const auto found = private_.find(page.where().value()); found != private_.end()) {
        return found->second.page_->mutable_bytes();
    }
    return edit_copy(page.where(), page);
}

result<block_bytes> block_manager::edit_copy(metadata_block where, const block_ref& from) {
    UTHIN_TRY(check_writable(where));
    block_ref fresh = make_page(where, from.get()->kind());
    const block_bytes bytes = fresh.page_->mutable_bytes();
    std::memcpy(bytes.data(), from.bytes().data(), bytes.size());
    keep_private(std::move(fresh));
    return bytes;
}

result<block_bytes> block_manager::edit_new(metadata_block where, block_kind kind) {
    UTHIN_TRY(check_writable(where));
    block_ref fresh = make_page(where, kind);
    const block_bytes bytes = fresh.page_->mutable_bytes();
    std::memset(bytes.data(), 0, bytes.size());
    keep_private(std::move(fresh));
    return bytes;
}

void block_manager::keep_private(block_ref page) {
    block_ref& kept = private_[page.where().value()];
    if (kept) {
        replaced_.push_back(std::move(kept));
    }
    kept = std::move(page);
}

void block_manager::publish() {
    for (auto& [number, changed] : private_) {
        shard& in = shard_of(metadata_block(number));
        const lock_guard guard(in.lock);
        if (const auto load = in.loads.find(number); load != in.loads.end()) {
            load->second.stale = true;
        }
        if (const auto found = in.entries.find(number); found != in.entries.end()) {
            found->second.page = changed;
            found->second.dirty = true;
        } else {
            add(in, changed, true);
        }
        dirty_.insert_or_assign(number, std::move(changed));
    }
    // Not clear(), nor `= {}`: they keep, and wipe each time, the largest table there ever was.
    private_ = std::unordered_map<std::uint64_t, block_ref>();
    replaced_.clear();
    ++generation_;
    dirty_count_.store(dirty_.size(), std::memory_order_relaxed);
}

result<void> block_manager::write_pages(dirty_pages::const_iterator begin,
                                        dirty_pages::const_iterator end) {
    const auto count = static_cast<std::size_t>(std::distance(begin, end));
    const staging_area staging(count * metadata_block_size_bytes);
    std::vector<io_op> ops;
    std::size_t staged = 0;
    std::size_t run_begin = 0;
    std::uint64_t first = 0;
    for (auto next = begin; next != end; ++next, ++staged) {
        const std::span<std::byte> copy =
            staging.bytes().subspan(staged * metadata_block_size_bytes, metadata_block_size_bytes);
        std::memcpy(copy.data(), next->second.bytes().data(), copy.size());
        prepare_block(next->second.get()->kind(), next->second.where(),
                      block_bytes(copy.data(), metadata_block_size_bytes));
        const bool extends = staged > run_begin && next->first == first + (staged - run_begin) &&
                             staged - run_begin < write_run_blocks_max;
        if (!extends) {
            run_begin = staged;
            first = next->first;
            ops.push_back({io_kind::write, first * metadata_block_size_bytes, copy});
        } else {
            io_op& run = ops.back();
            run.buffer_bytes = {run.buffer_bytes.data(), run.buffer_bytes.size() + copy.size()};
        }
    }
    UTHIN_TRY_CTX(device_.run(ops), "metadata write-back");
    blocks_written_.fetch_add(staged, std::memory_order_relaxed);
    return {};
}

void block_manager::now_clean(std::uint64_t number) {
    shard& in = shard_of(metadata_block(number));
    const lock_guard guard(in.lock);
    in.entries.find(number)->second.dirty = false;
    if (in.entries.size() > cache_blocks_ / shard_count) {
        make_room(in);
    }
}

result<void> block_manager::write_dirty(std::size_t blocks_max) {
    if (read_only_ && !dirty_.empty()) {
        return fail(error_code::not_permitted, "the metadata is read-only");
    }
    if (blocks_max >= dirty_.size()) {
        write_next_ = 0;
    }
    std::size_t left = std::min(blocks_max, dirty_.size());
    while (left > 0) {
        auto begin = dirty_.lower_bound(write_next_);
        begin = begin == dirty_.end() ? dirty_.begin() : begin;
        auto end = begin;
        for (std::size_t count = 0;
             end != dirty_.end() && count < std::min(left, write_batch_blocks); ++count) {
            ++end;
        }
        UTHIN_TRY(write_pages(begin, end));
        while (begin != end) {
            write_next_ = begin->first + 1;
            now_clean(begin->first);
            begin = dirty_.erase(begin);
            --left;
        }
        dirty_count_.store(dirty_.size(), std::memory_order_relaxed);
    }
    return {};
}

result<void> block_manager::flush() {
    if (flush_failed_) {
        return fail(error_code::io_error, "an earlier flush of the metadata device failed");
    }
    result<void> flushed = device_.flush();
    flush_failed_ = !flushed;
    return flushed;
}

result<void> block_manager::write_superblock(block_bytes bytes) {
    prepare_block(block_kind::superblock, metadata_block(0), bytes);
    UTHIN_TRY_CTX(device_.write(0, bytes), "superblock");
    superblock_writes_.fetch_add(1, std::memory_order_relaxed);
    blocks_written_.fetch_add(1, std::memory_order_relaxed);
    return {};
}

void block_manager::forget(std::uint64_t begin, std::uint64_t end) {
    for (std::uint64_t number = begin; number < end; ++number) {
        shard& in = shard_of(metadata_block(number));
        const lock_guard guard(in.lock);
        const auto found = in.entries.find(number);
        if (found != in.entries.end() && !found->second.dirty) {
            remove(in, found);
        }
    }
}

void block_manager::reset() {
    flush_failed_ = false;
    private_.clear();
    replaced_.clear();
    ++generation_;
    dirty_.clear();
    dirty_count_.store(0, std::memory_order_relaxed);
    for (shard& in : shards_) {
        const lock_guard guard(in.lock);
        cached_count_.fetch_sub(in.entries.size(), std::memory_order_relaxed);
        in.entries.clear();
        in.sweep_order.clear();
        in.free_places.clear();
        in.sweep_at = 0;
        for (auto& [number, load] : in.loads) {
            load.stale = true;
        }
    }
}

}  // namespace uthin::persistent_data
