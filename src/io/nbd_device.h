// A device behind an NBD server, through libnbd.
//
// Invariants
//   ND1  A server without FLUSH is refused for writing: nothing could be made durable on it.
//   ND2  Requests larger than the server takes are split.
//   ND3  Where a write covers a part of one of the server's smallest blocks, that block is read,
//        changed and written back under the lock; parts of blocks are not discarded.
//
// Threads   Any; one connection guarded by a mutex, on which a batch is in flight together.
//
// Failures  io_error with libnbd's text; a lost connection stays lost. The size is the one told at
//           connection time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "io/open.h"
#include "uthin/block_device.h"

struct nbd_handle;

namespace uthin::io {

class nbd_device final : public block_device {
public:
    [[nodiscard]] static result<std::unique_ptr<nbd_device>> open(const std::string& uri,
                                                                  const open_options& options);
    ~nbd_device() override;

    [[nodiscard]] std::string name() const override { return uri_; }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override { return size_bytes_; }
    [[nodiscard]] device_capabilities capabilities() const override { return capabilities_; }
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override;
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> flush() override;
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> run(std::span<const io_op> ops) override;

private:
    class batch;

    nbd_device(std::string uri, ::nbd_handle* handle) : uri_(std::move(uri)), handle_(handle) {}

    [[nodiscard]] result<void> learn(const open_options& options);
    [[nodiscard]] result<void> check(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                     bool changes) const;
    [[nodiscard]] bool is_whole(std::uint64_t offset_bytes, std::uint64_t length_bytes) const {
        return (offset_bytes | length_bytes) % capabilities_.alignment_bytes == 0;
    }
    // All requests but those of run(): a part of a block of the server's, or whole ones.
    [[nodiscard]] std::uint64_t first_part(std::uint64_t offset_bytes,
                                           std::uint64_t length_bytes) const;
    [[nodiscard]] result<void> read_held(std::uint64_t offset_bytes, std::span<std::byte> buffer)
        REQUIRES(lock_);
    [[nodiscard]] result<void> write_held(std::uint64_t offset_bytes,
                                          std::span<const std::byte> buffer) REQUIRES(lock_);
    [[nodiscard]] result<void> read_whole(std::uint64_t offset_bytes, std::span<std::byte> buffer)
        REQUIRES(lock_);
    [[nodiscard]] result<void> write_whole(std::uint64_t offset_bytes,
                                           std::span<const std::byte> buffer) REQUIRES(lock_);
    // The block around [offset, offset + length), and where in it that begins.
    struct surroundings {
        std::vector<std::byte> bytes;
        std::uint64_t block_begin_bytes;
        std::span<std::byte> part;
    };
    [[nodiscard]] result<surroundings> read_around(std::uint64_t offset_bytes,
                                                   std::uint64_t length_bytes) REQUIRES(lock_);

    const std::string uri_;
    mutex lock_;
    ::nbd_handle* const handle_;
    std::uint64_t size_bytes_ = 0;
    std::uint64_t request_bytes_max_ = 32U << 20;
    device_capabilities capabilities_;
    bool can_write_zeroes_ = false;
    bool flush_failed_ GUARDED_BY(lock_) = false;  // sticky: see block_device.h, Failures
};

}  // namespace uthin::io
