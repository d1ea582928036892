// Mappings: lookup, allocation, insert, removal, bulk loading.
#include <algorithm>

#include <fmt/format.h>

#include "base/assert.h"
#include "thin_metadata/pool_metadata.h"

namespace uthin {

using persistent_data::btree;
using thin_metadata::block_source;
using thin_metadata::mapping_block;
using thin_metadata::mapping_time;
using thin_metadata::metadata_roots;
using thin_metadata::pack_mapping;

// ---- what entries own

result<void> thin_metadata::top_rule::inc(const std::byte* values, std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i) {
        UTHIN_TRY(tm_.inc(metadata_block(load_le<std::uint64_t>(values + 8 * std::size_t{i}))));
    }
    return {};
}

result<void> thin_metadata::top_rule::dec(const std::byte* values, std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i) {
        const metadata_block root(load_le<std::uint64_t>(values + 8 * std::size_t{i}));
        UTHIN_TRY_CTX(bottom_.destroy(root), "mapping tree");
    }
    return {};
}

namespace {

// Runs of neighbouring data blocks are counted in one call.
template <class Apply>
result<void> for_each_run(const std::byte* values, std::uint32_t count, const Apply& apply) {
    std::uint32_t i = 0;
    while (i < count) {
        const std::uint64_t begin =
            mapping_block(load_le<std::uint64_t>(values + 8 * std::size_t{i})).value();
        std::uint64_t end = begin + 1;
        ++i;
        while (i < count &&
               mapping_block(load_le<std::uint64_t>(values + 8 * std::size_t{i})).value() == end) {
            ++end;
            ++i;
        }
        UTHIN_TRY(apply(begin, end));
    }
    return {};
}

}  // namespace

result<void> thin_metadata::bottom_rule::inc(const std::byte* values, std::uint32_t count) {
    return for_each_run(values, count, [this](std::uint64_t begin, std::uint64_t end) {
        return data_.inc(begin, end);
    });
}

result<void> thin_metadata::bottom_rule::dec(const std::byte* values, std::uint32_t count) {
    return for_each_run(values, count, [this](std::uint64_t begin, std::uint64_t end) {
        return data_.dec(begin, end);
    });
}

bool thin_metadata::bottom_rule::equal(const std::byte* a, const std::byte* b) const {
    return mapping_block(load_le<std::uint64_t>(a)) == mapping_block(load_le<std::uint64_t>(b));
}

// ---- lookup

namespace {

result<metadata_block> mapping_tree(block_source& source, metadata_block mapping_root,
                                    device_id id) {
    const auto root =
        UTHIN_TRY(persistent_data::btree_lookup_u64(source, mapping_root, id.value()));
    if (!root) {
        return fail(error_code::not_found, fmt::format("no device {} in the pool", id.value()));
    }
    return metadata_block(*root);
}

}  // namespace

namespace {

constexpr unsigned memo_root_bits = 24;
constexpr std::uint64_t memo_root_mask = (1ULL << memo_root_bits) - 1;
static_assert(metadata_blocks_max < 1ULL << memo_root_bits);

}  // namespace

// An old memo could be taken for a present one after 2^40 changes of the top tree only.
std::optional<metadata_block> metadata::impl::remembered_tree(const metadata_roots& roots,
                                                              const thin_device& device) noexcept {
    // relaxed: one word that says itself what it is good for.
    const std::uint64_t memo = device.tree_memo.load(std::memory_order_relaxed);
    const metadata_block root(memo & memo_root_mask);
    const bool is_of_roots = (memo & ~memo_root_mask) == roots.top_version << memo_root_bits;
    return is_of_roots && root.value() != 0 ? std::optional(root) : std::nullopt;
}

void metadata::impl::remember_tree(const metadata_roots& roots, const thin_device& device,
                                   metadata_block root) noexcept {
    if (root.value() <= memo_root_mask) {
        device.tree_memo.store(roots.top_version << memo_root_bits | root.value(),
                               std::memory_order_relaxed);
    }
}

result<metadata_block> metadata::impl::tree_in(block_source& source, const metadata_roots& roots,
                                               const thin_device& device) const {
    if (const auto remembered = remembered_tree(roots, device)) {
        return *remembered;
    }
    const metadata_block root = UTHIN_TRY(mapping_tree(source, roots.mapping, device.id));
    remember_tree(roots, device, root);
    return root;
}

