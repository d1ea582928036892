#include "schedules/small_pool.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include <fmt/format.h>

#include "base/mutex.h"
#include "base/result.h"
#include "pool/origin_mover.h"
#include "schedules/scheduler.h"
#include "support/forwarding_device.h"
#include "thin_metadata/checker.h"

namespace uthin::test {

namespace {

constexpr std::uint64_t metadata_bytes = 512 << 10;
constexpr std::uint64_t first_stamp = 1;

void must(const result<void>& done, const char* what) {
    if (!done) {
        throw std::runtime_error(std::string(what) + ": " + done.error().to_string());
    }
}

std::unique_ptr<block_device> lent(block_device& device) {
    class lent_device final : public forwarding_device {
    public:
        using forwarding_device::forwarding_device;
        [[nodiscard]] result<void> write_fua(std::uint64_t offset,
                                             std::span<const std::byte> buffer) override {
            return below().write_fua(offset, buffer);
        }
    };
    return std::make_unique<lent_device>(device);
}

std::vector<std::byte> filled(std::uint64_t stamp, std::uint64_t cells) {
    std::vector<std::byte> bytes(cells * cell_bytes);
    std::memcpy(bytes.data(), &stamp, sizeof(stamp));
    // Each copy doubles what is there.
    for (std::size_t done = sizeof(stamp); done < bytes.size(); done *= 2) {
        std::memcpy(bytes.data() + done, bytes.data(), std::min(done, bytes.size() - done));
    }
    return bytes;
}

std::uint64_t stamp_of(const std::byte* cell) {
    std::uint64_t stamp = 0;
    std::memcpy(&stamp, cell, sizeof(stamp));
    const bool uniform = std::memcmp(cell, cell + sizeof(stamp), cell_bytes - sizeof(stamp)) == 0;
    return uniform ? stamp : torn;
}

result<std::vector<std::uint64_t>> read_cells(volume& from, std::uint64_t first,
                                              std::uint64_t count) {
    std::vector<std::byte> bytes(count * cell_bytes, std::byte{0xee});
    UTHIN_TRY(from.read(first * cell_bytes, bytes));
    std::vector<std::uint64_t> stamps;
    for (std::uint64_t i = 0; i < count; ++i) {
        stamps.push_back(stamp_of(bytes.data() + i * cell_bytes));
    }
    return stamps;
}

}  // namespace

small_pool::small_pool(const small_pool_options& options)
    : options_(options),
      metadata_(metadata_bytes, "metadata"),
      data_(options.device_blocks * block_bytes, "data"),
      image_(cells_max * cell_bytes, "image") {
    prepare();
}

void small_pool::prepare() {
    std::uint64_t stamp = first_stamp;
    sizes_.fill(cells_max);
    for (std::uint64_t cell = 0; cell < cells_max; ++cell) {
        must(image_.write(cell * cell_bytes, filled(stamp, 1)), "image");
        beginning_[imaged].cells[cell] = stamp++;
    }
    open(false);
    const auto fill = [&](std::uint64_t number, std::uint64_t first, std::uint64_t count) {
        for (std::uint64_t cell = first; cell < first + count; ++cell) {
            must(opened(number).write(cell * cell_bytes, filled(stamp, 1)), "write");
            beginning_[number].cells[cell] = stamp++;
        }
    };
    for (const std::uint64_t number : {0U, 2U, 3U}) {
        must(pool_->create_thin(device_id(number)), "create");
    }
    fill(0, 2, 2);
    const snapshot_request shared{device_id(0), device_id(1)};
    must(pool_->create_snapshots({&shared, 1}), "snapshot");
    beginning_[1].cells = beginning_[0].cells;
    fill(0, 0, 2);
    fill(2, 0, 2);
    fill(imaged, 0, 4);
    for (const std::uint64_t number : {0U, 1U, 2U, 3U}) {
        beginning_[number].exists = true;
    }
    for (const std::uint64_t number : {0U, 2U, 3U}) {
        beginning_[number].open = 1;
    }
    if (const std::string failed = close(); !failed.empty()) {
        throw std::runtime_error(failed);
    }
    metadata_.keep();
    data_.keep();
    image_.keep();
}

void small_pool::reset(bool fast_write_zeroes) {
    metadata_.reset();
    data_.reset();
    image_.reset();
    data_.set_fast_write_zeroes(fast_write_zeroes);
    sizes_.fill(cells_max);
    needs_image_ = true;
}

void small_pool::set(const power_cut& cut) {
    metadata_.set(cut.metadata);
    data_.set(cut.data);
}

void small_pool::open(bool with_threads) {
    pool_options with;
    with.data_block_size_sectors = block_bytes / sector_size_bytes;
    with.format = true;
    with.data_blocks = options_.pool_blocks;
    with.metadata_cache_bytes = 1 << 20;
    with.mapping_cache_entries = 64;
    auto made = pool::open(lent(metadata_), lent(data_), with, scheduler::instance().time());
    if (!made) {
        throw std::runtime_error("open: " + made.error().to_string());
    }
    pool_ = std::move(*made);
    is_closed_ = false;
    if (with_threads) {
        must(pool_->start(), "start");
        for (const std::uint64_t number : {0U, 2U, 3U}) {
            must(open_volume(number), "open a volume");
        }
    }
}

result<void> small_pool::open_volume(std::uint64_t number) {
    volumes_[number] =
        UTHIN_TRY(pool_->open_volume(device_id(number), sizes_[number] * cell_bytes, false,
                                     number == imaged && needs_image_ ? lent(image_) : nullptr));
    return {};
}

volume& small_pool::opened(std::uint64_t number) {
    if (volumes_[number] == nullptr) {
        must(open_volume(number), "open a volume");
    }
    return *volumes_[number];
}

bool small_pool::has_failed() const {
    return pool_->mode() == pool_mode::fail;
}

pool_content small_pool::content() {
    pool_content found{};
    const auto devices = pool_->list_devices();
    if (!devices) {
        throw std::runtime_error("list: " + devices.error().to_string());
    }
    for (const thin_device_info& one : *devices) {
        volume_content& volume = found[one.id.value()];
        volume.exists = true;
        volume.size = sizes_[one.id.value()];
        const auto stamps = read_cells(opened(one.id.value()), 0, volume.size);
        if (!stamps) {
            throw std::runtime_error("read: " + stamps.error().to_string());
        }
        std::ranges::copy(*stamps, volume.cells.begin());
    }
    return found;
}

std::string small_pool::close() {
    volumes_.fill(nullptr);
    const auto closed = is_closed_ ? result<void>() : pool_->close();
    pool_.reset();
    return closed ? std::string() : "close: " + closed.error().to_string();
}

std::string small_pool::check(bool may_need_check) {
    const auto view = thin_metadata::open_offline(metadata_, {});
    if (!view) {
        return view.error().to_string();
    }
    const auto report = thin_metadata::check_metadata(**view, {});
    if (!report) {
        return report.error().to_string();
    }
    std::string text;
    if (!report->is_clean() || (report->needs_check && !may_need_check)) {
        text = "the metadata is not clean;";
        for (const auto& finding : report->findings) {
            text += " " + finding.text + ";";
        }
    }
    return text;
}

void small_pool::perform(request& one) {
    const scheduler& steps = scheduler::instance();
    one.begun = steps.step();
    const auto done = run(one);
    one.ended = steps.step();
    if (!done) {
        one.failure = done.error().code();
        one.message = done.error().to_string();
    } else if (one.cuts_power) {
        one.cut = {metadata_.after_power_cut(one.cut_keeps_cache), data_.after_power_cut(false)};
    }
}

result<void> small_pool::run(request& one) {
    volume* const on = volumes_[one.volume].get();
    const std::uint64_t offset = one.first * cell_bytes;
    switch (one.kind) {
        case request_kind::write: return on->write(offset, filled(one.value, one.count));
        case request_kind::write_fua: return on->write(offset, filled(one.value, one.count), true);
        case request_kind::read: one.seen = UTHIN_TRY(read_cells(*on, one.first, one.count)); break;
        case request_kind::discard: return on->discard(offset, one.count * cell_bytes);
        case request_kind::flush: return on->flush();
        case request_kind::set_size: {
            auto sized = on->set_size(one.value * cell_bytes);
            sizes_[one.volume] = on->size_bytes() / cell_bytes;
            return sized;
        }
        case request_kind::open: return open_volume(one.volume);
        case request_kind::close: volumes_[one.volume] = nullptr; break;
        default: return run_on_pool(one);
    }
    return {};
}

result<void> small_pool::run_on_pool(request& one) {
    switch (one.kind) {
        case request_kind::snapshot: {
            const snapshot_request wanted{device_id(one.volume), device_id(one.value)};
            return pool_->create_snapshots({&wanted, 1});
        }
        case request_kind::remove: return pool_->delete_thin(device_id(one.volume));
        case request_kind::remove_in_background:
            UTHIN_TRY(pool_->delete_in_background(device_id(one.volume)));
            return pool_->wait_for_deletion(device_id(one.volume));
        case request_kind::commit: return pool_->commit();
        case request_kind::grow: return pool_->grow_data(one.value);
        case request_kind::trim: static_cast<void>(UTHIN_TRY(pool_->trim())); break;
        case request_kind::reserve_metadata_snap: return pool_->reserve_metadata_snap();
        case request_kind::release_metadata_snap: return pool_->release_metadata_snap();
        case request_kind::check_view: return check_view();
        case request_kind::merge: return move(true);
        case request_kind::flatten: return move(false);
        case request_kind::close_pool: is_closed_ = true; return pool_->close();
        case request_kind::break_writes: return commit_with(&stepped_device::fail_writes);
        case request_kind::break_flushes: return commit_with(&stepped_device::fail_flushes);
        case request_kind::mend: return mend();
        case request_kind::fail_without_space: pool_->set_error_if_no_space(true); break;
        default: break;
    }
    return {};
}

result<void> small_pool::commit_with(void (stepped_device::*fail)(bool)) {
    (metadata_.*fail)(true);
    auto done = pool_->commit();
    (metadata_.*fail)(false);
    return done;
}

// A flush that failed is done with when the pool has noted that it needs a check, which it tries
// once a second.
result<void> small_pool::mend() {
    constexpr std::uint32_t attempts = 5;
    mutex lock;
    condition nobody;
    const lock_guard held(lock);
    auto done = pool_->clear_needs_check();
    for (std::uint32_t i = 1; i < attempts && !done; ++i) {
        static_cast<void>(nobody.wait_for(lock, std::chrono::seconds(2)));
        done = pool_->clear_needs_check();
    }
    return done;
}

result<void> small_pool::move(bool down) {
    using pool_engine::move_direction;
    using pool_engine::origin_mover;
    const auto mover = UTHIN_TRY(origin_mover::begin(
        down ? move_direction::down : move_direction::up, volumes_[imaged], {}, &image_));
    const auto finish = [&]() -> result<void> {
        needs_image_ = down;
        return {};
    };
    while (!UTHIN_TRY(mover->step(finish))) {
    }
    return {};
}

// A view is a commit's state, whatever goes on meanwhile.
result<void> small_pool::check_view() {
    const auto view = UTHIN_TRY(pool_->create_view());
    const auto report = UTHIN_TRY(thin_metadata::check_metadata(*view, {}));
    return report.is_clean() ? result<void>() : fail(error_code::corrupt, "a view is not clean");
}

}  // namespace uthin::test
