// Open, format, commit, abort, modes and counters.
#include "thin_metadata/pool_metadata.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/assert.h"
#include "uthin/log.h"

namespace uthin {

using persistent_data::block_bytes;
using thin_metadata::disk_superblock;

namespace {

// The kernel hides this much of the metadata from its users, so that commits and deletes can
// finish.
constexpr std::uint64_t reserve_blocks_max = 4096;
constexpr std::uint64_t warn_above_bytes = 16ULL << 30;

std::uint64_t cache_blocks(const metadata_options& options) {
    return options.cache_bytes / metadata_block_size_bytes;
}

result<std::uint64_t> usable_blocks(const block_device& device) {
    const std::uint64_t blocks = UTHIN_TRY(device.size_bytes()) / metadata_block_size_bytes;
    return std::min(blocks, metadata_blocks_max);
}

}  // namespace

metadata::impl::impl(block_device& on, const metadata_options& with, std::uint64_t block_count)
    : device_(on), options(with), blocks(on, block_count, cache_blocks(with)) {
    blocks.set_read_only(with.read_only);
    read_only_.store(with.read_only);
}

// ---- open

result<void> metadata::impl::read_superblock(disk_superblock* superblock) {
    aligned_buffer raw(metadata_block_size_bytes);
    UTHIN_TRY_CTX(device_.read(0, raw.span()), "superblock");
    const persistent_data::const_block_bytes bytes(raw.data(), metadata_block_size_bytes);
    *superblock = UTHIN_TRY(thin_metadata::check_superblock(metadata_block(0), bytes));
    return {};
}

result<void> metadata::impl::open() {
    if (blocks.block_count() == 0) {
        return fail(
            error_code::invalid_argument,
            fmt::format("{}: too small for metadata, one block is 4096 bytes", device_.name()));
    }
    aligned_buffer raw(metadata_block_size_bytes);
    UTHIN_TRY_CTX(device_.read(0, raw.span()), "superblock");
    const persistent_data::const_block_bytes bytes(raw.data(), metadata_block_size_bytes);
    if (thin_metadata::is_blank(bytes)) {
        if (!options.format || options.read_only) {
            return fail(
                error_code::not_permitted,
                fmt::format("{}: blank, and formatting it was not asked for", device_.name()));
        }
        UTHIN_TRY(thin_metadata::check_data_block_size(options.data_block_size_sectors));
        return format();
    }
    const disk_superblock superblock =
        UTHIN_TRY_CTX(thin_metadata::check_superblock(metadata_block(0), bytes), device_.name());
    UTHIN_TRY_CTX(thin_metadata::check_features(superblock, options.read_only), device_.name());
    UTHIN_TRY_CTX(check_stored_values(superblock), device_.name());
    if (options.data_block_size_sectors != 0 &&
        options.data_block_size_sectors != superblock.data_block_size_sectors) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: made with data blocks of {} sectors, opened with {}",
                                device_.name(), std::uint32_t{superblock.data_block_size_sectors},
                                options.data_block_size_sectors));
    }
    durable_ = superblock;
    return load(superblock);
}

// What would otherwise be divided by, or not fit into a mapping.
result<void> metadata::impl::check_stored_values(const disk_superblock& superblock) const {
    if (auto size = thin_metadata::check_data_block_size(superblock.data_block_size_sectors);
        !size) {
        return fail(error_code::corrupt, "superblock: " + size.error().message());
    }
    if (superblock.time >= thin_metadata::time_limit && !options.read_only) {
        return fail(error_code::corrupt,
                    fmt::format("superblock: time {} does not fit into the 24 bits of a mapping; "
                                "open it read-only, or use `thin_repair`",
                                std::uint32_t{superblock.time}));
    }
    return {};
}

