#include "support/pool_targets.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "pool/target_message.h"
#include "pool/target_status.h"
#include "support/device_mapper.h"
#include "support/pool_rig.h"
#include "uthin/metadata.h"

namespace uthin::test {

namespace {

int errno_of(const result<void>& done) {
    return done ? 0 : done.error().to_errno();
}

// A device that a table names; ENODEV or ENXIO in `missing` when there is none.
std::shared_ptr<block_device> named_device(const device_mapper& mapper, const std::string& path,
                                           int& missing) {
    auto found = mapper.find(path);
    if (found == nullptr) {
        missing = path.find(':') != std::string::npos ? ENXIO : ENODEV;
    }
    return found;
}

}  // namespace

live_pool::live_pool(device_mapper& mapper, mapped_device& owner,
                     std::shared_ptr<block_device> metadata, std::shared_ptr<block_device> data,
                     pool_table table)
    : mapper_(mapper),
      owner_(owner),
      metadata_(std::move(metadata)),
      data_(std::move(data)),
      table_(std::move(table)) {
}

live_pool::~live_pool() {
    thins_.clear();
    if (engine_ != nullptr) {
        static_cast<void>(engine_->close());
    }
    mapper_.pools().erase(metadata_.get());
}

pool_options live_pool::options_of(const pool_table& table) const {
    pool_options options;
    options.zero_new_blocks = !table.features.skip_block_zeroing;
    options.discard = table.features.ignore_discard        ? discard_mode::ignore
                      : table.features.no_discard_passdown ? discard_mode::no_passdown
                                                           : discard_mode::passdown;
    options.error_if_no_space = table.features.error_if_no_space;
    options.no_space_timeout = mapper_.no_space_timeout();
    options.low_water_blocks = table.low_water_blocks;
    options.remember_partial_discards = mapper_.dialect() != table_dialect::strict_kernel;
    options.read_only = table.features.read_only;
    // A pool of no blocks is formatted already, and is not to get the whole device.
    options.format = !table.features.read_only && table.data_blocks() != 0;
    options.data_block_size_sectors = table.block_size_sectors;
    options.data_blocks = table.data_blocks();
    options.on_event = [this](pool_event) { owner_.count_event(); };
    return options;
}

int live_pool::inspect() {
    auto opened = metadata::open(*metadata_, {.data_block_size_sectors = table_.block_size_sectors,
                                              .format = !table_.features.read_only,
                                              .read_only = table_.features.read_only});
    if (!opened) {
        return opened.error().to_errno();
    }
    const auto data = (*opened)->data_space();
    const auto blocks = (*opened)->metadata_space();
    if (!data || !blocks) {
        return EIO;
    }
    recorded_data_blocks_ = data->total_blocks;
    recorded_metadata_blocks_ = blocks->total_blocks;
    return errno_of((*opened)->close());
}

int live_pool::open_engine(const pool_table& table) {
    if (table.data_blocks() < recorded_data_blocks_) {
        return EINVAL;
    }
    const std::uint64_t on_device = *metadata_->size_bytes() / metadata_block_size_bytes;
    if (std::min(on_device, metadata_blocks_max) < recorded_metadata_blocks_) {
        return EINVAL;
    }
    auto opened =
        pool::open(std::make_unique<borrowed_device>(*metadata_),
                   std::make_unique<borrowed_device>(*data_), options_of(table), system_clock());
    if (!opened) {
        return opened.error().to_errno();
    }
    engine_ = std::move(*opened);
    if (auto started = engine_->start(); !started) {
        return started.error().to_errno();
    }
    const std::lock_guard held(lock_);
    for (auto& [id, entry] : thins_) {
        static_cast<void>(open_handle(id, entry));
    }
    return 0;
}

int live_pool::apply_features(const pool_table& table) {
    engine_->set_zero_new_blocks(!table.features.skip_block_zeroing);
    engine_->set_low_water(table.low_water_blocks);
    engine_->set_error_if_no_space(table.features.error_if_no_space);
    return errno_of(engine_->set_discard(options_of(table).discard));
}

// A read-only pool, and one that needs a check, keep their sizes.
int live_pool::apply_sizes(const pool_table& table) {
    const auto status = engine_->status();
    if (!status) {
        return 0;
    }
    if (table.data_blocks() < status->data_total_blocks) {
        return EINVAL;
    }
    const std::uint64_t on_device =
        std::min(*metadata_->size_bytes() / metadata_block_size_bytes, metadata_blocks_max);
    if (on_device < status->metadata_total_blocks) {
        return EINVAL;
    }
    if (status->needs_check || status->mode == pool_mode::read_only) {
        return 0;
    }
    if (on_device > status->metadata_total_blocks) {
        if (auto grown = engine_->grow_metadata(); !grown) {
            return grown.error().to_errno();
        }
    }
    return table.data_blocks() == status->data_total_blocks
               ? 0
               : errno_of(engine_->grow_data(table.data_blocks()));
}

int live_pool::bind(const pool_table& next) {
    if (engine_ != nullptr && engine_->mode() == pool_mode::fail) {
        return 0;
    }
    if (engine_ != nullptr && next.features.read_only != table_.features.read_only) {
        {
            const std::lock_guard held(lock_);
            for (auto& [id, entry] : thins_) {
                entry.handle.reset();
            }
        }
        static_cast<void>(engine_->close());
        engine_.reset();
        if (const int refused = inspect(); refused != 0) {
            return refused;
        }
    }
    if (engine_ == nullptr) {
        if (const int refused = open_engine(next); refused != 0) {
            return refused;
        }
    }
    table_ = next;
    if (const int refused = apply_features(next); refused != 0) {
        return refused;
    }
    return apply_sizes(next);
}

void live_pool::commit() {
    if (engine_ != nullptr) {
        static_cast<void>(engine_->commit());
    }
}

int live_pool::message(const std::string& text) {
    if (engine_ == nullptr) {
        return EINVAL;
    }
    if (auto taken = takes_messages(engine_->mode()); !taken) {
        return taken.error().to_errno();
    }
    const auto parsed = parse_target_message(text);
    return parsed ? errno_of(apply_target_message(*engine_, *parsed)) : parsed.error().to_errno();
}

std::string live_pool::status(bool noflush) {
    const auto status = engine_->status(!noflush);
    return status ? pool_status_line(*status) : status_line_of_failure(status.error());
}

// ---- thins

int live_pool::open_handle(device_id id, open_thin_entry& entry) {
    entry.handle.reset();
    std::unique_ptr<block_device> origin;
    if (entry.origin != nullptr) {
        origin = std::make_unique<borrowed_device>(*entry.origin);
    }
    auto opened = engine_->open_volume(id, entry.size_bytes, false, std::move(origin));
    if (!opened) {
        return opened.error().to_errno();
    }
    entry.handle = std::move(*opened);
    return 0;
}

// Mappings beyond the end of a shorter table stay, so the volume is as long as the longest one.
int live_pool::open_thin(device_id id, std::uint64_t size_bytes,
                         std::shared_ptr<block_device> origin) {
    const std::lock_guard held(lock_);
    open_thin_entry& entry = thins_[id];
    if (entry.handle == nullptr) {
        entry.size_bytes = size_bytes;
        entry.origin = std::move(origin);
        if (const int refused = open_handle(id, entry); refused != 0) {
            if (entry.tables == 0) {
                thins_.erase(id);
            }
            return refused;
        }
    } else if (size_bytes > entry.size_bytes) {
        entry.size_bytes = size_bytes;
        if (auto grown = entry.handle->set_size(size_bytes); !grown) {
            return grown.error().to_errno();
        }
    }
    ++entry.tables;
    return 0;
}

void live_pool::close_thin(device_id id) {
    const std::lock_guard held(lock_);
    if (--thins_.at(id).tables == 0) {
        thins_.erase(id);
    }
}

void live_pool::resume_thin(device_id id) {
    const std::lock_guard held(lock_);
    open_thin_entry& entry = thins_.at(id);
    if (entry.origin != nullptr) {
        static_cast<void>(open_handle(id, entry));
    }
}

std::shared_ptr<volume> live_pool::thin(device_id id) {
    const std::lock_guard held(lock_);
    const auto at = thins_.find(id);
    return at == thins_.end() ? nullptr : at->second.handle;
}

// ---- targets

namespace {

class pool_target final : public target {
public:
    pool_target(target_line line, std::shared_ptr<live_pool> pool, pool_table table)
        : target(std::move(line)), pool_(std::move(pool)), table_(std::move(table)) {}

