#include "pool/origin_mover.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "pool/barrier.h"
#include "pool/volume_io.h"

namespace uthin::pool_engine {

namespace {

// Moved in one step: bounds how long a write may have to wait.
constexpr std::uint64_t step_bytes = 4 << 20;
// Rounds over a volume that is written to all the time; then its writes wait for the rest.
constexpr std::uint64_t rounds_max = 8;
constexpr virtual_block last_block{UINT64_MAX};

// Every writer from now on asks the gates.
class gate_work final : public barrier {
public:
    gate_work(engine& owner, const std::vector<device_id>& devices,
              const std::vector<write_gate*>& gates)
        : barrier(owner, devices, false), gates_(gates) {}

    // After execute(): another request may have broken the batch of this one.
    [[nodiscard]] bool at_work() const noexcept { return at_work_; }

private:
    [[nodiscard]] next act() override {
        for (std::size_t i = 0; i < gates_.size(); ++i) {
            if (!gates_[i]->put_to_work()) {
                while (i > 0) {
                    gates_[--i]->shut_off();
                }
                set_outcome(fail(error_code::busy, "is being merged or flattened already"));
                return next::done;
            }
        }
        at_work_ = true;
        return next::done;
    }

    const std::vector<write_gate*>& gates_;
    bool at_work_ = false;
};

// The volume stands on its own from now on.
class drop_origin_work final : public barrier {
public:
    drop_origin_work(engine& owner, volume_state& state)
        : barrier(owner, {state.id}, true), state_(state) {}

private:
    [[nodiscard]] next act() override {
        state_.origin.reset();
        return next::done;
    }

