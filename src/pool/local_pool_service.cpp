// pool_service over a pool that this process has open.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/result.h"
#include "pool/names.h"
#include "pool/pool_directory.h"

namespace uthin {

namespace {

constexpr std::uint64_t preferred_bytes_max = 32ULL << 20;

class local_volume_data final : public volume_data {
public:
    local_volume_data(std::shared_ptr<volume> open, std::uint64_t block_bytes)
        : volume_(std::move(open)), block_bytes_(block_bytes) {}

    [[nodiscard]] std::uint64_t size_bytes() const override { return volume_->size_bytes(); }
    [[nodiscard]] std::uint64_t preferred_bytes() const override {
        return std::min(block_bytes_, preferred_bytes_max);
    }
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override {
        return volume_->read(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override {
        return volume_->write(offset_bytes, buffer);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override {
        return volume_->write_zeroes(offset_bytes, length_bytes);
    }
    [[nodiscard]] result<void> flush() override { return volume_->flush(); }
    [[nodiscard]] result<std::vector<volume_extent>> extents(std::uint64_t offset_bytes,
                                                             std::uint64_t length_bytes) override {
        return volume_->block_status(offset_bytes, length_bytes);
    }

private:
    std::shared_ptr<volume> volume_;
    std::uint64_t block_bytes_;
};

class local_pool_service final : public pool_service {
public:
    explicit local_pool_service(pool_directory& directory) : directory_(directory) {}
    explicit local_pool_service(std::unique_ptr<pool_directory> directory)
        : owned_(std::move(directory)), directory_(*owned_) {}

    [[nodiscard]] result<pool_report> status() override { return directory_.report(); }
    [[nodiscard]] result<target_lines> kernel_lines() override { return directory_.kernel_lines(); }
    [[nodiscard]] result<target_lines> kernel_lines_of(std::string_view name) override {
        return directory_.kernel_lines(name);
    }
    [[nodiscard]] result<events_reply> events(const events_request& request) override {
        return directory_.events(request);
    }
    [[nodiscard]] result<void> message(std::string_view text) override {
        return directory_.message(text);
    }
    [[nodiscard]] result<pool_report> grow(const grow_request& request) override {
        UTHIN_TRY(directory_.grow(request));
        return directory_.report();
    }
    [[nodiscard]] result<std::uint64_t> trim() override { return directory_.trim(); }
    [[nodiscard]] result<check_reply> check(const check_request& request) override {
        return directory_.check(request);
    }
    [[nodiscard]] result<pool_report> set(
        const std::map<std::string, std::string>& settings) override {
        UTHIN_TRY(directory_.set(settings));
        return directory_.report();
    }
    [[nodiscard]] result<metadata_snapshot_reply> metadata_snapshot(
        const metadata_snapshot_request& request) override {
        return directory_.metadata_snapshot(request);
    }
    [[nodiscard]] result<volume_info> create_volume(const create_volume_request& request) override {
        return directory_.create_volume(request);
    }
    [[nodiscard]] result<std::vector<volume_info>> list_volumes() override {
        return directory_.list_with_usage();
    }
    [[nodiscard]] result<volume_info> show_volume(std::string_view name) override {
        return directory_.show_with_usage(name);
    }
    [[nodiscard]] result<volume_info> rename_volume(std::string_view name,
                                                    std::string_view new_name) override {
        return directory_.rename(name, new_name);
    }
    [[nodiscard]] result<volume_info> resize_volume(std::string_view name,
                                                    std::uint64_t size_bytes) override {
        return directory_.resize(name, size_bytes);
    }
    [[nodiscard]] result<volume_info> set_volume(const set_volume_request& request) override {
        return directory_.set_volume(request);
    }
    [[nodiscard]] result<usage_reply> usage(const std::vector<std::string>& names) override {
        return directory_.usage(names);
    }
    [[nodiscard]] result<bool> delete_volume(const delete_volume_request& request) override {
        return directory_.remove(request);
    }
    [[nodiscard]] result<volume_info> rollback_volume(const rollback_request& request) override {
        return directory_.rollback(request);
    }
    [[nodiscard]] result<std::vector<volume_info>> create_snapshots(
        const create_snapshots_request& request) override {
        return directory_.create_snapshots(request);
    }
    [[nodiscard]] result<origin_job_info> start_origin_job(
        const origin_job_request& request) override {
        return directory_.start_origin_job(request);
    }
    [[nodiscard]] result<origin_job_info> show_origin_job(std::string_view name) override {
        return directory_.show_origin_job(name);
    }
    [[nodiscard]] result<origin_job_info> stop_origin_job(std::string_view name,
                                                          bool forget) override {
        return directory_.stop_origin_job(name, forget);
    }
    [[nodiscard]] result<volume_info> label_volume(const label_request& request) override {
        return directory_.label(request);
    }
    [[nodiscard]] result<transfer_info> begin_transfer(
        const begin_transfer_request& request) override {
        return directory_.begin_transfer(request);
    }
    [[nodiscard]] result<std::vector<transfer_info>> list_transfers() override {
        return directory_.list_transfers();
    }
    [[nodiscard]] result<std::unique_ptr<volume_data>> open_transfer(std::string_view id) override {
        auto open = UTHIN_TRY(directory_.open_transfer(id));
        return std::make_unique<local_volume_data>(std::move(open),
                                                   directory_.engine().data_block_size_bytes());
    }
    [[nodiscard]] result<void> note_transfer(
        std::string_view id, const std::map<std::string, std::string>& notes) override {
        return directory_.note_transfer(id, notes);
    }
    [[nodiscard]] result<void> publish_transfer(std::string_view id,
                                                const publish_request& request) override {
        return directory_.publish_transfer(id, request);
    }
    [[nodiscard]] result<void> drop_transfer(std::string_view id) override {
        return directory_.drop_transfer(id);
    }
    [[nodiscard]] result<diff_reply> diff(const diff_request& request) override {
        return directory_.diff(request);
    }
    [[nodiscard]] result<release_reply> release() override { return directory_.release(); }
    [[nodiscard]] result<std::unique_ptr<volume_data>> open_data(std::string_view name,
                                                                 bool read_only) override {
        auto open = UTHIN_TRY(directory_.open_volume(name, read_only));
        return std::make_unique<local_volume_data>(std::move(open),
                                                   directory_.engine().data_block_size_bytes());
    }
    [[nodiscard]] result<void> close() override {
        return owned_ ? owned_->close() : result<void>{};
    }

private:
    std::unique_ptr<pool_directory> owned_;
    pool_directory& directory_;
};

}  // namespace

std::unique_ptr<pool_service> make_pool_service(std::unique_ptr<pool_directory> directory) {
    return std::make_unique<local_pool_service>(std::move(directory));
}

std::unique_ptr<pool_service> make_pool_service(pool_directory& directory) {
    return std::make_unique<local_pool_service>(directory);
}

}  // namespace uthin