    [[nodiscard]] const std::shared_ptr<live_pool>& shared() const { return pool_; }

    // The pool's device is the data device as it is.
    result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        return pool_->data().read(offset, buffer);
    }
    result<void> write(std::uint64_t offset, std::span<const std::byte> buffer) override {
        return pool_->data().write(offset, buffer);
    }
    result<void> discard(std::uint64_t offset, std::uint64_t length) override {
        return pool_->data().discard(offset, length);
    }
    result<void> flush() override { return pool_->data().flush(); }

    [[nodiscard]] bool fits() const override {
        return length_bytes() <= *pool_->data().size_bytes();
    }
    [[nodiscard]] int before_resume() override { return pool_->bind(table_); }
    void after_suspend() override { pool_->commit(); }
    [[nodiscard]] int message(const std::string& text) override { return pool_->message(text); }
    [[nodiscard]] std::string status(bool noflush) override { return pool_->status(noflush); }
    [[nodiscard]] std::string table() const override { return table_status_line(table_); }

private:
    const std::shared_ptr<live_pool> pool_;
    const pool_table table_;
};

class thin_target final : public target {
public:
    thin_target(target_line line, std::shared_ptr<mapped_device> device,
                std::shared_ptr<live_pool> pool, thin_table table)
        : target(std::move(line)),
          device_(std::move(device)),
          pool_(std::move(pool)),
          table_(std::move(table)) {
        device_->hold();
    }
    ~thin_target() override {
        pool_->close_thin(table_.id);
        device_->let_go();
    }