result<void> metadata::impl::load(const disk_superblock& superblock) {
    const std::uint64_t described = superblock.metadata_sm_root.nr_blocks;
    if (described > blocks.block_count()) {
        return fail(
            error_code::invalid_argument,
            fmt::format("{}: {} blocks long, its metadata describes {}; give it back its size",
                        device_.name(), blocks.block_count(), described));
    }
    open_ = std::make_unique<thin_metadata::open_structures>(blocks);
    UTHIN_TRY_CTX(open_->tm.open_space_map(superblock.metadata_sm_root), "metadata space map");
    open_->data_map.open(superblock.data_sm_root);
    committed_ = superblock;
    top_changes();
    now_.mapping = metadata_block(superblock.data_mapping_root);
    now_.details = metadata_block(superblock.device_details_root);
    now_.time = superblock.time;
    now_.transaction_id = superblock.trans_id;
    now_.held = metadata_block(superblock.held_root);
    needs_check_.store((superblock.flags & thin_metadata::superblock_flag_needs_check) != 0);
    broken_ = false;
    in_batch_ = false;
    dirty_ = false;
    install_hooks();
    publish();
    return {};
}

// The layout is the kernel's (docs/format.md 11), block for block.
result<void> metadata::impl::format() {
    open_ = std::make_unique<thin_metadata::open_structures>(blocks);
    UTHIN_TRY_CTX(open_->tm.format_space_map(blocks.block_count()), "format");
    UTHIN_TRY_CTX(open_->data_map.format(), "format");
    top_changes();
    now_.mapping = UTHIN_TRY_CTX(open_->top.create(), "format");
    now_.details = UTHIN_TRY_CTX(open_->details.create(), "format");
    committed_ = {};
    committed_.magic = thin_metadata::superblock_magic;
    committed_.version = thin_metadata::superblock_version;
    committed_.data_block_size_sectors = options.data_block_size_sectors;
    committed_.metadata_block_size_sectors = metadata_block_size_bytes / sector_size_bytes;
    committed_.metadata_nr_blocks = blocks.block_count();
    install_hooks();
    in_service_ = true;
    dirty_ = true;
    return commit();
}

void metadata::impl::install_hooks() {
    // ORDER: SB1. In the change itself, so before its commit.
    open_->tm.set_owner_hook(
        [this](metadata_block node) { memo_.changed(node, open_transaction_.load()); });
    open_->tm.metadata_map().set_allocation_hook(
        [this](std::uint64_t free) { metadata_threshold_.observe(free); });
    open_->data_map.set_allocation_hook(
        [this](std::uint64_t free) { data_threshold_.observe(free); });
    open_->data_map.set_freed_hook([this](std::uint64_t block) {
        if (freed_) {
            freed_(data_block(block));
        }
    });
}

void metadata::impl::threshold::observe(std::uint64_t free) {
    if (!crossed) {
        return;
    }
    if (free <= free_blocks) {
        if (armed) {
            armed = false;
            crossed();
        }
    } else if (free > free_blocks + free_blocks / 8) {
        armed = true;
    }
}

result<std::unique_ptr<metadata>> metadata::open(block_device& device,
                                                 const metadata_options& options) {
    return or_out_of_memory([&]() -> result<std::unique_ptr<metadata>> {
        const std::uint64_t size_bytes = UTHIN_TRY(device.size_bytes());
        if (size_bytes > warn_above_bytes) {
            log(log_level::warning, "metadata",
                fmt::format("{}: metadata device of {} bytes; only the first {} blocks (15.875 "
                            "GiB) are used",
                            device.name(), size_bytes, metadata_blocks_max));
        }
        auto state = std::make_unique<impl>(device, options, UTHIN_TRY(usable_blocks(device)));
        UTHIN_TRY(state->open());
        return std::unique_ptr<metadata>(new metadata(std::move(state)));
    });
}

metadata::metadata(std::unique_ptr<impl> state) : impl_(std::move(state)) {
}

metadata::~metadata() {
    impl_->revoke_all_views();
}

result<void> metadata::close() {
    {
        const shared_lock guard(impl_->state_lock_);
        for (const auto& [id, device] : impl_->devices_) {
            if (device->open_count != 0) {
                return or_out_of_memory([&]() -> result<void> {
                    return fail(error_code::busy, fmt::format("device {} is open", id));
                });
            }
        }
    }
    if (failed() || is_read_only() || impl_->broken_ || impl_->superblock_in_doubt_) {
        return {};
    }
    return commit();
}

// ---- publishing and commit