    volume_state& state_;
};

}  // namespace

origin_mover::origin_mover(move_direction direction, std::shared_ptr<volume> target,
                           std::vector<std::shared_ptr<volume>> others, block_device* origin)
    : direction_(direction),
      target_(std::move(target)),
      others_(std::move(others)),
      origin_(origin),
      engine_(*target_->engine_) {
}

origin_mover::~origin_mover() {
    for (write_gate* const gate : gates_) {
        gate->shut_off();
    }
}

volume_state& origin_mover::state() const {
    return *target_->state_;
}

std::uint64_t origin_mover::step_blocks() const {
    return std::max<std::uint64_t>(1, step_bytes / engine_.block_bytes());
}

result<std::unique_ptr<origin_mover>> origin_mover::begin(
    move_direction direction, std::shared_ptr<volume> target,
    std::vector<std::shared_ptr<volume>> others, block_device* origin) {
    std::unique_ptr<origin_mover> made(
        new origin_mover(direction, std::move(target), std::move(others), origin));
    if (made->state().origin == nullptr) {
        return fail(error_code::invalid_argument, "the volume stands on no external origin");
    }
    UTHIN_TRY(made->put_gates_to_work());
    const std::uint64_t block_bytes = made->engine_.block_bytes();
    made->end_ =
        virtual_block((made->state().origin->size_bytes() + block_bytes - 1) / block_bytes);
    return made;
}

result<void> origin_mover::put_gates_to_work() {
    std::vector<device_id> ids;
    std::vector<write_gate*> gates;
    const auto add = [&](const std::shared_ptr<volume>& one) -> result<void> {
        if (one->state_->origin != nullptr) {
            UTHIN_TRY(one->state_->origin->notice_growth());
        }
        ids.push_back(one->state_->id);
        gates.push_back(&one->state_->gate);
        return {};
    };
    UTHIN_TRY(add(target_));
    for (const auto& other : others_) {
        UTHIN_TRY(add(other));
    }
    gate_work request(engine_, ids, gates);
    auto done = engine_.worker().execute(state().queue, request);
    if (request.at_work()) {
        gates_ = std::move(gates);  // the destructor shuts them off
    }
    return done;
}

result<bool> origin_mover::step(const finish_function& finish) {
    return direction_ == move_direction::down ? step_down(finish) : step_up(finish);
}

result<std::uint64_t> origin_mover::bytes_left() const {
    const std::uint64_t blocks = direction_ == move_direction::down
                                     ? UTHIN_TRY(engine_.metadata().mapped_count(*state().device))
                                     : range<virtual_block>{next_, end_}.count();
    return blocks * engine_.block_bytes();
}

// ---- down
// ------------------------------------------------------------------------------------------------

result<bool> origin_mover::step_down(const finish_function& finish) {
    const auto run =
        UTHIN_TRY(engine_.metadata().find_mapped_range(*state().device, {next_, last_block}));
    if (run) {
        const range<virtual_block> blocks{run->begin,
                                          std::min(run->end, run->begin + step_blocks())};
        const write_gate::hold held(state().gate, blocks);
        UTHIN_TRY(move_down(blocks));
        next_ = blocks.end;
        return false;
    }
    ++rounds_;
    next_ = virtual_block(0);
    const std::uint64_t mapped = UTHIN_TRY(engine_.metadata().mapped_count(*state().device));
    if (mapped - std::min(mapped, kept_) > step_blocks() && rounds_ < rounds_max) {
        kept_ = 0;
        return false;
    }
    UTHIN_TRY(finish_down(finish));
    return true;
}

result<void> origin_mover::move_down(range<virtual_block> blocks) {
    if (!others_.empty()) {
        UTHIN_TRY(protect_others(blocks));
    }
    kept_ += UTHIN_TRY(volume_io(engine_, state()).push_down(blocks, *origin_));
    return {};
}

// What the image is about to lose goes to those that show it. Their own gates stay shut off for
// everything else.
result<void> origin_mover::protect_others(range<virtual_block> blocks) {
    std::uint64_t copied = 0;
    for (const auto& other : others_) {
        volume_state& its = *other->state_;
        const write_gate::hold held(its.gate, blocks);
        virtual_block at = blocks.begin;
        while (at < blocks.end) {
            const auto run =
                UTHIN_TRY(engine_.metadata().find_mapped_range(*state().device, {at, blocks.end}));
            if (!run) {
                break;
            }
            const range<virtual_block> changing{run->begin, std::min(run->end, blocks.end)};
            UTHIN_TRY(check_space(changing.count()));
            copied += UTHIN_TRY(volume_io(engine_, its).copy_up(changing, true));
            at = changing.end;
        }
    }
    if (copied > 0) {
        // ORDER: OM1. The copies are durable before the image changes under their volumes.
        UTHIN_TRY(engine_.commit_all());
    }
    // ORDER: OM1. Who found a hole before the copies were there is still reading the image.
    return engine_.wait_for_reads();
}

result<void> origin_mover::finish_down(const finish_function& finish) {
    const write_gate::hold held(state().gate, {virtual_block(0), last_block});
    kept_ = 0;
    while (true) {
        const auto run =
            UTHIN_TRY(engine_.metadata().find_mapped_range(*state().device, {next_, last_block}));
        if (!run) {
            break;
        }
        const range<virtual_block> blocks{run->begin,
                                          std::min(run->end, run->begin + step_blocks())};
        UTHIN_TRY(move_down(blocks));
        next_ = blocks.end;
    }
    next_ = virtual_block(0);
    if (kept_ > 0) {
        return fail(error_code::out_of_range,
                    fmt::format("{} blocks hold data behind the end of the external origin; use "
                                "--grow-origin",
                                kept_));
    }
    UTHIN_TRY(engine_.commit_all());
    return finish();
}

// ---- up
// ------------------------------------------------------------------------------------------------

result<bool> origin_mover::step_up(const finish_function& finish) {
    if (next_ < end_) {
        const range<virtual_block> blocks{next_, std::min(end_, next_ + step_blocks())};
        const write_gate::hold held(state().gate, blocks);
        UTHIN_TRY(move_up(blocks));
        next_ = blocks.end;
        return false;
    }
    // A discard shows the image again.
    ++rounds_;
    const range<virtual_block> again = state().gate.take_discards();
    if (again.count() > step_blocks() && rounds_ < rounds_max) {
        next_ = again.begin;
        end_ = again.end;
        return false;
    }
    UTHIN_TRY(finish_up(again, finish));
    return true;
}

result<void> origin_mover::move_up(range<virtual_block> blocks) {
    UTHIN_TRY(check_space(blocks.count()));
    UTHIN_TRY(volume_io(engine_, state()).copy_up(blocks, false));
    return {};
}

result<void> origin_mover::finish_up(range<virtual_block> rest, const finish_function& finish) {
    const write_gate::hold held(state().gate, {virtual_block(0), last_block});
    const range<virtual_block> last = state().gate.take_discards();
    for (const range<virtual_block>& blocks : {rest, last}) {
        for (virtual_block at = blocks.begin; at < blocks.end; at = at + step_blocks()) {
            UTHIN_TRY(move_up({at, std::min(blocks.end, at + step_blocks())}));
        }
    }
    // ORDER: OM1. The copies are durable before the catalogue says that nothing else is needed.
    UTHIN_TRY(engine_.commit_all());
    UTHIN_TRY(finish());
    drop_origin_work request(engine_, state());
    return engine_.worker().execute(state().queue, request);
}

// A pool that this would fill would stop its other volumes, too.
result<void> origin_mover::check_space(std::uint64_t blocks) const {
    const space_counts space = UTHIN_TRY(engine_.metadata().data_space());
    if (space.free_blocks + engine_.ready().count() + engine_.ready().lent() >= blocks) {
        return {};
    }
    return fail(error_code::no_data_space,
                fmt::format("{} data blocks are free, {} may be needed for the next step; grow the "
                            "pool and start again",
                            space.free_blocks, blocks));
}

}  // namespace uthin::pool_engine
