// Two pools with any block sizes, and streams between them.
//
// Threads   One.
// Failures  Those of the pools.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "pool/pool_directory.h"
#include "replication/receiver.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/stream_buffers.h"
#include "support/temporary_directory.h"

namespace uthin::test {

// One pool, opened for changes. Its metadata is judged by judge_all(): starting the judges costs
// more than judging.
class replication_side {
public:
    explicit replication_side(std::uint64_t block_bytes) {
        create_pool_request request;
        request.directory = path_;
        request.data_size_bytes = 64U << 20;
        request.metadata_size_bytes = 2U << 20;
        request.block_size_bytes = block_bytes;
        EXPECT_OK(pool_directory::create(request, system_clock()));
        open();
    }
    ~replication_side() {
        drop();
        if (judged_.path().empty()) {
            judged_ = temporary_directory();
        }
        images_.push_back(judged_.path() / std::to_string(images_.size()));
        std::filesystem::copy_file(path_ + "/metadata", images_.back());
    }
    // Every pool that went since the last call.
    static void judge_all() {
        expect_images_are_clean(images_);
        images_.clear();
        judged_ = {};
    }
    replication_side(const replication_side&) = delete;
    replication_side& operator=(const replication_side&) = delete;

    void open() {
        auto opened = pool_directory::open(path_, {}, system_clock());
        ASSERT_OK(opened);
        pool_ = std::move(*opened);
        service_ = make_pool_service(*pool_);
    }
    // Without a word of goodbye, as after SIGKILL.
    void drop() {
        service_.reset();
        pool_.reset();
    }
    [[nodiscard]] pool_directory& pool() { return *pool_; }
    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] pool_service& service() { return *service_; }

    void create(const std::string& name, std::uint64_t size_bytes) {
        create_volume_request request;
        request.name = name;
        request.size_bytes = size_bytes;
        ASSERT_OK(pool_->create_volume(request));
    }
    void snapshot(const std::string& source, const std::string& name) {
        create_snapshots_request request;
        request.snapshots = {{source, name}};
        ASSERT_OK(pool_->create_snapshots(request));
    }
    void remove(const std::string& name) {
        ASSERT_OK(pool_->remove({.name = name, .if_exists = true}));
    }
    [[nodiscard]] std::vector<std::byte> content(const std::string& name) {
        auto open = pool_->open_volume(name, true);
        EXPECT_OK(open);
        if (!open) {
            return {};
        }
        std::vector<std::byte> bytes((*open)->size_bytes());
        EXPECT_OK((*open)->read(0, bytes));
        return bytes;
    }
    // All that a user can see.
    struct appearance {
        std::vector<volume_info> volumes;
        std::uint64_t data_used_blocks = 0;
        bool operator==(const appearance&) const = default;
    };
    [[nodiscard]] appearance look() {
        return {pool_->list().value(), pool_->report().value().data_used_blocks};
    }
    [[nodiscard]] std::vector<std::byte> send(const std::string& name, const std::string& from = "",
                                              bool compress = false,
                                              std::uint64_t mark_interval_bytes = 1U << 20) {
        memory_sink sink;
        replication::send_request request;
        request.name = name;
        request.from = from;
        request.compress = compress;
        request.mark_interval_bytes = mark_interval_bytes;
        EXPECT_OK(replication::send_snapshot(*service_, request, sink));
        return std::move(sink.bytes);
    }
    // The rest of a stream that broke off.
    [[nodiscard]] std::vector<std::byte> resume(const std::string& token,
                                                std::uint64_t mark_interval_bytes = 1U << 20) {
        memory_sink sink;
        replication::send_request request;
        request.token = token;
        request.mark_interval_bytes = mark_interval_bytes;
        EXPECT_OK(replication::send_snapshot(*service_, request, sink));
        return std::move(sink.bytes);
    }
    // Empty when it did not break off, or left no token.
    [[nodiscard]] std::string receive_resumable(std::span<const std::byte> stream,
                                                const std::string& name,
                                                const std::string& snapshot = "") {
        memory_source source(stream);
        replication::receive_request request;
        std::string token;
        request.name = name;
        request.snapshot = snapshot;
        request.resumable = true;
        request.broke_off = [&](const std::string& text) { token = text; };
        auto done = replication::receive_stream(*service_, request, source);
        EXPECT_TRUE(done.has_value() || !token.empty()) << done.error().to_string();
        return token;
    }
    result<replication::receive_reply> receive(std::span<const std::byte> stream,
                                               const std::string& name,
                                               const std::string& snapshot = "") {
        memory_source source(stream);
        replication::receive_request request;
        request.name = name;
        request.snapshot = snapshot;
        return replication::receive_stream(*service_, request, source);
    }

private:
    static inline temporary_directory judged_;
    static inline std::vector<std::filesystem::path> images_;

    temporary_directory folder_ = temporary_directory::in_memory();
    std::string path_ = folder_.path() / "pool";
    std::unique_ptr<pool_directory> pool_;
    std::unique_ptr<pool_service> service_;
};

}  // namespace uthin::test