std::uint64_t metadata::impl::reserve_blocks() const {
    return std::min(reserve_blocks_max, open_->tm.metadata_map().nr_blocks() / 10);
}

void metadata::impl::refresh_counts() {
    persistent_data::space_map_metadata& map = open_->tm.metadata_map();
    const std::uint64_t kept = map.quarantine().kept_blocks();
    const std::uint64_t raw = map.nr_free() > kept ? map.nr_free() - kept : 0;
    const std::uint64_t reserve = reserve_blocks();
    now_.metadata_space = {map.nr_blocks(), raw > reserve ? raw - reserve : 0, raw};
    const std::uint64_t data_kept = open_->data_map.quarantine().kept_blocks();
    const std::uint64_t data_free =
        open_->data_map.nr_free() > data_kept ? open_->data_map.nr_free() - data_kept : 0;
    now_.data_space = {open_->data_map.committed_nr_blocks(), data_free, data_free};
}

void metadata::impl::publish() {
    refresh_counts();
    const exclusive_lock guard(state_lock_);
    publish_pages();
    published_ = now_;
}

void metadata::impl::publish_unreachable() {
    const exclusive_lock guard(state_lock_);
    publish_pages();
}

void metadata::impl::publish_pages() {
    try {
        blocks.publish();
    } catch (const std::bad_alloc&) {
        failed_.store(true);
        throw;
    }
}

// Writing shadows early is safe (nothing committed points to them) and bounds the dirty pages. A
// piece at a time, so that nobody waits for half a cache.
result<void> metadata::impl::bound_dirty() {
    constexpr std::uint64_t piece_blocks = 256;
    const std::uint64_t limit = blocks.cache_blocks() / 2;
    if (const std::uint64_t dirty = blocks.dirty_blocks(); dirty > limit) {
        return blocks.write_dirty(std::max(piece_blocks, dirty - limit));
    }
    return {};
}

result<void> metadata::impl::write_details() {
    std::vector<thin_device*> changed;
    {
        const shared_lock guard(state_lock_);
        for (const auto& [id, device] : devices_) {
            if (device->changed.load()) {
                changed.push_back(device.get());
            }
        }
    }
    for (const thin_device* device : changed) {
        UTHIN_TRY(put_details(device->id, device->details()));
    }
    return {};
}

// Numbers as in docs/format.md 10.
result<void> metadata::impl::write_transaction() {
    if (pre_commit_) {
        // ORDER: PM1/2 data of new mappings is durable before metadata that names it.
        UTHIN_TRY_CTX(pre_commit_(), "flush of the data device before the commit");
    }
    UTHIN_TRY_CTX(write_details(), "device details");
    UTHIN_TRY_CTX(open_->data_map.commit(), "data space map");
    // ORDER: after everything else that allocates metadata, and before its root is read.
    UTHIN_TRY_CTX(open_->tm.metadata_map().commit(), "metadata space map");
    publish();
    // ORDER: all blocks of the new state are durable before the superblock that points to them.
    UTHIN_TRY(blocks.write_dirty());
    UTHIN_TRY_CTX(blocks.flush(), "metadata flush");
    disk_superblock next = committed_;
    next.time = now_.time;
    next.trans_id = now_.transaction_id;
    next.held_root = now_.held.value();
    next.data_mapping_root = now_.mapping.value();
    next.device_details_root = now_.details.value();
    next.data_sm_root = open_->data_map.root();
    next.metadata_sm_root = open_->tm.metadata_map().root();
    next.data_sm_root_tail = {};
    next.metadata_sm_root_tail = {};
    return publish_superblock(next);
}

result<void> metadata::impl::publish_superblock(const disk_superblock& next) {
    const block_bytes bytes(superblock_page_.data(), metadata_block_size_bytes);
    thin_metadata::store_superblock(next, bytes);
    // ORDER: superblock last, and nothing else is written before it is durable.
    superblock_in_doubt_ = true;
    UTHIN_TRY(blocks.write_superblock(bytes));
    UTHIN_TRY_CTX(blocks.flush(), "flush of the superblock");
    superblock_in_doubt_ = false;
    durable_ = next;
    committed_ = next;
    return {};
}