    result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        return with_volume([&](volume& from) { return from.read(offset, buffer); });
    }
    result<void> write(std::uint64_t offset, std::span<const std::byte> buffer) override {
        return with_volume([&](volume& to) { return to.write(offset, buffer); });
    }
    result<void> discard(std::uint64_t offset, std::uint64_t length) override {
        return with_volume([&](volume& of) { return of.discard(offset, length); });
    }
    result<void> flush() override {
        return with_volume([](volume& of) { return of.flush(); });
    }
    [[nodiscard]] bool can_discard() const override {
        return !pool_->table().features.ignore_discard;
    }

    [[nodiscard]] int before_resume() override {
        pool_->resume_thin(table_.id);
        return 0;
    }
    [[nodiscard]] std::string status(bool) override {
        const auto open = pool_->thin(table_.id);
        if (open == nullptr || pool_->engine()->mode() == pool_mode::fail) {
            return "Fail";
        }
        const auto mapped = open->mapped_blocks();
        const auto highest = open->highest_mapped_block();
        if (!mapped || !highest) {
            return "Error";
        }
        return thin_status_line(*mapped, *highest, pool_->engine()->data_block_size_sectors());
    }
    [[nodiscard]] std::string table() const override { return table_status_line(table_); }
    [[nodiscard]] const mapped_device* waits_for() const override { return device_.get(); }

private:
    template <class Do>
    result<void> with_volume(const Do& act) {
        const auto open = pool_->thin(table_.id);
        return open == nullptr ? fail(error_code::io_error, "the pool is gone") : act(*open);
    }

    const std::shared_ptr<mapped_device> device_;
    const std::shared_ptr<live_pool> pool_;
    const thin_table table_;
};

}  // namespace

int make_pool_target(device_mapper& mapper, mapped_device& owner, const target_line& line,
                     std::unique_ptr<target>& made) {
    const auto parsed = parse_pool_table(line, mapper.dialect());
    if (!parsed) {
        return parsed.error().to_errno();
    }
    pool_table table = *parsed;
    int missing = 0;
    const auto metadata = named_device(mapper, table.metadata_device, missing);
    const auto data = named_device(mapper, table.data_device, missing);
    if (missing != 0) {
        return missing;
    }
    std::shared_ptr<live_pool> live;
    for (const auto& [device, weak] : mapper.pools()) {
        const auto pool = weak.lock();
        if (pool != nullptr && device == metadata.get() && &pool->owner() != &owner) {
            return EBUSY;
        }
        if (pool != nullptr && &pool->owner() == &owner) {
            live = pool;
        }
    }
    if (live != nullptr) {
        if (auto taken = check_pool_reload(live->table(), table, mapper.dialect()); !taken) {
            return taken.error().to_errno();
        }
        table.block_size_sectors = live->table().block_size_sectors;
    } else {
        live = std::make_shared<live_pool>(mapper, owner, metadata, data, table);
        if (const int refused = live->inspect(); refused != 0) {
            return refused;
        }
        mapper.pools()[metadata.get()] = live;
    }
    made = std::make_unique<pool_target>(line, live, table);
    return 0;
}

int make_thin_target(device_mapper& mapper, const target_line& line,
                     std::unique_ptr<target>& made) {
    const auto table = parse_thin_table(line);
    if (!table) {
        return table.error().to_errno();
    }
    int missing = 0;
    std::shared_ptr<block_device> origin;
    if (!table->external_origin.empty()) {
        origin = named_device(mapper, table->external_origin, missing);
    }
    if (missing == 0) {
        static_cast<void>(named_device(mapper, table->pool_device, missing));
    }
    if (missing != 0) {
        return missing;
    }
    const auto device = mapper.find_mapped(table->pool_device);
    const auto targets = device == nullptr ? nullptr : device->live();
    const auto* under =
        targets == nullptr ? nullptr : dynamic_cast<const pool_target*>(targets->front().get());
    if (under == nullptr || device->suspended()) {
        return EINVAL;
    }
    const auto pool = under->shared();
    if (pool->engine() == nullptr || pool->engine()->mode() == pool_mode::fail) {
        return EINVAL;
    }
    const std::uint64_t size_bytes = table->length_sectors * sector_size_bytes;
    if (const int refused = pool->open_thin(table->id, size_bytes, std::move(origin));
        refused != 0) {
        return refused;
    }
    made = std::make_unique<thin_target>(line, device, pool, *table);
    return 0;
}

}  // namespace uthin::test
