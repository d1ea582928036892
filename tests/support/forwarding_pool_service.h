// A pool that passes every call on: the base of services that do something more.
//
// Threads, failures  As the service below.
#pragma once

#include "pool/pool_service.h"

namespace uthin::test {

class forwarding_pool_service : public pool_service {
public:
    // `below` outlives the object.
    explicit forwarding_pool_service(pool_service& below) : below_(below) {}

    [[nodiscard]] result<pool_report> status() override { return below_.status(); }
    [[nodiscard]] result<target_lines> kernel_lines() override { return below_.kernel_lines(); }
    [[nodiscard]] result<target_lines> kernel_lines_of(std::string_view name) override {
        return below_.kernel_lines_of(name);
    }
    [[nodiscard]] result<events_reply> events(const events_request& request) override {
        return below_.events(request);
    }
    [[nodiscard]] result<void> message(std::string_view text) override {
        return below_.message(text);
    }
    [[nodiscard]] result<pool_report> grow(const grow_request& request) override {
        return below_.grow(request);
    }
    [[nodiscard]] result<std::uint64_t> trim() override { return below_.trim(); }
    [[nodiscard]] result<check_reply> check(const check_request& request) override {
        return below_.check(request);
    }
    [[nodiscard]] result<pool_report> set(
        const std::map<std::string, std::string>& settings) override {
        return below_.set(settings);
    }
    [[nodiscard]] result<metadata_snapshot_reply> metadata_snapshot(
        const metadata_snapshot_request& request) override {
        return below_.metadata_snapshot(request);
    }
    [[nodiscard]] result<volume_info> create_volume(const create_volume_request& request) override {
        return below_.create_volume(request);
    }
    [[nodiscard]] result<std::vector<volume_info>> list_volumes() override {
        return below_.list_volumes();
    }
    [[nodiscard]] result<volume_info> show_volume(std::string_view name) override {
        return below_.show_volume(name);
    }
    [[nodiscard]] result<volume_info> rename_volume(std::string_view name,
                                                    std::string_view new_name) override {
        return below_.rename_volume(name, new_name);
    }
    [[nodiscard]] result<volume_info> resize_volume(std::string_view name,
                                                    std::uint64_t size_bytes) override {
        return below_.resize_volume(name, size_bytes);
    }
    [[nodiscard]] result<volume_info> set_volume(const set_volume_request& request) override {
        return below_.set_volume(request);
    }
    [[nodiscard]] result<usage_reply> usage(const std::vector<std::string>& names) override {
        return below_.usage(names);
    }
    [[nodiscard]] result<bool> delete_volume(const delete_volume_request& request) override {
        return below_.delete_volume(request);
    }
    [[nodiscard]] result<volume_info> rollback_volume(const rollback_request& request) override {
        return below_.rollback_volume(request);
    }
    [[nodiscard]] result<std::vector<volume_info>> create_snapshots(
        const create_snapshots_request& request) override {
        return below_.create_snapshots(request);
    }
    [[nodiscard]] result<volume_info> label_volume(const label_request& request) override {
        return below_.label_volume(request);
    }
    [[nodiscard]] result<transfer_info> begin_transfer(
        const begin_transfer_request& request) override {
        return below_.begin_transfer(request);
    }
    [[nodiscard]] result<std::vector<transfer_info>> list_transfers() override {
        return below_.list_transfers();
    }
    [[nodiscard]] result<std::unique_ptr<volume_data>> open_transfer(std::string_view id) override {
        return below_.open_transfer(id);
    }
    [[nodiscard]] result<void> note_transfer(
        std::string_view id, const std::map<std::string, std::string>& notes) override {
        return below_.note_transfer(id, notes);
    }
    [[nodiscard]] result<void> publish_transfer(std::string_view id,
                                                const publish_request& request) override {
        return below_.publish_transfer(id, request);
    }
    [[nodiscard]] result<void> drop_transfer(std::string_view id) override {
        return below_.drop_transfer(id);
    }
    [[nodiscard]] result<origin_job_info> start_origin_job(
        const origin_job_request& request) override {
        return below_.start_origin_job(request);
    }
    [[nodiscard]] result<origin_job_info> show_origin_job(std::string_view name) override {
        return below_.show_origin_job(name);
    }
    [[nodiscard]] result<origin_job_info> stop_origin_job(std::string_view name,
                                                          bool forget) override {
        return below_.stop_origin_job(name, forget);
    }
    [[nodiscard]] result<diff_reply> diff(const diff_request& request) override {
        return below_.diff(request);
    }
    [[nodiscard]] result<release_reply> release() override { return below_.release(); }
    [[nodiscard]] result<std::unique_ptr<volume_data>> open_data(std::string_view name,
                                                                 bool read_only) override {
        return below_.open_data(name, read_only);
    }
    [[nodiscard]] result<void> close() override { return below_.close(); }

private:
    pool_service& below_;
};

}  // namespace uthin::test