void metadata::impl::transaction_is_durable() {
    const std::uint64_t transaction = open_transaction_.load();
    release_dead_views();
    const bool views = any_view();
    open_->data_map.committed_at(transaction, views);
    open_->tm.metadata_map().committed_at(transaction, views);
    open_->tm.committed();
    {
        const exclusive_lock guard(state_lock_);
        for (auto at = devices_.begin(); at != devices_.end();) {
            at->second->changed.store(false);
            at = at->second->open_count == 0 ? devices_.erase(at) : std::next(at);
        }
        refresh_counts();
        published_ = now_;
    }
    changed_devices_.store(0);
    dirty_ = false;
    durable_transaction_.store(transaction);
    open_transaction_.store(transaction + 1);
    commits_.fetch_add(1);
}

result<void> metadata::impl::commit() {
    if (auto allowed = writable(); !allowed) {
        return allowed;
    }
    if (!in_service_ || !dirty_) {
        return {};
    }
    in_batch_ = false;
    return or_broken([&]() -> result<void> {
        if (auto written = write_transaction(); !written) {
            broken_ = true;
            return written;
        }
        transaction_is_durable();
        return {};
    });
}

result<void> metadata::commit() {
    return impl_->commit();
}

result<void> metadata::write_back(std::uint64_t blocks_max) {
    UTHIN_TRY(impl_->writable());
    return impl_->or_broken([&]() -> result<void> {
        if (auto written = impl_->blocks.write_dirty(blocks_max); !written) {
            impl_->broken_ = true;
            return written;
        }
        return {};
    });
}

// ---- abort

result<void> metadata::impl::reload() {
    disk_superblock superblock;
    UTHIN_TRY(read_superblock(&superblock));
    // Quarantines go with the space maps, so that no view could be kept valid.
    revoke_all_views();
    {
        // Who looks something up meanwhile must not follow the roots that are thrown away: on the
        // device their blocks hold something older.
        const exclusive_lock guard(state_lock_);
        blocks.reset();
        published_.top_version = ++top_versions_;
        published_.mapping = metadata_block(superblock.data_mapping_root);
        published_.details = metadata_block(superblock.device_details_root);
    }
    UTHIN_TRY(load(superblock));
    std::vector<thin_device*> in_core;
    {
        const shared_lock guard(state_lock_);
        for (const auto& [id, device] : devices_) {
            in_core.push_back(device.get());
        }
    }
    for (thin_device* device : in_core) {
        const auto details = UTHIN_TRY(details_in(blocks, now_, device->id));
        if (device->changed.load()) {
            device->aborted_with_changes.store(true);
        }
        device->changed.store(false);
        device->last_change.store(0);
        device->creation_aborted.store(!details);
        device->set_details(details.value_or(device_details{}));
    }
    const exclusive_lock guard(state_lock_);
    std::erase_if(devices_, [](const auto& at) { return at.second->open_count == 0; });
    return {};
}

namespace {

bool same_state(const thin_metadata::disk_superblock& a, const thin_metadata::disk_superblock& b) {
    return a.data_mapping_root == b.data_mapping_root &&
           a.device_details_root == b.device_details_root && a.time == b.time &&
           a.trans_id == b.trans_id && a.held_root == b.held_root &&
           a.metadata_sm_root.bitmap_root == b.metadata_sm_root.bitmap_root &&
           a.data_sm_root.bitmap_root == b.data_sm_root.bitmap_root;
}

}  // namespace

result<void> metadata::impl::abort() {
    if (failed_.load()) {
        return fail(error_code::failed, "the pool is in fail mode; close it");
    }
    const bool was_read_only = blocks.read_only();
    const disk_superblock before = committed_;
    result<void> reloaded = or_out_of_memory([&] { return reload(); });
    restored_last_commit_ = reloaded && same_state(before, committed_);
    superblock_in_doubt_ = superblock_in_doubt_ && !same_state(durable_, committed_);
    blocks.set_read_only(was_read_only);
    changed_devices_.store(0);
    if (!reloaded) {
        failed_.store(true);
    }
    return reloaded;
}

result<void> metadata::abort() {
    return impl_->abort();
}