result<std::optional<lookup_result>> metadata::impl::lookup_in(block_source& source,
                                                               metadata_block root,
                                                               const thin_device& device,
                                                               virtual_block block) {
    const auto packed = UTHIN_TRY(persistent_data::btree_lookup_u64(source, root, block.value()));
    if (!packed) {
        return std::nullopt;
    }
    return lookup_result{mapping_block(*packed),
                         device.snapshotted_time.load() > mapping_time(*packed)};
}

result<std::optional<lookup_result>> metadata::impl::lookup_published(block_source& source,
                                                                      const thin_device& device,
                                                                      virtual_block block) const {
    return lookup_in(source, UTHIN_TRY(tree_in(source, published_, device)), device, block);
}

result<std::optional<mapped_range>> metadata::impl::lookup_range(block_source& source,
                                                                 metadata_block mapping_root,
                                                                 const thin_device& device,
                                                                 range<virtual_block> within) {
    if (within.empty()) {
        return std::nullopt;
    }
    const metadata_block root = UTHIN_TRY(mapping_tree(source, mapping_root, device.id));
    persistent_data::btree_cursor cursor(source, root, 8);
    UTHIN_TRY(cursor.seek(within.begin.value()));
    if (cursor.at_end() || cursor.key() >= within.end.value()) {
        return std::nullopt;
    }
    const std::uint32_t snapshotted = device.snapshotted_time.load();
    mapped_range found;
    found.begin = virtual_block(cursor.key());
    found.end = found.begin + 1;
    found.data_begin = mapping_block(cursor.value_u64());
    found.maybe_shared = snapshotted > mapping_time(cursor.value_u64());
    while (true) {
        UTHIN_TRY(cursor.next());
        if (cursor.at_end() || cursor.key() >= within.end.value() ||
            cursor.key() != found.end.value()) {
            return found;
        }
        const std::uint64_t packed = cursor.value_u64();
        if (mapping_block(packed) != found.data_begin + (found.end - found.begin) ||
            (snapshotted > mapping_time(packed)) != found.maybe_shared) {
            return found;
        }
        ++found.end;
    }
}

result<std::optional<lookup_result>> metadata::find_block(const thin_device& device,
                                                          virtual_block block) const {
    return impl_->read_published(
        [&](block_source& source,
            const metadata_roots& roots) -> result<std::optional<lookup_result>> {
            const metadata_block root = UTHIN_TRY(impl_->tree_in(source, roots, device));
            return impl::lookup_in(source, root, device, block);
        });
}

result<std::optional<lookup_result>> metadata::find_cached(const thin_device& device,
                                                           virtual_block block) const {
    constexpr std::size_t prefetches_max = 128;
    return or_out_of_memory([&]() -> result<std::optional<lookup_result>> {
        thin_metadata::cached_source source(impl_->blocks);
        result<std::optional<lookup_result>> found = std::nullopt;
        {
            const shared_lock guard(impl_->state_lock_);
            UTHIN_TRY(impl_->usable());
            found = impl_->lookup_published(source, device, block);
        }
        if (!found && found.error().code() == error_code::would_block) {
            const lock_guard guard(impl_->prefetch_lock_);
            if (impl_->prefetches_.size() < prefetches_max) {
                impl_->prefetches_.emplace_back(source.missed(), source.missed_kind());
            }
        }
        return found;
    });
}

void metadata::issue_prefetches() const {
    std::vector<std::pair<metadata_block, thin_metadata::block_kind>> wanted;
    {
        const lock_guard guard(impl_->prefetch_lock_);
        wanted.swap(impl_->prefetches_);
    }
    if_memory_allows([&] {
        std::vector<metadata_block> nodes;
        for (const auto& [where, kind] : wanted) {
            if (kind == thin_metadata::block_kind::btree_node) {
                nodes.push_back(where);
            }
        }
        std::sort(nodes.begin(), nodes.end());
        nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
        impl_->blocks.prefetch(nodes, thin_metadata::block_kind::btree_node);
    });
}

result<std::optional<mapped_range>> metadata::find_mapped_range(const thin_device& device,
                                                                range<virtual_block> within) const {
    return impl_->read_published([&](block_source& source, const metadata_roots& roots) {
        return impl::lookup_range(source, roots.mapping, device, within);
    });
}

result<std::optional<lookup_result>> metadata::find_block_in_batch(const thin_device& device,
                                                                   virtual_block block) const {
    return or_out_of_memory([&]() -> result<std::optional<lookup_result>> {
        UTHIN_TRY(impl_->usable());
        auto& source = impl_->open_->tm.source();
        const metadata_block root = UTHIN_TRY(impl_->tree_in(source, impl_->now_, device));
        return impl::lookup_in(source, root, device, block);
    });
}

