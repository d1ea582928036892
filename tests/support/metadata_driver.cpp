#include "support/metadata_driver.h"

#include <algorithm>
#include <array>
#include <limits>

#include <fmt/format.h>

#include "base/endian.h"
#include "base/result.h"

namespace uthin::test {

namespace {

constexpr std::uint32_t data_block_size_sectors = 128;
constexpr std::size_t complaints_max = 20;

// An open device that is closed at the end of the operation.
class opened_device {
public:
    opened_device(metadata& pool, thin_device* device) : pool_(pool), device_(device) {}
    opened_device(const opened_device&) = delete;
    opened_device& operator=(const opened_device&) = delete;
    ~opened_device() { pool_.close_device(device_); }
    [[nodiscard]] thin_device& operator*() const { return *device_; }

private:
    metadata& pool_;
    thin_device* device_;
};

std::string lookup_complaint(std::uint64_t id, std::uint64_t block, const mapped_block* expected,
                             const std::optional<lookup_result>& found) {
    if (found.has_value() != (expected != nullptr)) {
        return fmt::format("device {} block {} is {}", id, block, found ? "mapped" : "not mapped");
    }
    if (found && found->block.value() != expected->data) {
        return fmt::format("device {} block {} is at {}, expected {}", id, block,
                           found->block.value(), expected->data);
    }
    return {};
}

const mapped_block* find_mapping(const device_states& devices, std::uint64_t id,
                                 std::uint64_t block) {
    const auto device = devices.find(id);
    if (device == devices.end()) {
        return nullptr;
    }
    const auto mapping = device->second.mappings.find(block);
    return mapping != device->second.mappings.end() ? &mapping->second : nullptr;
}

}  // namespace

const char* to_string(pool_operation operation) {
    constexpr std::array<const char*, pool_operation_count> names = {
        "write_new",     "overwrite",       "overwrite_shared",
        "overwrite_fua", "discard",         "create",
        "snapshot",      "remove",          "commit",
        "resize_data",   "resize_metadata", "metadata_snapshot",
        "rollback",      "replace",         "transaction_id",
        "write_run",     "discard_run",     "discard_slice",
        "build",         "needs_check",     "flush_data",
        "abort",         "reopen",          "begin_batch",
        "end_batch"};
    return names[static_cast<std::size_t>(operation)];
}

std::vector<std::byte> stamped_block(std::uint64_t content) {
    std::vector<std::byte> bytes(stamped_block_bytes);
    for (std::size_t sector = 0; sector < stamped_block_bytes / sector_size_bytes; ++sector) {
        for (std::size_t at = 0; at < sector_size_bytes; at += 16) {
            store_le(bytes.data() + sector * sector_size_bytes + at, content);
            store_le<std::uint64_t>(bytes.data() + sector * sector_size_bytes + at + 8, sector);
        }
    }
    return bytes;
}

metadata_driver::metadata_driver(block_device& metadata_device, block_device& data,
                                 const driver_options& options)
    : metadata_device_(metadata_device),
      data_device_(data),
      options_(options),
      random_(options.seed) {
}

metadata_driver::~metadata_driver() = default;

result<void> metadata_driver::open_pool(bool format) {
    pool_.reset();
    pool_ = UTHIN_TRY(
        metadata::open(metadata_device_, {.data_block_size_sectors = data_block_size_sectors,
                                          .format = format,
                                          .cache_bytes = options_.cache_bytes}));
    if (options_.flush_data_before_commit) {
        pool_->set_pre_commit([this]() -> result<void> {
            const std::uint64_t written = content_;
            UTHIN_TRY(data_device_.flush());
            data_flushes_.push_back({written, options_.sequence()});
            return {};
        });
    }
    return {};
}

result<void> metadata_driver::format(std::uint64_t data_blocks) {
    UTHIN_TRY(open_pool(true));
    UTHIN_TRY(pool_->resize_data(data_blocks));
    now_.data_blocks = data_blocks;
    now_.metadata_blocks = UTHIN_TRY(pool_->metadata_space()).total_blocks;
    return commit();
}

result<void> metadata_driver::open(const pool_state& state) {
    UTHIN_TRY(open_pool(false));
    now_ = state;
    committed_at(options_.sequence());
    return {};
}

// ---- committing

std::vector<bool> metadata_driver::data_used(const pool_state& state) const {
    std::vector<bool> used(options_.data_blocks_max);
    const auto mark = [&](const device_states& devices) {
        for (const auto& [id, device] : devices) {
            for (const auto& [block, mapping] : device.mappings) {
                used.at(mapping.data) = true;
            }
        }
    };
    mark(state.devices);
    if (state.held != nullptr) {
        mark(*state.held);
    }
    return used;
}

void metadata_driver::committed_at(std::uint64_t begin) {
    // Without a recording only the last one is ever asked for.
    if (options_.sequence() == 0) {
        committed_.clear();
    }
    committed_.push_back({begin, options_.sequence(), now_});
    committed_data_ = data_used(now_);
    if (pool_->durable_transaction() != durable_transaction_) {
        durable_transaction_ = pool_->durable_transaction();
        forget_dead_views();
        blocks_may_be_kept_ = !views_.empty();
    }
    options_.on_commit();
}

result<void> metadata_driver::commit() {
    end_batch();
    const std::uint64_t begin = options_.sequence();
    UTHIN_TRY(pool_->commit());
    committed_at(begin);
    return {};
}

result<void> metadata_driver::abort() {
    end_batch();
    UTHIN_TRY(pool_->abort());
    now_ = committed_.back().state;
    // What was written in place is not undone by an abort.
    for (auto& [id, device] : now_.devices) {
        for (auto& [block, mapping] : device.mappings) {
            const auto written = in_place_.find(mapping.data);
            if (mapping.content != 0 && written != in_place_.end()) {
                mapping.content = std::max(mapping.content, written->second.back());
            }
        }
    }
    return {};
}

result<void> metadata_driver::close() {
    end_batch();
    const std::uint64_t begin = options_.sequence();
    UTHIN_TRY(pool_->close());
    committed_at(begin);
    pool_.reset();
    return {};
}

result<void> metadata_driver::reopen() {
    UTHIN_TRY(close());
    return open_pool(false);
}

void metadata_driver::restart_recording() {
    committed_.erase(committed_.begin(), committed_.end() - 1);
    committed_.back().begin = 0;
    committed_.back().end = 0;
    data_flushes_ = {{content_, 0}};
    fua_.clear();
}

std::vector<const pool_state*> metadata_driver::allowed_after(std::uint64_t operations) const {
    std::vector<const pool_state*> allowed;
    for (const commit_record& record : committed_) {
        if (record.end <= operations) {
            allowed = {&record.state};
        } else if (record.begin <= operations) {
            allowed.push_back(&record.state);
        }
    }
    return allowed;
}

std::uint64_t metadata_driver::duties_after(std::uint64_t operations) const {
    std::uint64_t duties = 0;
    for (const commit_record& record : committed_) {
        duties += (record.end <= operations ? 1U : 0U) + (record.begin <= operations ? 1U : 0U);
    }
    for (const fua_write& flush : data_flushes_) {
        duties += flush.acknowledged <= operations ? 1U : 0U;
    }
    for (const auto& [block, writes] : fua_) {
        for (const fua_write& write : writes) {
            duties += write.acknowledged <= operations ? 1U : 0U;
        }
    }
    return duties;
}

// ---- operations

pool_operation metadata_driver::any_operation() {
    return static_cast<pool_operation>(random_.below(pool_operation_count));
}

result<void> metadata_driver::step(pool_operation operation) {
    result<void> done = run(operation);
    if (done) {
        return done;
    }
    switch (done.error().code()) {
        case error_code::no_data_space: ++refusals_; return {};
        case error_code::no_metadata_space: ++full_aborts_; return abort();
        default: return done;
    }
}

result<void> metadata_driver::run(pool_operation operation) {
    using op = pool_operation;
    switch (operation) {
        case op::write_new:
        case op::overwrite:
        case op::overwrite_shared:
        case op::overwrite_fua: return write_kind(operation);
        case op::create: return create(unused_device());
        case op::snapshot: return snapshot(unused_device(), any_device());
        case op::remove: return remove();
        case op::commit: return commit();
        case op::resize_data: return resize_data();
        case op::resize_metadata: return resize_metadata();
        case op::metadata_snapshot: return toggle_metadata_snapshot();
        case op::rollback: return rollback();
        case op::replace: return replace();
        case op::transaction_id: return change_transaction_id();
        case op::write_run:
            return write(any_device(), random_.below(options_.span_blocks),
                         1 + random_.below(options_.run_blocks_max));
        case op::build: return build();
        case op::needs_check: return toggle_needs_check();
        case op::flush_data: {
            const std::uint64_t written = content_;
            UTHIN_TRY(data_device_.flush());
            data_flushes_.push_back({written, options_.sequence()});
            return {};
        }
        case op::abort: return abort();
        case op::reopen: return reopen();
        case op::begin_batch:
            if (!in_batch_) {
                pool_->begin_batch();
                in_batch_ = true;
                before_batch_ = now_.devices;
            }
            return {};
        case op::end_batch: end_batch(); return {};
        case op::discard:
        case op::discard_run:
        case op::discard_slice: break;
    }
    const std::uint64_t begin = random_.below(options_.span_blocks);
    const std::uint64_t count =
        operation == op::discard ? 1 + random_.below(2) : 1 + random_.below(options_.span_blocks);
    const std::uint64_t budget = operation == op::discard_slice
                                     ? 1 + random_.below(6)
                                     : std::numeric_limits<std::uint64_t>::max();
    return discard(any_device(), begin, begin + count, budget);
}

void metadata_driver::end_batch() {
    if (in_batch_) {
        if (std::string text = published_complaint(); !text.empty()) {
            complain("during a batch: " + text);
        }
        pool_->publish_batch();
        in_batch_ = false;
        before_batch_.clear();
    }
}

// Readers see the state before the batch.
std::string metadata_driver::published_complaint() {
    for (const auto& [id, device] : before_batch_) {
        if (!now_.devices.contains(id)) {
            continue;
        }
        auto opened = pool_->open_device(device_id(id));
        if (!opened) {
            return opened.error().to_string();
        }
        const opened_device open(*pool_, *opened);
        const std::uint64_t block = random_.below(options_.span_blocks);
        const auto found = pool_->find_block(*open, virtual_block(block));
        if (!found) {
            return found.error().to_string();
        }
        if (std::string text =
                lookup_complaint(id, block, find_mapping(before_batch_, id, block), *found);
            !text.empty()) {
            return text;
        }
    }
    return {};
}

result<void> metadata_driver::write_kind(pool_operation operation) {
    const std::uint64_t id = any_device();
    const auto device = now_.devices.find(id);
    if (device == now_.devices.end()) {
        return {};
    }
    const std::uint64_t start = random_.below(options_.span_blocks);
    const bool fua = operation == pool_operation::overwrite_fua;
    for (std::uint64_t i = 0; i < options_.span_blocks; ++i) {
        const std::uint64_t block = (start + i) % options_.span_blocks;
        const auto mapping = device->second.mappings.find(block);
        const bool mapped = mapping != device->second.mappings.end();
        const bool shared =
            mapped && device->second.details.snapshotted_time > mapping->second.time;
        const bool wanted = operation == pool_operation::write_new          ? !mapped
                            : operation == pool_operation::overwrite_shared ? shared
                                                                            : mapped && !shared;
        if (wanted) {
            return write(id, block, 1, fua);
        }
    }
    return write(id, start, 1, fua);
}

result<void> metadata_driver::write(std::uint64_t id, std::uint64_t block, std::uint64_t count,
                                    bool fua) {
    if (!now_.devices.contains(id)) {
        return {};
    }
    const opened_device device(*pool_, UTHIN_TRY(pool_->open_device(device_id(id))));
    const std::uint64_t end = std::min(block + count, options_.span_blocks);
    for (; block < end; ++block) {
        UTHIN_TRY(write_block(*device, block, fua));
    }
    return {};
}

void metadata_driver::check_allocated(std::uint64_t block) {
    if (committed_data_.at(block)) {
        complain(
            fmt::format("data block {} was given out although the last commit maps it", block));
    }
    forget_dead_views();
    for (const watched_view& watched : views_) {
        if (watched.data.at(block)) {
            complain(fmt::format("data block {} was given out although a view maps it", block));
        }
    }
}

void metadata_driver::forget_dead_views() {
    std::erase_if(views_, [](const watched_view& watched) {
        const auto view = watched.view.lock();
        return view == nullptr || view->expired();
    });
}

result<void> metadata_driver::write_block(thin_device& device, std::uint64_t block, bool fua) {
    device_state& model = now_.devices.at(metadata::id_of(device).value());
    const auto mapping = model.mappings.find(block);
    const auto found =
        UTHIN_TRY(in_batch_ ? pool_->find_block_in_batch(device, virtual_block(block))
                            : pool_->find_block(device, virtual_block(block)));
    if (std::string text =
            lookup_complaint(metadata::id_of(device).value(), block,
                             mapping != model.mappings.end() ? &mapping->second : nullptr, found);
        !text.empty()) {
        complain(std::move(text));
        return {};
    }
    if (found && !found->shared) {
        // Looks at every mapping, so not always in a large pool.
        constexpr std::uint64_t always_below = 200;
        const bool look = options_.span_blocks < always_below || random_.one_in(always_below);
        if (look && now_.references(mapping->second.data) != 1) {
            complain(fmt::format("data block {} has several owners, but is called unshared",
                                 mapping->second.data));
        }
        return write_in_place(mapping->second, fua);
    }
    const std::uint64_t content = ++content_;
    const data_block data = UTHIN_TRY(pool_->alloc_data_block());
    check_allocated(data.value());
    if (options_.write_data) {
        UTHIN_TRY(data_device_.write(data.value() * stamped_block_bytes, stamped_block(content)));
    }
    const auto present = found ? std::optional(found->block) : std::nullopt;
    if (!UTHIN_TRY(pool_->insert_block_if(device, virtual_block(block), present, data))) {
        complain("a mapping that was as expected was not replaced");
    }
    if (!found) {
        ++model.details.mapped_blocks;
    }
    const std::uint64_t stamp = options_.write_data ? content : 0;
    model.mappings[block] = {data.value(), now_.time, stamp, stamp};
    return {};
}

result<void> metadata_driver::write_in_place(mapped_block& mapping, bool fua) {
    if (!options_.write_data) {
        return {};
    }
    const std::uint64_t content = ++content_;
    const std::uint64_t offset = mapping.data * stamped_block_bytes;
    in_place_[mapping.data].push_back(content);
    if (fua) {
        UTHIN_TRY(data_device_.write_fua(offset, stamped_block(content)));
        fua_[mapping.data].push_back({content, options_.sequence()});
    } else {
        UTHIN_TRY(data_device_.write(offset, stamped_block(content)));
    }
    mapping.content = content;
    return {};
}

result<void> metadata_driver::create(std::uint64_t id) {
    if (now_.devices.contains(id)) {
        return {};
    }
    UTHIN_TRY(pool_->create_thin(device_id(id)));
    now_.devices[id].details = {0, now_.transaction_id, now_.time, now_.time};
    return {};
}

result<void> metadata_driver::snapshot(std::uint64_t id, std::uint64_t origin) {
    if (now_.devices.contains(id) || !now_.devices.contains(origin)) {
        return {};
    }
    UTHIN_TRY(pool_->create_snap(device_id(id), device_id(origin)));
    ++now_.time;
    device_state& from = now_.devices.at(origin);
    from.details.snapshotted_time = now_.time;
    device_state copy = from;
    copy.details.transaction_id = now_.transaction_id;
    copy.details.creation_time = now_.time;
    now_.devices[id] = std::move(copy);
    return {};
}

result<void> metadata_driver::remove() {
    const std::uint64_t id = any_device();
    if (!now_.devices.contains(id)) {
        return {};
    }
    UTHIN_TRY(pool_->delete_thin(device_id(id)));
    now_.devices.erase(id);
    return {};
}

result<void> metadata_driver::discard(std::uint64_t id, std::uint64_t begin, std::uint64_t end,
                                      std::uint64_t budget) {
    if (!now_.devices.contains(id)) {
        return {};
    }
    const opened_device device(*pool_, UTHIN_TRY(pool_->open_device(device_id(id))));
    const range<virtual_block> blocks{virtual_block(begin), virtual_block(end)};
    const virtual_block reached = UTHIN_TRY(pool_->remove_some(*device, blocks, budget));
    if (reached.value() > end || reached.value() < begin ||
        (budget == std::numeric_limits<std::uint64_t>::max() && reached.value() != end)) {
        complain(fmt::format("removing [{}, {}) of device {} got to {}", begin, end, id,
                             reached.value()));
    }
    device_state& model = now_.devices.at(id);
    model.mappings.erase(model.mappings.lower_bound(begin),
                         model.mappings.lower_bound(reached.value()));
    model.details.mapped_blocks = model.mappings.size();
    return {};
}

result<void> metadata_driver::resize_data() {
    const std::uint64_t blocks = now_.data_blocks + options_.grow_blocks;
    if (blocks > options_.data_blocks_max || now_.needs_check) {
        return {};
    }
    UTHIN_TRY(pool_->resize_data(blocks));
    now_.data_blocks = blocks;
    return {};
}

result<void> metadata_driver::resize_metadata() {
    const std::uint64_t blocks = now_.metadata_blocks + options_.grow_blocks;
    if (blocks > options_.metadata_blocks_max || now_.needs_check) {
        return {};
    }
    const std::uint64_t size_bytes = UTHIN_TRY(metadata_device_.size_bytes());
    if (blocks * metadata_block_size_bytes > size_bytes) {
        UTHIN_TRY(metadata_device_.grow(blocks * metadata_block_size_bytes));
    }
    UTHIN_TRY(pool_->resize_metadata(blocks));
    now_.metadata_blocks = blocks;
    return {};
}

result<void> metadata_driver::toggle_metadata_snapshot() {
    end_batch();
    if (now_.held != nullptr) {
        UTHIN_TRY(pool_->release_metadata_snap());
        now_.held = nullptr;
        return {};
    }
    const std::uint64_t begin = options_.sequence();
    const std::uint64_t durable = pool_->durable_transaction();
    const result<void> reserved = pool_->reserve_metadata_snap();
    if (reserved || pool_->durable_transaction() != durable) {
        committed_at(begin);
    }
    UTHIN_TRY(reserved);
    now_.held = std::make_shared<const device_states>(now_.devices);
    return {};
}

result<void> metadata_driver::rollback() {
    const std::uint64_t id = any_device();
    const std::uint64_t source = any_device();
    const std::uint64_t graveyard = unused_device();
    if (id == source || !now_.devices.contains(id) || now_.devices.contains(graveyard)) {
        return {};
    }
    UTHIN_TRY(pool_->swap_root(device_id(id), device_id(source), device_id(graveyard)));
    ++now_.time;
    device_state buried = now_.devices.at(id);
    buried.details = {buried.mappings.size(), now_.transaction_id, now_.time, now_.time};
    now_.devices[graveyard] = std::move(buried);
    device_state& target = now_.devices.at(id);
    target.mappings = now_.devices.at(source).mappings;
    target.details.mapped_blocks = target.mappings.size();
    target.details.snapshotted_time = now_.time;
    now_.devices.at(source).details.snapshotted_time = now_.time;
    return {};
}

result<void> metadata_driver::replace() {
    const std::uint64_t id = any_device();
    const std::uint64_t donor = any_device();
    const std::uint64_t graveyard = unused_device();
    if (id == donor || !now_.devices.contains(id) || now_.devices.contains(graveyard)) {
        return {};
    }
    UTHIN_TRY(pool_->replace_root(device_id(id), device_id(donor), device_id(graveyard)));
    device_state buried = now_.devices.at(id);
    buried.details = {buried.mappings.size(), now_.transaction_id, now_.time, now_.time};
    now_.devices[graveyard] = std::move(buried);
    device_state given = std::move(now_.devices.at(donor));
    now_.devices.erase(donor);
    device_state& target = now_.devices.at(id);
    target.details.mapped_blocks = given.details.mapped_blocks;
    target.details.snapshotted_time = given.details.snapshotted_time;
    target.mappings = std::move(given.mappings);
    return {};
}

result<void> metadata_driver::change_transaction_id() {
    UTHIN_TRY(pool_->set_transaction_id(now_.transaction_id, now_.transaction_id + 1));
    ++now_.transaction_id;
    return {};
}

// A device from runs, as restore makes them; its blocks are allocated first.
result<void> metadata_driver::build() {
    end_batch();
    const std::uint64_t id = unused_device();
    if (now_.devices.contains(id)) {
        return {};
    }
    const range<data_block> blocks =
        UTHIN_TRY(pool_->alloc_data_range(1 + random_.below(options_.run_blocks_max)));
    device_state built;
    built.details = {0, now_.transaction_id, now_.time, now_.time};
    for (std::uint64_t i = 0; i < blocks.count(); ++i) {
        const data_block data = blocks.begin + i;
        const std::uint64_t content = ++content_;
        check_allocated(data.value());
        if (options_.write_data) {
            UTHIN_TRY(
                data_device_.write(data.value() * stamped_block_bytes, stamped_block(content)));
        }
        const std::uint64_t stamp = options_.write_data ? content : 0;
        built.mappings[2 * i] = {data.value(), now_.time, stamp, stamp};
    }
    built.details.mapped_blocks = built.mappings.size();
    auto at = built.mappings.begin();
    const auto next = [&]() -> result<std::optional<mapping_run>> {
        if (at == built.mappings.end()) {
            return std::nullopt;
        }
        const mapping_run run{virtual_block(at->first), data_block(at->second.data), 1,
                              at->second.time};
        ++at;
        return run;
    };
    UTHIN_TRY(pool_->build_device(device_id(id), built.details, next));
    UTHIN_TRY(pool_->dec_data_range(blocks));
    now_.devices[id] = std::move(built);
    return {};
}

// Written at once, whatever the open transaction holds.
result<void> metadata_driver::toggle_needs_check() {
    end_batch();
    const bool wanted = !now_.needs_check;
    const std::uint64_t begin = options_.sequence();
    UTHIN_TRY(wanted ? pool_->set_needs_check() : pool_->clear_needs_check());
    pool_state flagged = committed_.back().state;
    flagged.needs_check = wanted;
    if (options_.sequence() == 0) {
        committed_.clear();
    }
    committed_.push_back({begin, options_.sequence(), std::move(flagged)});
    now_.needs_check = wanted;
    return {};
}

std::uint64_t metadata_driver::any_device() {
    if (now_.devices.empty()) {
        return 0;
    }
    auto at = now_.devices.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(now_.devices.size())));
    return at->first;
}

