// Writers and the worker that holds a range of their blocks.
#include "pool/write_gate.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace uthin::pool_engine {
namespace {

range<virtual_block> blocks(std::uint64_t begin, std::uint64_t end) {
    return {virtual_block(begin), virtual_block(end)};
}

TEST(WriteGate, CountsNobodyWhileItIsShutOff) {
    write_gate gate;
    const write_gate::pass pass(gate, blocks(0, 10));
    const write_gate::hold hold(gate, blocks(0, 10));
    EXPECT_FALSE(pass.stale());
}

TEST(WriteGate, APassFromBeforeItWorkedIsStale) {
    write_gate gate;
    const write_gate::pass before(gate, blocks(0, 10));
    EXPECT_TRUE(gate.put_to_work());
    EXPECT_TRUE(before.stale());
    const write_gate::pass after(gate, blocks(0, 10));
    EXPECT_FALSE(after.stale());
    EXPECT_FALSE(gate.put_to_work());
}

TEST(WriteGate, AHoldWaitsForPassesThatOverlapAndKeepsNewOnesOut) {
    write_gate gate;
    ASSERT_TRUE(gate.put_to_work());
    std::atomic<int> order{0};
    auto pass = std::make_unique<write_gate::pass>(gate, blocks(3, 5));
    std::atomic<int> held_at{0};
    std::atomic<int> second_at{0};
    std::atomic<bool> let_go{false};
    std::thread worker([&] {
        const write_gate::hold hold(gate, blocks(4, 8));
        held_at = ++order;
        while (!let_go) {
            std::this_thread::yield();
        }
    });
    // Elsewhere nobody waits.
    { const write_gate::pass other(gate, blocks(8, 9)); }
    std::thread writer([&] {
        while (held_at == 0) {
            std::this_thread::yield();
        }
        const write_gate::pass late(gate, blocks(7, 8));
        second_at = ++order;
    });
    EXPECT_EQ(held_at, 0);
    pass.reset();
    while (held_at == 0) {
        std::this_thread::yield();
    }
    EXPECT_EQ(second_at, 0);
    let_go = true;
    worker.join();
    writer.join();
    EXPECT_EQ(held_at, 1);
    EXPECT_EQ(second_at, 2);
}

TEST(WriteGate, RemembersTheHullOfDiscards) {
    write_gate gate;
    gate.note_discard(blocks(1, 2));
    EXPECT_TRUE(gate.take_discards().empty());
    ASSERT_TRUE(gate.put_to_work());
    gate.note_discard(blocks(5, 6));
    gate.note_discard(blocks(9, 12));
    gate.note_discard(blocks(7, 8));
    EXPECT_EQ(gate.take_discards(), blocks(5, 12));
    EXPECT_TRUE(gate.take_discards().empty());
}

}  // namespace
}  // namespace uthin::pool_engine