result<std::optional<mapped_range>> metadata::find_mapped_range_in_batch(
    const thin_device& device, range<virtual_block> within) const {
    return or_out_of_memory([&]() -> result<std::optional<mapped_range>> {
        UTHIN_TRY(impl_->usable());
        return impl::lookup_range(impl_->open_->tm.source(), impl_->now_.mapping, device, within);
    });
}

result<std::uint32_t> metadata::data_block_count(data_block block) const {
    return or_out_of_memory([&]() -> result<std::uint32_t> {
        UTHIN_TRY(impl_->usable());
        return impl_->open_->data_map.count(block.value());
    });
}

result<bool> metadata::block_is_shared(data_block block) const {
    return UTHIN_TRY(data_block_count(block)) > 1;
}

result<std::uint64_t> metadata::mapped_count(const thin_device& device) const {
    UTHIN_TRY(impl_->usable());
    return device.mapped_blocks.load();
}

result<std::optional<virtual_block>> metadata::highest_mapped_block(
    const thin_device& device) const {
    const auto key = UTHIN_TRY(impl_->read_published(
        [&](block_source& source,
            const metadata_roots& roots) -> result<std::optional<std::uint64_t>> {
            const metadata_block root = UTHIN_TRY(mapping_tree(source, roots.mapping, device.id));
            return persistent_data::btree_highest_key(source, root);
        }));
    return key ? std::optional(virtual_block(*key)) : std::nullopt;
}

// ---- changing

result<std::optional<range<data_block>>> metadata::hold_free_data(range<data_block> within,
                                                                  std::uint64_t count_max) {
    return or_out_of_memory([&]() -> result<std::optional<range<data_block>>> {
        UTHIN_TRY(impl_->usable());
        impl_->release_dead_views();
        return impl_->open_->data_map.hold_free(within, count_max);
    });
}

void metadata::release_held_data() {
    if (!failed()) {
        impl_->open_->data_map.release_held();
    }
}

result<data_block> metadata::alloc_data_block() {
    return UTHIN_TRY(alloc_data_range(1)).begin;
}

result<range<data_block>> metadata::alloc_data_range(std::uint64_t count_max) {
    return impl_->mutate([&]() -> result<range<data_block>> {
        impl_->make_metadata_room();
        const std::uint64_t count = std::max<std::uint64_t>(count_max, 1);
        auto allocated = impl_->open_->data_map.new_range(count);
        // Views keep blocks from being reused; the oldest goes first when that makes the pool full,
        // and not what is held only.
        while (!allocated && allocated.error().code() == error_code::no_data_space &&
               !impl_->open_->data_map.holds_some() &&
               impl_->open_->data_map.quarantine().kept_blocks() != 0) {
            impl_->release_dead_views();
            if (impl_->open_->data_map.quarantine().kept_blocks() != 0) {
                impl_->revoke_oldest();
            }
            allocated = impl_->open_->data_map.new_range(count);
        }
        return allocated;
    });
}

result<void> metadata::insert_block(thin_device& device, virtual_block block, data_block data) {
    const bool inserted =
        UTHIN_TRY(impl_->mutate([&] { return impl_->insert(device, block, data, nullptr); }));
    UTHIN_ASSERT(inserted);
    return {};
}

result<bool> metadata::insert_block_if(thin_device& device, virtual_block block,
                                       std::optional<data_block> present, data_block data) {
    return impl_->mutate([&] { return impl_->insert(device, block, data, &present); });
}

