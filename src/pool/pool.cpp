// The public face of a pool.
#include "uthin/pool.h"

#include "base/out_of_memory.h"
#include "pool/engine.h"
#include "pool/trimmer.h"

namespace uthin {

std::string_view to_string(pool_mode mode) noexcept {
    switch (mode) {
        case pool_mode::write: return "write";
        case pool_mode::out_of_data_space: return "out_of_data_space";
        case pool_mode::out_of_metadata_space: return "out_of_metadata_space";
        case pool_mode::read_only: return "read_only";
        case pool_mode::fail: return "fail";
    }
    return "unknown";
}

std::string_view to_string(pool_event event) noexcept {
    switch (event) {
        case pool_event::low_data_space: return "low_data_space";
        case pool_event::low_metadata_space: return "low_metadata_space";
        case pool_event::mode_changed: return "mode_changed";
        case pool_event::no_space_timeout: return "no_space_timeout";
    }
    return "unknown";
}

pool::pool(std::shared_ptr<pool_engine::engine> engine) : engine_(std::move(engine)) {
}

pool::~pool() {
    engine_->abandon();
}

result<std::unique_ptr<pool>> pool::open(std::unique_ptr<block_device> metadata_device,
                                         std::unique_ptr<block_device> data_device,
                                         pool_options options, clock& time) {
    return or_out_of_memory([&]() -> result<std::unique_ptr<pool>> {
        auto engine = std::make_shared<pool_engine::engine>(
            std::move(metadata_device), std::move(data_device), std::move(options), time);
        UTHIN_TRY(engine->open());
        return std::unique_ptr<pool>(new pool(std::move(engine)));
    });
}

result<void> pool::start() {
    return or_out_of_memory([&] { return engine_->start(); });
}

result<void> pool::close() {
    return or_out_of_memory([&] { return engine_->close(); });
}

result<void> pool::create_thin(device_id id) {
    return or_out_of_memory([&] { return engine_->create_thin(id); });
}

result<void> pool::create_snapshots(std::span<const snapshot_request> requests) {
    return or_out_of_memory([&] { return engine_->create_snapshots(requests); });
}

result<void> pool::delete_thin(device_id id) {
    return or_out_of_memory([&] { return engine_->delete_thin(id); });
}

result<void> pool::delete_in_background(device_id id) {
    return or_out_of_memory([&] { return engine_->delete_in_background(id); });
}

std::vector<deletion_status> pool::deletions() const {
    return engine_->deletions();
}

result<void> pool::wait_for_deletion(device_id id) {
    return or_out_of_memory([&] { return engine_->wait_for_deletion(id); });
}

result<void> pool::rollback(device_id id, device_id to_snapshot, device_id graveyard_id) {
    return or_out_of_memory([&] { return engine_->rollback(id, to_snapshot, graveyard_id); });
}

result<std::shared_ptr<volume>> pool::open_volume(device_id id, std::uint64_t size_bytes,
                                                  bool read_only,
                                                  std::unique_ptr<block_device> external_origin) {
    return or_out_of_memory([&]() -> result<std::shared_ptr<volume>> {
        std::shared_ptr<pool_engine::external_origin> origin;
        if (external_origin != nullptr) {
            origin = UTHIN_TRY(pool_engine::external_origin::make(std::move(external_origin)));
        }
        return engine_->open_volume(id, size_bytes, read_only, std::move(origin));
    });
}

result<std::vector<thin_device_info>> pool::list_devices() const {
    return or_out_of_memory([&]() -> result<std::vector<thin_device_info>> {
        UTHIN_TRY(engine_->alive());
        return engine_->metadata().list_devices();
    });
}

result<void> pool::commit() {
    return or_out_of_memory([&]() -> result<void> {
        UTHIN_TRY(engine_->alive());
        return engine_->commit_all();
    });
}

result<pool_status> pool::status(bool commit_first) {
    return or_out_of_memory([&] { return engine_->status(commit_first); });
}

pool_counters pool::counters() const {
    return engine_->counters();
}

pool_mode pool::mode() const noexcept {
    return engine_->mode();
}

std::string pool::mode_cause() const {
    return engine_->mode_cause();
}

std::uint32_t pool::data_block_size_sectors() const noexcept {
    return static_cast<std::uint32_t>(engine_->block_bytes() / sector_size_bytes);
}

std::uint64_t pool::data_block_size_bytes() const noexcept {
    return engine_->block_bytes();
}

block_device& pool::data_device() noexcept {
    return engine_->data();
}

result<void> pool::grow_data(std::uint64_t blocks) {
    return or_out_of_memory([&] { return engine_->grow_data(blocks); });
}

result<void> pool::grow_metadata(std::uint64_t blocks) {
    return or_out_of_memory([&] { return engine_->grow_metadata(blocks); });
}

void pool::set_low_water(std::uint64_t blocks) {
    engine_->set_low_water(blocks);
}

void pool::set_zero_new_blocks(bool zero) {
    engine_->set_zero_new_blocks(zero);
}

result<void> pool::clear_needs_check() {
    return or_out_of_memory([&] { return engine_->clear_needs_check(); });
}

result<void> pool::repair_leaks() {
    return or_out_of_memory([&] { return engine_->repair_leaks(); });
}

pool_events pool::events(std::uint64_t number, std::chrono::nanoseconds wait) const {
    return engine_->events().after(number, wait);
}

void pool::set_no_space_timeout(std::chrono::nanoseconds timeout) {
    engine_->set_no_space_timeout(timeout);
}

void pool::set_error_if_no_space(bool error_out) {
    engine_->set_error_if_no_space(error_out);
}

result<void> pool::set_discard(discard_mode mode) {
    return or_out_of_memory([&] { return engine_->set_discard(mode); });
}

void pool::set_discard_rate(std::uint64_t bytes_per_s) {
    engine_->set_discard_rate(bytes_per_s);
}

result<void> pool::set_space_policies(std::map<device_id, space_policy> policies, bool must_fit) {
    return or_out_of_memory([&]() -> result<void> {
        UTHIN_TRY(engine_->alive());
        return engine_->set_space_policies(std::move(policies), must_fit);
    });
}

result<std::uint64_t> pool::trim() {
    return or_out_of_memory([&]() -> result<std::uint64_t> {
        UTHIN_TRY(engine_->alive());
        return engine_->space_trimmer().trim();
    });
}

result<void> pool::reserve_metadata_snap() {
    return or_out_of_memory([&]() -> result<void> {
        UTHIN_TRY(engine_->alive());
        return engine_->reserve_metadata_snap();
    });
}

result<void> pool::release_metadata_snap() {
    return or_out_of_memory([&]() -> result<void> {
        UTHIN_TRY(engine_->alive());
        return engine_->run([this] { return engine_->metadata().release_metadata_snap(); },
                            {.alone = true, .commit = true});
    });
}

result<std::optional<metadata_block>> pool::metadata_snap() const {
    return or_out_of_memory([&]() -> result<std::optional<metadata_block>> {
        UTHIN_TRY(engine_->alive());
        return engine_->metadata().metadata_snap();
    });
}

result<void> pool::set_transaction_id(std::uint64_t current, std::uint64_t next) {
    return or_out_of_memory([&]() -> result<void> {
        UTHIN_TRY(engine_->alive());
        return engine_->run(
            [&, this] { return engine_->metadata().set_transaction_id(current, next); },
            {.alone = true, .commit = true});
    });
}

result<std::shared_ptr<thin_metadata::metadata_view>> pool::create_view() {
    return or_out_of_memory([&]() -> result<std::shared_ptr<thin_metadata::metadata_view>> {
        UTHIN_TRY(engine_->alive());
        std::shared_ptr<thin_metadata::metadata_view> view;
        UTHIN_TRY(engine_->run(
            [&, this]() -> result<void> {
                view = UTHIN_TRY(engine_->metadata().create_view());
                return {};
            },
            {.needs = pool_engine::engine::need::nothing,
             .alone = true,
             .counts_as_change = false}));
        return view;
    });
}

result<void> pool::with_metadata(const std::function<result<void>(metadata&)>& change) {
    return or_out_of_memory([&]() -> result<void> {
        UTHIN_TRY(engine_->alive());
        return engine_->run(
            [&, this] { return change(engine_->metadata()); },
            {.needs = pool_engine::engine::need::nothing, .alone = true, .may_only_read = true});
    });
}

}  // namespace uthin