bool metadata::impl::has_changes() const {
    return dirty_ || broken_ || blocks.private_blocks() != 0 || blocks.dirty_blocks() != 0 ||
           open_->tm.metadata_map().has_pending();
}

// ---- batches

void metadata::begin_batch() {
    UTHIN_ASSERT(!impl_->in_batch_);
    impl_->in_batch_ = true;
}

void metadata::publish_batch() {
    impl_->in_batch_ = false;
    if (impl_->broken_ || failed()) {
        return;
    }
    const auto published = impl_->or_broken([&] {
        impl_->publish();
        return impl_->bound_dirty();
    });
    if (!published) {
        impl_->broken_ = true;
    }
}

// ---- modes and counters

result<void> metadata::impl::usable() const {
    if (failed_.load()) {
        return fail(error_code::failed, "the pool is in fail mode; close it");
    }
    return {};
}

result<void> metadata::impl::writable() const {
    UTHIN_TRY(usable());
    if (blocks.read_only()) {
        return fail(error_code::not_permitted, "the metadata is read-only");
    }
    if (broken_) {
        return fail(error_code::io_error,
                    "an earlier change failed half-way; abort the transaction");
    }
    if (superblock_in_doubt_) {
        // PM1: blocks that only the state before this one has would be used anew.
        return fail(error_code::not_permitted,
                    "the last commit may not be durable; record needs_check, or open it again");
    }
    return {};
}

void metadata::set_read_only() {
    impl_->blocks.set_read_only(true);
    impl_->read_only_.store(true);
}

void metadata::set_read_write() {
    if (!impl_->options.read_only) {
        impl_->blocks.set_read_only(false);
        impl_->read_only_.store(false);
    }
}

bool metadata::is_read_only() const noexcept {
    return impl_->read_only_.load();
}

bool metadata::failed() const noexcept {
    return impl_->failed_.load();
}

bool metadata::needs_check() const noexcept {
    return impl_->needs_check_.load();
}

result<void> metadata::set_needs_check() {
    UTHIN_TRY(impl_->usable());
    const bool again = impl_->needs_check_.exchange(true);
    if (impl_->options.read_only) {
        return fail(error_code::not_permitted, "opened read-only; needs_check cannot be recorded");
    }
    if (again && !impl_->has_changes()) {
        // A flush that failed sticks to the cache; all that it was for is written anew below.
        const exclusive_lock guard(impl_->state_lock_);
        impl_->blocks.reset();
    }
    disk_superblock flagged = impl_->committed_;
    flagged.flags = flagged.flags | thin_metadata::superblock_flag_needs_check;
    auto recorded = or_out_of_memory([&] { return impl_->publish_superblock(flagged); });
    if (!recorded && impl_->restored_last_commit_) {
        return or_out_of_memory([&]() -> result<void> {
            return fail(error_code::needs_check,
                        "needs_check cannot be recorded yet: " + recorded.error().message(),
                        recorded.error().os_errno());
        });
    }
    return recorded;
}

result<void> metadata::clear_needs_check() {
    UTHIN_TRY(impl_->usable());
    if (impl_->options.read_only) {
        return fail(error_code::not_permitted, "opened read-only; needs_check cannot be cleared");
    }
    disk_superblock cleared = impl_->committed_;
    cleared.flags = cleared.flags & ~thin_metadata::superblock_flag_needs_check;
    UTHIN_TRY(or_out_of_memory([&] { return impl_->publish_superblock(cleared); }));
    impl_->needs_check_.store(false);
    return {};
}

void metadata::set_metadata_threshold(std::uint64_t free_blocks, std::function<void()> crossed) {
    impl_->metadata_threshold_ = {free_blocks, std::move(crossed), true};
}

void metadata::set_data_threshold(std::uint64_t free_blocks, std::function<void()> crossed) {
    impl_->data_threshold_ = {free_blocks, std::move(crossed), true};
}

void metadata::set_freed_callback(std::function<void(data_block)> freed) {
    impl_->freed_ = std::move(freed);
}

void metadata::set_pre_commit(std::function<result<void>()> callback) {
    impl_->pre_commit_ = std::move(callback);
}