// An id in use when all are.
std::uint64_t metadata_driver::unused_device() const {
    for (std::uint64_t id = 0; id < options_.devices_max; ++id) {
        if (!now_.devices.contains(id)) {
            return id;
        }
    }
    return 0;
}

// ---- complaints

void metadata_driver::complain(std::string text) {
    if (complaints_.size() < complaints_max) {
        complaints_.push_back(std::move(text));
    }
}

std::string metadata_driver::data_complaint(const pool_state& state, block_device& data,
                                            std::uint64_t operations) const {
    std::uint64_t flushed = 0;
    for (const fua_write& flush : data_flushes_) {
        flushed = flush.acknowledged <= operations ? std::max(flushed, flush.content) : flushed;
    }
    std::vector<std::byte> bytes(stamped_block_bytes);
    for (const auto& [id, device] : state.devices) {
        for (const auto& [block, mapping] : device.mappings) {
            std::uint64_t oldest = mapping.first_content;
            const auto written = in_place_.find(mapping.data);
            if (written != in_place_.end()) {
                for (const std::uint64_t content : written->second) {
                    oldest = content <= flushed ? std::max(oldest, content) : oldest;
                }
            }
            if (const auto fua = fua_.find(mapping.data); fua != fua_.end()) {
                for (const fua_write& write : fua->second) {
                    oldest =
                        write.acknowledged <= operations ? std::max(oldest, write.content) : oldest;
                }
            }
            if (auto done = data.read(mapping.data * stamped_block_bytes, bytes); !done) {
                return done.error().to_string();
            }
            for (std::size_t sector = 0; sector < 8; ++sector) {
                const std::byte* at = bytes.data() + sector * sector_size_bytes;
                const auto content = load_le<std::uint64_t>(at);
                const bool legal =
                    load_le<std::uint64_t>(at + 8) == sector &&
                    (content == oldest || (content > oldest && written != in_place_.end() &&
                                           std::find(written->second.begin(), written->second.end(),
                                                     content) != written->second.end()));
                if (mapping.first_content != 0 && !legal) {
                    return fmt::format(
                        "device {} block {} sector {} (data block {}) holds write "
                        "{}, expected {} or a later one in place",
                        id, block, sector, mapping.data, content, oldest);
                }
            }
        }
    }
    return {};
}

