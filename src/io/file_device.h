// Regular files and block devices.
//
// Invariants
//   FI1  A call transfers everything or fails: interrupted and short transfers are continued.
//   FI2  With O_DIRECT, I/O of any offset, length and memory alignment is still correct: it bounces
//        through aligned memory, and no concurrent write to the same sector is lost.
//   FI3  After one failed flush every later flush and FUA write fails, until the device is opened
//        anew: the kernel reports a lost write once and then calls the pages clean.
//   FI4  A flush is shared only with callers that arrived before it began.
//
// Threads   Any.
//
// Failures  io_error with the errno (ENOSPC, EDQUOT, EFBIG too: only the caller knows what they
//           mean to it); out_of_range beyond the end; read_only.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "io/lock.h"
#include "io/open.h"
#include "io/range_lock.h"
#include "uthin/block_device.h"

namespace uthin::io {

class file_device final : public block_device {
public:
    [[nodiscard]] static result<std::unique_ptr<file_device>> open(const std::string& path,
                                                                   const open_options& options);
    ~file_device() override;

    [[nodiscard]] std::string name() const override { return path_; }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override;
    [[nodiscard]] device_capabilities capabilities() const override;
    [[nodiscard]] result<void> read(std::uint64_t offset_bytes,
                                    std::span<std::byte> buffer) override;
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> flush() override;
    [[nodiscard]] result<void> discard(std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset_bytes,
                                            std::uint64_t length_bytes) override;
    void take_space(std::uint64_t offset_bytes, std::uint64_t length_bytes) override;
    [[nodiscard]] result<void> run(std::span<const io_op> ops) override;
    [[nodiscard]] result<void> write_fua(std::uint64_t offset_bytes,
                                         std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> grow(std::uint64_t size_bytes) override;

    // Whether I/O goes around the page cache.
    [[nodiscard]] bool direct() const noexcept { return alignment_bytes_.load() > 1; }

private:
    file_device(std::string path, int descriptor, bool is_disk, bool read_only)
        : path_(std::move(path)),
          descriptor_(descriptor),
          is_disk_(is_disk),
          read_only_(read_only) {}

    // Opening (file_open.cpp).
    [[nodiscard]] static result<int> open_descriptor(const std::string& path,
                                                     const open_options& options);
    [[nodiscard]] static result<int> create_file(const std::string& path, std::uint64_t size_bytes);
    [[nodiscard]] result<void> learn(const open_options& options);
    void probe_direct();
    [[nodiscard]] bool direct_read_works(std::uint32_t alignment_bytes) const;
    [[nodiscard]] bool set_direct(bool on) const;

    // Re-reads the size; leaves O_DIRECT for good when it has become odd.
    [[nodiscard]] result<std::uint64_t> refresh_size();
    [[nodiscard]] result<void> check(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                     bool changes);
    [[nodiscard]] bool is_aligned(std::uint64_t offset_bytes,
                                  std::span<const std::byte> buffer) const noexcept;
    [[nodiscard]] result<void> transfer_in(std::uint64_t offset_bytes, std::span<std::byte> buffer);
    [[nodiscard]] result<void> transfer_out(std::uint64_t offset_bytes,
                                            std::span<const std::byte> buffer, bool fua);
    // Of a write, what one system call takes.
    [[nodiscard]] std::size_t piece_bytes(std::uint64_t offset_bytes,
                                          std::size_t length_bytes) const noexcept;
    [[nodiscard]] result<void> read_bounced(std::uint64_t offset_bytes,
                                            std::span<std::byte> buffer);
    [[nodiscard]] result<void> write_any(std::uint64_t offset_bytes,
                                         std::span<const std::byte> buffer, bool fua);
    [[nodiscard]] result<void> write_bounced(std::uint64_t offset_bytes,
                                             std::span<const std::byte> buffer, bool fua);
    [[nodiscard]] result<void> write_zero_bytes(std::uint64_t offset_bytes,
                                                std::uint64_t length_bytes);
    [[nodiscard]] bool is_hole(std::uint64_t offset_bytes, std::uint64_t length_bytes) const;
    [[nodiscard]] result<void> zero_file(std::uint64_t offset_bytes, std::uint64_t length_bytes);
    [[nodiscard]] result<void> zero_disk(std::uint64_t offset_bytes, std::uint64_t length_bytes);
    [[nodiscard]] result<void> flush_outcome() const REQUIRES(flush_lock_);

    const std::string path_;
    const int descriptor_;
    const bool is_disk_;
    const bool read_only_;
    bool can_discard_ = false;
    bool can_zero_fast_ = false;
    bool rotational_ = false;
    std::uint32_t logical_sector_bytes_ = 512;  // of a disk
    std::unique_ptr<ownership> ownership_;

    std::atomic<std::uint32_t> alignment_bytes_{1};   // above 1: O_DIRECT
    std::atomic<std::uint64_t> known_size_bytes_{0};  // as last read; re-read when exceeded
    std::atomic<bool> size_changed_{false};
    range_lock writers_;
    mutex grow_lock_;

    mutable mutex flush_lock_;
    condition flush_done_;
    bool flush_running_ GUARDED_BY(flush_lock_) = false;
    std::uint64_t flushes_done_ GUARDED_BY(flush_lock_) = 0;
    int flush_errno_ GUARDED_BY(flush_lock_) = 0;  // sticky, FI3
};

}  // namespace uthin::io
