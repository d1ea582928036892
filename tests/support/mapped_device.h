// One device of the device-mapper in this process: a live table, one in waiting, and its state.
//
// Threads   As device_mapper.
// Failures  Of I/O: as a block device's; of the rest: errno values.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pool/target_table.h"
#include "uthin/block_device.h"

namespace uthin::test {

class device_mapper;
class mapped_device;

// One line of a table. Offsets are bytes from the begin of the target.
class target {
public:
    explicit target(target_line line) : line_(std::move(line)) {}
    virtual ~target() = default;
    target(const target&) = delete;
    target& operator=(const target&) = delete;

    [[nodiscard]] const target_line& line() const { return line_; }
    [[nodiscard]] std::uint64_t begin_bytes() const { return line_.start_sector * 512; }
    [[nodiscard]] std::uint64_t length_bytes() const { return line_.length_sectors * 512; }

    virtual result<void> read(std::uint64_t offset, std::span<std::byte> buffer) = 0;
    virtual result<void> write(std::uint64_t offset, std::span<const std::byte> buffer) = 0;
    virtual result<void> discard(std::uint64_t offset, std::uint64_t length) = 0;
    virtual result<void> flush() = 0;
    [[nodiscard]] virtual bool can_discard() const { return true; }
    // The device below is large enough.
    [[nodiscard]] virtual bool fits() const { return true; }

    // Before the table goes live, and after its device was suspended.
    [[nodiscard]] virtual int before_resume() { return 0; }
    virtual void after_suspend() {}
    [[nodiscard]] virtual int message(const std::string&);
    [[nodiscard]] virtual std::string status(bool noflush);
    [[nodiscard]] virtual std::string table() const;
    // A device below holds this one's I/O back as well.
    [[nodiscard]] virtual const mapped_device* waits_for() const { return nullptr; }

private:
    const target_line line_;
};

using target_list = std::vector<std::unique_ptr<target>>;

// The targets of a table for `owner`; an errno when it is refused.
[[nodiscard]] int make_targets(device_mapper& mapper, mapped_device& owner,
                               const std::string& table, std::shared_ptr<target_list>& made);

[[nodiscard]] bool fit(const target_list& targets);

class mapped_device final : public block_device {
public:
    explicit mapped_device(std::string name) : name_(std::move(name)) {}

    // block_device, by the live table
    [[nodiscard]] std::string name() const override { return name_; }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override;
    [[nodiscard]] device_capabilities capabilities() const override;
    [[nodiscard]] result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override;
    [[nodiscard]] result<void> write(std::uint64_t offset,
                                     std::span<const std::byte> buffer) override;
    [[nodiscard]] result<void> flush() override;
    [[nodiscard]] result<void> discard(std::uint64_t offset, std::uint64_t length) override;
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset, std::uint64_t length) override;

    [[nodiscard]] std::shared_ptr<target_list> live() const;
    [[nodiscard]] std::shared_ptr<target_list> waiting() const;
    void set_waiting(std::shared_ptr<target_list> table);
    [[nodiscard]] int suspend();
    [[nodiscard]] int resume();
    [[nodiscard]] bool suspended() const;
    // Until this device and those it waits for are running.
    void wait_until_running() const;

    void count_event() { events_.fetch_add(1); }
    [[nodiscard]] std::uint64_t events() const { return events_.load(); }
    // Tables of other devices that stand on this one.
    void hold() { holders_.fetch_add(1); }
    void let_go() { holders_.fetch_sub(1); }
    [[nodiscard]] bool held() const { return holders_.load() != 0; }

private:
    template <class Do>
    result<void> each_piece(std::uint64_t offset, std::uint64_t length, const Do& act) const;

    const std::string name_;
    std::atomic<std::uint64_t> events_{0};
    std::atomic<int> holders_{0};
    mutable std::mutex lock_;
    mutable std::condition_variable running_;
    std::shared_ptr<target_list> live_;
    std::shared_ptr<target_list> waiting_;
    bool suspended_ = false;
};

}  // namespace uthin::test