std::uint32_t metadata::data_block_size_sectors() const noexcept {
    return impl_->committed_.data_block_size_sectors;
}

result<space_counts> metadata::data_space() const {
    UTHIN_TRY(impl_->usable());
    const shared_lock guard(impl_->state_lock_);
    return impl_->published_.data_space;
}

result<space_counts> metadata::metadata_space() const {
    UTHIN_TRY(impl_->usable());
    const shared_lock guard(impl_->state_lock_);
    return impl_->published_.metadata_space;
}

result<bool> metadata::is_reserve_half_spent() const {
    UTHIN_TRY(impl_->usable());
    impl_->refresh_counts();
    return impl_->now_.metadata_space.raw_free_blocks < impl_->reserve_blocks() / 2;
}

std::uint64_t metadata::metadata_reserve_blocks() const noexcept {
    const shared_lock guard(impl_->state_lock_);
    return std::min(reserve_blocks_max, impl_->published_.metadata_space.total_blocks / 10);
}

result<std::uint64_t> metadata::metadata_device_blocks() const {
    return usable_blocks(impl_->device_);
}

result<std::uint64_t> metadata::transaction_id() const {
    UTHIN_TRY(impl_->usable());
    const shared_lock guard(impl_->state_lock_);
    return impl_->published_.transaction_id;
}

result<std::uint32_t> metadata::time() const {
    UTHIN_TRY(impl_->usable());
    const shared_lock guard(impl_->state_lock_);
    return impl_->published_.time;
}

result<void> metadata::set_transaction_id(std::uint64_t current, std::uint64_t next) {
    return impl_->mutate([&]() -> result<void> {
        if (impl_->now_.transaction_id != current) {
            return fail(error_code::invalid_argument,
                        fmt::format("the pool's transaction id is {}, not {}",
                                    impl_->now_.transaction_id, current));
        }
        impl_->now_.transaction_id = next;
        return {};
    });
}

result<void> metadata::resize_data(std::uint64_t blocks) {
    return impl_->mutate([&]() -> result<void> {
        const std::uint64_t old_blocks = impl_->open_->data_map.nr_blocks();
        if (blocks == old_blocks) {
            return {};
        }
        if (needs_check() && blocks > old_blocks) {
            return fail(
                error_code::invalid_argument,
                "the pool needs a check before it can grow; run `uthin pool check --repair`");
        }
        if (blocks >= thin_metadata::data_blocks_max) {
            return fail(error_code::invalid_argument,
                        fmt::format("{} data blocks, at most 2^40 can be addressed", blocks));
        }
        return impl_->open_->data_map.extend(blocks);
    });
}

result<void> metadata::resize_metadata(std::uint64_t blocks) {
    return impl_->mutate([&]() -> result<void> {
        persistent_data::space_map_metadata& map = impl_->open_->tm.metadata_map();
        if (blocks == map.nr_blocks()) {
            return {};
        }
        if (needs_check() && blocks > map.nr_blocks()) {
            return fail(
                error_code::invalid_argument,
                "the pool needs a check before it can grow; run `uthin pool check --repair`");
        }
        if (blocks > UTHIN_TRY(metadata_device_blocks())) {
            return fail(error_code::invalid_argument,
                        fmt::format("{} metadata blocks, the device has fewer", blocks));
        }
        if (blocks > map.nr_blocks()) {
            impl_->blocks.set_block_count(blocks);
        }
        return map.extend(blocks);
    });
}

std::uint64_t metadata::open_transaction() const noexcept {
    return impl_->open_transaction_.load();
}

std::uint64_t metadata::durable_transaction() const noexcept {
    return impl_->durable_transaction_.load();
}

bool metadata::changed_this_transaction() const noexcept {
    return impl_->changed_devices_.load() != 0;
}

bool metadata::has_changes() const {
    return impl_->has_changes();
}

metadata_statistics metadata::statistics() const {
    const persistent_data::block_manager& blocks = impl_->blocks;
    return {blocks.blocks_read(),   blocks.blocks_written(), blocks.superblock_writes(),
            impl_->commits_.load(), blocks.cached_blocks(),  blocks.dirty_blocks()};
}

}  // namespace uthin
