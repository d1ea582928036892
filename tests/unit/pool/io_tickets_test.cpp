#include "pool/io_tickets.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "pool/data_epochs.h"
#include "support/matchers.h"

namespace uthin::pool_engine {
namespace {

using test::HasCode;
using test::IsOk;

TEST(IoTickets, AreDrainedWhenEveryTicketOfTheKindEnded) {
    int releases = 0;
    io_tickets tickets([&] { ++releases; });
    auto first = tickets.take(io_kind::write);
    auto read = tickets.take(io_kind::read);
    ASSERT_OK(first);
    tickets.close_door(false);
    EXPECT_FALSE(tickets.drained(false));
    *first = io_ticket();
    EXPECT_TRUE(tickets.drained(false));
    EXPECT_FALSE(tickets.drained(true));
    EXPECT_EQ(releases, 1);
    tickets.open_door(false);
}

TEST(IoTickets, ReadsPassADoorThatIsClosedForWrites) {
    io_tickets tickets([] {});
    tickets.close_door(false);
    EXPECT_OK(tickets.take(io_kind::read));
    tickets.open_door(false);
    EXPECT_OK(tickets.take(io_kind::write));
}

TEST(IoTickets, AMovedTicketIsReleasedOnce) {
    io_tickets tickets([] {});
    {
        auto first = tickets.take(io_kind::write);
        io_ticket second = std::move(*first);
        io_ticket third;
        third = std::move(second);
        EXPECT_TRUE(third.held());
        EXPECT_FALSE(second.held());
        tickets.close_door(false);
        EXPECT_FALSE(tickets.drained(false));
    }
    EXPECT_TRUE(tickets.drained(false));
}

TEST(IoTickets, WhoWaitsAtTheDoorIsRefusedWhenItClosesForGood) {
    io_tickets tickets([] {});
    tickets.close_door(true);
    std::thread waiter(
        [&] { EXPECT_THAT(tickets.take(io_kind::write), HasCode(error_code::failed)); });
    tickets.close_for_good();
    waiter.join();
    EXPECT_THAT(tickets.take(io_kind::read), HasCode(error_code::failed));
}

// A plain variable that ticket holders change and that the closer reads: thread sanitizer and the
// value say whether drained() means what it says.
TEST(IoTickets, NobodyIsInsideWhileTheDoorIsClosedAndDrained) {
    io_tickets tickets([] {});
    std::atomic<bool> stop{false};
    std::atomic<int> inside{0};
    std::atomic<std::uint64_t> taken{0};
    std::vector<std::thread> writers;
    for (int i = 0; i < 3; ++i) {
        writers.emplace_back([&] {
            while (!stop.load()) {
                auto ticket = tickets.take(io_kind::write);
                inside.fetch_add(1);
                taken.fetch_add(1);
                inside.fetch_sub(1);
            }
        });
    }
    for (int round = 0; round < 2000; ++round) {
        tickets.close_door(round % 2 == 0);
        while (!tickets.drained(false)) {
            std::this_thread::yield();
        }
        const std::uint64_t before = taken.load();
        ASSERT_EQ(inside.load(), 0);
        std::this_thread::yield();
        ASSERT_EQ(inside.load(), 0);
        ASSERT_EQ(taken.load(), before);
        tickets.open_door(round % 2 == 0);
    }
    stop.store(true);
    for (std::thread& one : writers) {
        one.join();
    }
}

TEST(DataEpochs, AGraceWaitsForOlderPinsAndNotForYoungerOnes) {
    data_epochs epochs;
    std::atomic<bool> waited{false};
    auto old = std::make_unique<data_pin>(epochs.pin());
    const std::uint32_t grace = epochs.begin_grace();
    const data_pin young = epochs.pin();
    std::thread waiter([&] {
        epochs.wait(grace);
        waited.store(true);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(waited.load());
    old.reset();
    waiter.join();
    EXPECT_TRUE(waited.load());
}

// Readers pin, then load the "mapping" and use the object it names; the changer unpublishes it,
// waits for a grace and marks it reused.
TEST(DataEpochs, WhatWasUnpublishedIsNotInUseAfterAGrace) {
    data_epochs epochs;
    struct object {
        std::atomic<bool> reused{false};
    };
    std::vector<object> objects(3000);
    std::atomic<std::size_t> mapping{0};
    std::atomic<bool> stop{false};
    std::atomic<int> violations{0};
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; ++i) {
        readers.emplace_back([&] {
            while (!stop.load()) {
                const data_pin pin = epochs.pin();
                object& used = objects[mapping.load()];
                for (int look = 0; look < 20; ++look) {
                    violations.fetch_add(used.reused.load() ? 1 : 0);
                }
            }
        });
    }
    for (std::size_t next = 1; next < objects.size(); ++next) {
        mapping.store(next);
        epochs.wait(epochs.begin_grace());
        objects[next - 1].reused.store(true);
    }
    stop.store(true);
    for (std::thread& one : readers) {
        one.join();
    }
    EXPECT_EQ(violations.load(), 0);
}

}  // namespace
}  // namespace uthin::pool_engine
