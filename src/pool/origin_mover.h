// Moves content between a volume and the image outside the pool that it stands on, while clients
// use it: down, until the volume maps nothing (merge), or up, until it needs the image no more
// (flatten).
//
// Invariants
//   OM1  At every instant, and after a power cut at any instant, the volume reads the same bytes as
//        if nothing were moved; so do the other volumes on the image that were given.
//   OM2  What a step is about is held in the write gate: reads go on, writes to those few blocks
//        wait.
//   OM3  Whenever it stops, volume and image are a valid pair; a new mover goes on from there.
// Threads   One; step() waits for devices and for the executor, and is to be called without locks.
// Failures  Those of devices and pool; out_of_range (merging: data behind the image's end);
//           no_data_space. The mover may be asked again.
// Source    docs/origin.md.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "pool/engine.h"
#include "uthin/thin.h"

namespace uthin::pool_engine {

enum class move_direction : std::uint8_t { down, up };

class origin_mover {
public:
    // Everything is durable and every write of the volume waits while this is called, at the end.
    using finish_function = std::function<result<void>()>;

    // Waits for the writes in flight. `others`: moving down, the other volumes on the image, which
    // get what would change under them. `origin`: moving down, the image, writable; it must outlive
    // the mover. busy: the volume is being moved already.
    [[nodiscard]] static result<std::unique_ptr<origin_mover>> begin(
        move_direction direction, std::shared_ptr<volume> target,
        std::vector<std::shared_ptr<volume>> others, block_device* origin);
    ~origin_mover();
    origin_mover(const origin_mover&) = delete;
    origin_mover& operator=(const origin_mover&) = delete;

    // Some of the work; true: all of it is done and `finish` has succeeded.
    [[nodiscard]] result<bool> step(const finish_function& finish);
    // Down: what is still mapped. Up: what is still to be looked at.
    [[nodiscard]] result<std::uint64_t> bytes_left() const;

private:
    origin_mover(move_direction direction, std::shared_ptr<volume> target,
                 std::vector<std::shared_ptr<volume>> others, block_device* origin);
    [[nodiscard]] result<void> put_gates_to_work();
    [[nodiscard]] result<bool> step_down(const finish_function& finish);
    [[nodiscard]] result<bool> step_up(const finish_function& finish);
    [[nodiscard]] result<void> move_down(range<virtual_block> blocks);
    [[nodiscard]] result<void> protect_others(range<virtual_block> blocks);
    [[nodiscard]] result<void> finish_down(const finish_function& finish);
    [[nodiscard]] result<void> finish_up(range<virtual_block> rest, const finish_function& finish);
    [[nodiscard]] result<void> move_up(range<virtual_block> blocks);
    [[nodiscard]] result<void> check_space(std::uint64_t blocks) const;
    [[nodiscard]] std::uint64_t step_blocks() const;
    [[nodiscard]] volume_state& state() const;

    const move_direction direction_;
    const std::shared_ptr<volume> target_;
    const std::vector<std::shared_ptr<volume>> others_;
    block_device* const origin_;
    engine& engine_;
    std::vector<write_gate*> gates_;  // at work, the target's first
    virtual_block next_{0};
    virtual_block end_{0};
    std::uint64_t kept_ = 0;  // blocks that do not fit, in this round
    std::uint64_t rounds_ = 0;
};

}  // namespace uthin::pool_engine
