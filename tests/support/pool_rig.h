// A pool on devices in memory that outlive it, so that it can be closed, judged and opened again.
//
// Threads   One owner; the pool in it is as thread-safe as any.
// Failures  Reported to GoogleTest.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "io/delay_device.h"
#include "io/fault_device.h"
#include "io/memory_device.h"
#include "support/forwarding_device.h"
#include "support/hooked_device.h"
#include "uthin/pool.h"

namespace uthin::test {

// A device that belongs to somebody else. With `lies` it says that it flushed and did not.
class borrowed_device final : public forwarding_device {
public:
    explicit borrowed_device(block_device& below, bool lies = false)
        : forwarding_device(below), lies_(lies) {}
    [[nodiscard]] result<void> flush() override { return lies_ ? result<void>() : below().flush(); }
    [[nodiscard]] result<void> run(std::span<const io_op> ops) override { return below().run(ops); }
    [[nodiscard]] result<void> write_fua(std::uint64_t offset,
                                         std::span<const std::byte> buffer) override {
        return lies_ ? below().write(offset, buffer) : below().write_fua(offset, buffer);
    }
    [[nodiscard]] result<void> grow(std::uint64_t size) override { return below().grow(size); }

private:
    const bool lies_;
};

struct rig_options {
    std::uint64_t metadata_bytes = 4ULL << 20;
    std::uint64_t data_blocks = 1024;
    std::uint32_t block_size_sectors = 128;
    bool threads = true;
    // For what the pool is opened with, beside block size and format.
    pool_options pool;
};

class pool_rig {
public:
    explicit pool_rig(rig_options options = {});
    // Closes the pool and has the metadata judged.
    ~pool_rig();
    pool_rig(const pool_rig&) = delete;
    pool_rig& operator=(const pool_rig&) = delete;

    // Opens it, formatting blank devices. Failures are fatal for the test.
    void open();
    void open(const pool_options& options);
    void close();
    // Without a commit, as if the process had been killed.
    void drop() { pool_.reset(); }
    // The metadata as it is on the device now must be clean for the independent judges of
    // support/image_check.h, which run at the end of the program.
    void expect_clean();
    // For tests that damage it on purpose.
    void do_not_judge() { judge_ = false; }

    [[nodiscard]] pool& operator*() { return *pool_; }
    [[nodiscard]] pool* operator->() { return pool_.get(); }
    [[nodiscard]] bool is_open() const { return pool_ != nullptr; }
    // Makes a device and opens it.
    std::shared_ptr<volume> make(std::uint64_t id, std::uint64_t size_bytes);
    std::shared_ptr<volume> open_volume(std::uint64_t id, std::uint64_t size_bytes);
    [[nodiscard]] result<void> snapshot(std::uint64_t origin, std::uint64_t id);

    io::memory_device metadata;
    io::memory_device data;
    hooked_device hooked_data;
    io::fault_plan metadata_faults;
    io::fault_plan data_faults;
    io::fault_device faulty_metadata;
    io::fault_device faulty_data;
    io::delay_device slow_metadata;
    io::delay_device slow_data;

private:
    const rig_options options_;
    bool judge_ = true;
    std::unique_ptr<pool> pool_;
};

// `count` bytes that depend on `seed`, never zero.
[[nodiscard]] std::vector<std::byte> pattern(std::uint64_t seed, std::size_t count);
[[nodiscard]] std::vector<std::byte> read_all(volume& from, std::uint64_t offset,
                                              std::size_t count);
[[nodiscard]] bool all_zero(std::span<const std::byte> bytes);

}  // namespace uthin::test