result<bool> metadata::impl::insert(thin_device& device, virtual_block block, data_block data,
                                    const std::optional<data_block>* present) {
    if (data.value() >= open_->data_map.nr_blocks()) {
        return fail(error_code::invalid_argument,
                    fmt::format("data block {} is beyond the device of {} blocks", data.value(),
                                open_->data_map.nr_blocks()));
    }
    make_metadata_room();
    std::array<std::byte, 8> entry{};
    store_le(entry.data(), pack_mapping(data, now_.time));
    const auto is_wanted = [present](const std::byte* value) {
        return present == nullptr ||
               (value == nullptr ? !present->has_value()
                                 : *present == mapping_block(load_le<std::uint64_t>(value)));
    };
    std::optional<btree::inserted> done;
    // A root that belongs to this transaction alone stays where it is, and the top tree as it is.
    const metadata_block tree = UTHIN_TRY(tree_of(device));
    if (open_->tm.is_exclusive_shadow(tree)) {
        done = UTHIN_TRY(open_->bottom.insert_if(tree, block.value(), entry.data(), is_wanted));
        UTHIN_ASSERT(!done || done->root == tree);
    } else {
        if (present != nullptr) {
            std::array<std::byte, 8> there{};
            const bool is_there = UTHIN_TRY(
                persistent_data::btree_lookup(open_->tm.source(), tree, block.value(), there));
            if (!is_wanted(is_there ? there.data() : nullptr)) {
                return false;
            }
        }
        top_changes();
        const auto change = [&](std::byte* value) -> result<void> {
            const metadata_block root(load_le<std::uint64_t>(value));
            done = UTHIN_TRY(open_->bottom.insert(root, block.value(), entry.data()));
            store_le(value, done->root.value());
            return {};
        };
        now_.mapping = UTHIN_TRY(open_->top.update(now_.mapping, device.id.value(), change));
    }
    if (!done) {
        return false;
    }
    if (done->is_new_key) {
        device.mapped_blocks.fetch_add(1);
    }
    mark_changed(device);
    return true;
}

result<void> metadata::remove_range(thin_device& device, range<virtual_block> blocks) {
    const virtual_block reached = UTHIN_TRY(remove_some(device, blocks, UINT64_MAX));
    (void)reached;
    return {};
}

result<virtual_block> metadata::remove_some(thin_device& device, range<virtual_block> blocks,
                                            std::uint64_t budget_blocks) {
    return impl_->mutate([&]() -> result<virtual_block> {
        if (blocks.empty()) {
            return blocks.end;
        }
        impl_->make_metadata_room();
        btree::removed done;
        const auto change = [&](std::byte* value) -> result<void> {
            const metadata_block root(load_le<std::uint64_t>(value));
            done = UTHIN_TRY(impl_->open_->bottom.remove_range(root, blocks.begin.value(),
                                                               blocks.end.value(), budget_blocks));
            store_le(value, done.root.value());
            return {};
        };
        impl_->top_changes();
        impl_->now_.mapping =
            UTHIN_TRY(impl_->open_->top.update(impl_->now_.mapping, device.id.value(), change));
        const std::uint64_t mapped = device.mapped_blocks.load();
        const bool some_left = !done.emptied && done.entries < mapped;
        device.mapped_blocks.store(some_left ? mapped - done.entries : 0);
        impl_->mark_changed(device);
        return virtual_block(done.next_key);
    });
}

result<void> metadata::inc_data_range(range<data_block> blocks) {
    return impl_->mutate(
        [&] { return impl_->open_->data_map.inc(blocks.begin.value(), blocks.end.value()); });
}

result<void> metadata::dec_data_range(range<data_block> blocks) {
    return impl_->mutate(
        [&] { return impl_->open_->data_map.dec(blocks.begin.value(), blocks.end.value()); });
}

// ---- bulk loading

result<void> metadata::build_device(device_id id, const device_details& details,
                                    const run_source& next) {
    return impl_->mutate([&]() -> result<void> {
        if (impl_->in_batch_) {
            return fail(error_code::invalid_argument, "a device cannot be built inside a batch");
        }
        UTHIN_TRY(impl_->check_vacant(id));
        auto built = impl_->build(id, details, next);
        if (!built) {
            impl_->broken_ = true;  // also when it is `next` that refused
        }
        return built;
    });
}

result<void> metadata::impl::build(device_id id, const device_details& details,
                                   const run_source& next) {
    // Published as it grows: nothing points to the new tree yet, so no reader can come across
    // it.
    constexpr std::uint64_t blocks_between_publishing = 1024;
    memo_.changed_everywhere(open_transaction_.load());
    persistent_data::btree_builder builder(open_->bottom);
    device_details built = details;
    built.mapped_blocks = 0;
    while (const auto run = UTHIN_TRY(next())) {
        UTHIN_TRY(
            open_->data_map.inc(run->data_begin.value(), run->data_begin.value() + run->count));
        for (std::uint64_t i = 0; i < run->count; ++i) {
            std::array<std::byte, 8> entry{};
            store_le(entry.data(), pack_mapping(run->data_begin + i, run->time));
            UTHIN_TRY(builder.push(run->begin.value() + i, entry.data()));
            if (blocks.private_blocks() > blocks_between_publishing) {
                publish_unreachable();
                UTHIN_TRY(bound_dirty());
            }
        }
        built.mapped_blocks += run->count;
    }
    UTHIN_TRY(insert_top(id, UTHIN_TRY(builder.finish())));
    return put_details(id, built);
}

}  // namespace uthin
