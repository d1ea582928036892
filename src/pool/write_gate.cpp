#include "pool/write_gate.h"

#include <algorithm>
#include <utility>

#include "base/interleaving.h"

namespace uthin::pool_engine {

namespace {

bool overlap(range<virtual_block> a, range<virtual_block> b) {
    return a.begin < b.end && b.begin < a.end;
}

}  // namespace

bool write_gate::is_held(range<virtual_block> blocks) const {
    return held_ && overlap(*held_, blocks);
}

bool write_gate::is_passed(range<virtual_block> blocks) const {
    return std::any_of(passes_.begin(), passes_.end(),
                       [&](const auto& one) { return overlap(one, blocks); });
}

write_gate::pass::pass(write_gate& gate, range<virtual_block> blocks)
    : gate_(gate), blocks_(blocks) {
    if (!gate_.working()) {
        interleaving_point();
        return;
    }
    const lock_guard held(gate_.lock_);
    while (gate_.is_held(blocks_)) {
        gate_.changed_.wait(gate_.lock_);
    }
    gate_.passes_.push_back(blocks_);
    counted_ = true;
}

write_gate::pass::~pass() {
    if (!counted_) {
        return;
    }
    const lock_guard held(gate_.lock_);
    gate_.passes_.erase(std::find(gate_.passes_.begin(), gate_.passes_.end(), blocks_));
    gate_.changed_.notify_all();
}

write_gate::hold::hold(write_gate& gate, range<virtual_block> blocks) : gate_(gate) {
    const lock_guard held(gate_.lock_);
    gate_.held_ = blocks;
    while (gate_.is_passed(blocks)) {
        gate_.changed_.wait(gate_.lock_);
    }
}

write_gate::hold::~hold() {
    const lock_guard held(gate_.lock_);
    gate_.held_.reset();
    gate_.changed_.notify_all();
}

bool write_gate::put_to_work() {
    interleaving_point();
    return !working_.exchange(true);
}

void write_gate::shut_off() {
    interleaving_point();
    working_.store(false);
    static_cast<void>(take_discards());
}

void write_gate::note_discard(range<virtual_block> blocks) {
    if (!working()) {
        return;
    }
    const lock_guard held(lock_);
    discarded_ = discarded_.empty() ? blocks
                                    : range<virtual_block>{std::min(discarded_.begin, blocks.begin),
                                                           std::max(discarded_.end, blocks.end)};
}

range<virtual_block> write_gate::take_discards() {
    const lock_guard held(lock_);
    return std::exchange(discarded_, range<virtual_block>{});
}

}  // namespace uthin::pool_engine
