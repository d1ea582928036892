#include "pool/engine.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "pool/trimmer.h"

namespace uthin::pool_engine {

engine::engine(std::unique_ptr<block_device> metadata_device,
               std::unique_ptr<block_device> data_device, pool_options options, clock& time)
    : options_(std::move(options)),
      clock_(time),
      metadata_device_(std::move(metadata_device)),
      data_device_(std::move(data_device)),
      executor_(*this, options_.executor_batch),
      calls_([] {}),
      events_(time),
      trimmer_(std::make_unique<trimmer>(*this)),
      zero_new_blocks_(options_.zero_new_blocks),
      discard_(options_.discard),
      error_if_no_space_(options_.error_if_no_space),
      low_water_blocks_(options_.low_water_blocks),
      discard_bytes_per_s_(options_.discard_bytes_per_s),
      no_space_timeout_(options_.no_space_timeout) {
}

engine::~engine() {
    abandon();
}

void engine::abandon() {
    if (closed_.load()) {
        return;
    }
    begin_closing();
    drain(calls_);
    for_each_open([](volume_state& state) { state.tickets.close_for_good(); });
    trimmer_->stop();
    executor_.stop();
    closed_.store(true);
}

// Whoever waits for something to happen stops waiting.
void engine::begin_closing() {
    closing_.store(true);
    events_.stop();
    const lock_guard held(mode_lock_);
    space_.notify_all();
}

void engine::drain(io_tickets& tickets) {
    tickets.close_for_good();
    while (!tickets.drained(true)) {
        lock_guard held(mode_lock_);
        space_.wait_for(mode_lock_, std::chrono::milliseconds(1));
    }
}

result<void> engine::start() {
    UTHIN_TRY(executor_.start());
    return trimmer_->start();
}

result<void> engine::open() {
    uthin::metadata_options with;
    with.data_block_size_sectors = options_.data_block_size_sectors;
    with.format = options_.format && !options_.read_only;
    with.read_only = options_.read_only;
    with.cache_bytes = options_.metadata_cache_bytes;
    metadata_ = UTHIN_TRY(uthin::metadata::open(*metadata_device_, with));
    block_bytes_ = std::uint64_t{metadata_->data_block_size_sectors()} * sector_size_bytes;
    block_shift_ = std::has_single_bit(block_bytes_)
                       ? static_cast<std::uint32_t>(std::countr_zero(block_bytes_))
                       : 0;

    // ORDER: PO1. The data of new mappings is on the device before the metadata that names it.
    metadata_->set_pre_commit([this]() -> result<void> {
        auto flushed = data_device_->flush();
        data_flush_failed_ = !flushed;
        return flushed;
    });

    metadata_->set_freed_callback([this](data_block block) {
        if (!giving_back_) {
            trimmer_->freed(block);
        }
    });
    const std::uint64_t device_blocks = UTHIN_TRY(data_device_->size_bytes()) / block_bytes_;
    space_counts data = UTHIN_TRY(metadata_->data_space());
    if (data.total_blocks == 0 && with.format) {
        const std::uint64_t wanted =
            options_.data_blocks == 0 ? device_blocks : options_.data_blocks;
        UTHIN_TRY_CTX(metadata_->resize_data(wanted), "formatting");
        UTHIN_TRY_CTX(metadata_->commit(), "formatting");
        data = UTHIN_TRY(metadata_->data_space());
    }
    if (data.total_blocks > device_blocks) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: {} blocks of {} KiB, but the pool has {}; is it the right "
                                "data device?",
                                data_device_->name(), device_blocks, block_bytes_ / 1024,
                                data.total_blocks));
    }
    data_blocks_.store(data.total_blocks);
    watch_thresholds();

    if (options_.read_only) {
        set_mode(pool_mode::read_only, "opened read-only");
    } else if (metadata_->needs_check()) {
        metadata_->set_read_only();
        set_mode(pool_mode::read_only, "the metadata needs a check (uthin pool check --repair)");
    } else {
        judge_space();
    }
    return {};
}

// The watermark is the kernel's: a quarter of the metadata device, at most 1024 blocks.
void engine::watch_thresholds() {
    constexpr std::uint64_t watermark_max = 1024;
    const auto blocks = metadata_->metadata_device_blocks();
    metadata_low_watermark_.store(blocks ? std::min(watermark_max, *blocks / 4) : 0);
    metadata_->set_data_threshold(low_water_blocks_.load(), [this] {
        if_memory_allows([this] {
            raise(pool_event::low_data_space,
                  fmt::format("only {} data blocks are free", low_water_blocks_.load()));
        });
    });
}

// Requests in flight may still need the executor, so it goes on until the last ticket ended.
result<void> engine::close() {
    if (closed_.load()) {
        return {};
    }
    begin_closing();
    // Calls first: some of them take tickets.
    drain(calls_);
    for_each_open([this](volume_state& state) { drain(state.tickets); });
    trimmer_->stop();
    executor_.stop();
    record_needs_check();
    result<void> committed;
    if (may_delete()) {
        committed = or_out_of_memory([this] { return commit_all(); });
    }
    result<void> devices = close_devices();
    closed_.store(true);
    result<void> ended = metadata_->close();
    if (!committed) {
        return committed;
    }
    // After a failure there is nothing left to write; that it failed was told already.
    return mode() == pool_mode::fail ? result<void>() : (devices ? ended : devices);
}

}  // namespace uthin::pool_engine