std::string metadata_driver::counter_complaint() {
    const auto data = pool_->data_space();
    const auto transaction = pool_->transaction_id();
    const auto time = pool_->time();
    if (!data || !transaction || !time) {
        return "counters cannot be read";
    }
    const auto used = static_cast<std::uint64_t>(
        std::count(committed_data_.begin(), committed_data_.end(), true));
    const std::uint64_t expected = now_.data_blocks - used;
    if (data->total_blocks != now_.data_blocks || data->free_blocks > expected ||
        (!blocks_may_be_kept_ && data->free_blocks != expected)) {
        return fmt::format("{} of {} data blocks free, expected {} of {}", data->free_blocks,
                           data->total_blocks, expected, now_.data_blocks);
    }
    if (*transaction != now_.transaction_id || *time != now_.time) {
        return fmt::format("transaction id {} time {}, expected {} and {}", *transaction, *time,
                           now_.transaction_id, now_.time);
    }
    if (pool_->needs_check() != now_.needs_check) {
        return "needs_check is wrong";
    }
    return {};
}

std::string metadata_driver::live_complaint() {
    const auto listed = pool_->list_devices();
    if (!listed || listed->size() != now_.devices.size()) {
        return "the list of devices is wrong";
    }
    std::vector<std::byte> bytes(stamped_block_bytes);
    for (const thin_device_info& info : *listed) {
        const auto model = now_.devices.find(info.id.value());
        if (model == now_.devices.end() || model->second.details != info.details) {
            return fmt::format("device {}: details differ", info.id.value());
        }
        auto opened = pool_->open_device(info.id);
        if (!opened) {
            return opened.error().to_string();
        }
        const opened_device device(*pool_, *opened);
        const auto highest = pool_->highest_mapped_block(*device);
        const auto& mappings = model->second.mappings;
        if (!highest || highest->has_value() == mappings.empty() ||
            (*highest && highest->value().value() != mappings.rbegin()->first)) {
            return fmt::format("device {}: the highest mapped block is wrong", info.id.value());
        }
        for (std::uint64_t block = 0; block < options_.span_blocks; ++block) {
            const mapped_block* expected = find_mapping(now_.devices, info.id.value(), block);
            const auto found = pool_->find_block(*device, virtual_block(block));
            if (!found) {
                return found.error().to_string();
            }
            if (std::string text = lookup_complaint(info.id.value(), block, expected, *found);
                !text.empty()) {
                return text;
            }
            if (expected == nullptr || expected->content == 0) {
                continue;
            }
            if (auto done = data_device_.read(expected->data * stamped_block_bytes, bytes); !done) {
                return done.error().to_string();
            }
            if (bytes != stamped_block(expected->content)) {
                return fmt::format("device {} block {}: data block {} does not hold write {}",
                                   info.id.value(), block, expected->data, expected->content);
            }
        }
    }
    return {};
}

result<std::shared_ptr<thin_metadata::metadata_view>> metadata_driver::create_view() {
    auto view = UTHIN_TRY(pool_->create_view());
    views_.push_back({view, committed_data_});
    blocks_may_be_kept_ = true;
    return view;
}

}  // namespace uthin::test
