// A small device-mapper in this process: devices made of table lines, as far as pools need it.
//
// Targets linear, error, flakey (error_writes: writes fail, reads pass), dust, thin-pool and thin;
// load, suspend, resume, message, status and I/O with the kernel's refusals. The pool behind a
// thin-pool target is uthin::pool, so that what the kernel does with a table line can be compared
// with it.
//
// Invariants
//   DM1  A call returns 0 or the errno that the kernel's ioctl or block layer returns for it; where
//        uthin differs on purpose, docs/kernel-differences.md says so.
//   DM2  Disks outlive the devices that stand on them.
// Threads   Any for I/O; one for everything else. I/O on a suspended device waits for its resume.
// Failures  As errno values.
// Source    kernel's device-mapper as observed through tests/kernel; docs/kernel-differences.md.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include "pool/target_table.h"
#include "uthin/block_device.h"

namespace uthin::test {

class mapped_device;
class live_pool;

class device_mapper {
public:
    explicit device_mapper(table_dialect dialect);
    ~device_mapper();
    device_mapper(const device_mapper&) = delete;
    device_mapper& operator=(const device_mapper&) = delete;

    // "/dev/NAME", all zeros, in memory; replaces the one there was.
    void make_disk(const std::string& name, std::uint64_t size_sectors);
    // The same on an existing device.
    void add_disk(const std::string& name, std::shared_ptr<block_device> disk);
    // Of pools that are activated from now on.
    void set_no_space_timeout(std::chrono::seconds timeout) { no_space_timeout_ = timeout; }

    // A table is "START LENGTH TARGET WORD...", several joined by ';'.
    [[nodiscard]] int create(const std::string& name, const std::string& table);
    [[nodiscard]] int load(const std::string& name, const std::string& table);
    [[nodiscard]] int clear(const std::string& name);
    [[nodiscard]] int suspend(const std::string& name);
    [[nodiscard]] int resume(const std::string& name);
    [[nodiscard]] int remove(const std::string& name);
    [[nodiscard]] int message(const std::string& name, std::uint64_t sector,
                              const std::string& text);
    // As `dmsetup status` and `dmsetup table` print them.
    [[nodiscard]] int status(const std::string& name, bool noflush, std::string& text);
    [[nodiscard]] int table(const std::string& name, std::string& text);
    [[nodiscard]] int events(const std::string& name, std::uint64_t& count);
    [[nodiscard]] std::map<std::string, std::shared_ptr<mapped_device>> devices() const;

    // Of a disk or device. Bytes done (less than asked for at the end), or minus an errno.
    [[nodiscard]] std::int64_t read(const std::string& name, std::uint64_t sector,
                                    std::span<std::byte> buffer);
    [[nodiscard]] std::int64_t write(const std::string& name, std::uint64_t sector,
                                     std::span<const std::byte> buffer);
    [[nodiscard]] int discard(const std::string& name, std::uint64_t sector,
                              std::uint64_t length_sectors);
    [[nodiscard]] int flush(const std::string& name);
    [[nodiscard]] std::uint64_t size_sectors(const std::string& name);

    // ---- for targets
    // "/dev/NAME", "/dev/mapper/NAME"; null: there is none.
    [[nodiscard]] std::shared_ptr<block_device> find(std::string_view path) const;
    [[nodiscard]] std::shared_ptr<mapped_device> find_mapped(std::string_view path) const;
    [[nodiscard]] table_dialect dialect() const { return dialect_; }
    [[nodiscard]] std::chrono::seconds no_space_timeout() const { return no_space_timeout_; }
    // The live pools by their metadata device.
    [[nodiscard]] std::map<const block_device*, std::weak_ptr<live_pool>>& pools() {
        return pools_;
    }

private:
    [[nodiscard]] std::shared_ptr<mapped_device> named(const std::string& name) const;

    const table_dialect dialect_;
    std::chrono::seconds no_space_timeout_{60};
    mutable std::mutex lock_;
    std::map<std::string, std::shared_ptr<block_device>> disks_;
    std::map<std::string, std::shared_ptr<mapped_device>> devices_;
    std::map<const block_device*, std::weak_ptr<live_pool>> pools_;
};

}  // namespace uthin::test
