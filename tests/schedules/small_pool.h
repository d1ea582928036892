// A pool of a few blocks on stepped devices, prepared once and opened anew for each schedule.
//
// It begins with: volume 0 of four blocks, the first its own, the second shared with its snapshot
// 1, the others holes; volume 2 whose first block is mapped; volume 3 on an image outside the pool,
// with two blocks mapped. Each mapped or imaged cell has a stamp of its own.
//
// Threads   Those of a schedule; everything but perform() from its first one.
// Failures  Thrown as text: a setup that does not work ends the test.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "schedules/requests.h"
#include "schedules/stepped_device.h"
#include "uthin/pool.h"
#include "uthin/thin.h"

namespace uthin::test {

struct small_pool_options {
    std::uint64_t pool_blocks = 40;
    std::uint64_t device_blocks = 42;
};

class small_pool {
public:
    static constexpr std::uint64_t mapped_blocks = 5;  // of the data device, at the beginning
    static constexpr std::uint64_t imaged = 3;         // the volume with the external origin

    explicit small_pool(const small_pool_options& options);

    // As it was prepared.
    [[nodiscard]] const pool_content& beginning() const noexcept { return beginning_; }
    void reset(bool fast_write_zeroes);
    void set(const power_cut& cut);
    void open(bool with_threads);
    // Of the devices that exist; opens what is not open.
    [[nodiscard]] pool_content content();
    // Drops the handles and closes the pool, unless a client did. What failed, or nothing.
    [[nodiscard]] std::string close();
    // What a full check of the metadata finds, or nothing.
    [[nodiscard]] std::string check(bool may_need_check = false);
    // It can only be closed, and opened again.
    [[nodiscard]] bool has_failed() const;

    // Runs it and fills in what came of it.
    void perform(request& one);

private:
    [[nodiscard]] result<void> run(request& one);
    [[nodiscard]] result<void> run_on_pool(request& one);
    [[nodiscard]] result<void> move(bool down);
    [[nodiscard]] result<void> commit_with(void (stepped_device::*fail)(bool));
    [[nodiscard]] result<void> check_view();
    [[nodiscard]] result<void> mend();
    [[nodiscard]] volume& opened(std::uint64_t number);
    [[nodiscard]] result<void> open_volume(std::uint64_t number);
    void prepare();

    const small_pool_options options_;
    stepped_device metadata_;
    stepped_device data_;
    stepped_device image_;
    bool needs_image_ = true;
    pool_content beginning_{};
    std::array<std::uint64_t, volumes_max> sizes_{};  // cells
    std::unique_ptr<pool> pool_;
    std::array<std::shared_ptr<volume>, volumes_max> volumes_;
    bool is_closed_ = false;
};

}  // namespace uthin::test
