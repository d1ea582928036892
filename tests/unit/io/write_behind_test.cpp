// What is written behind the caller's back arrives, in order, and failures come back.
#include "io/write_behind.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "base/random.h"
#include "base/result.h"
#include "io/fault_device.h"
#include "io/memory_device.h"
#include "support/forwarding_device.h"
#include "support/matchers.h"
#include "support/seed.h"

namespace uthin::io {
namespace {

constexpr std::size_t block = 512;
constexpr std::size_t piece = 8 * block;
constexpr std::uint64_t blocks = 1000;

std::vector<std::byte> filled(std::uint64_t with) {
    return std::vector<std::byte>(block, static_cast<std::byte>(with));
}

class WriteBehind : public ::testing::Test {
protected:
    std::byte on_device(std::uint64_t where) {
        std::vector<std::byte> found(block);
        EXPECT_OK(device_.read(where * block, found));
        EXPECT_EQ(found, std::vector<std::byte>(block, found[0]));
        return found[0];
    }

    memory_device device_{blocks * block};
};

TEST_F(WriteBehind, NeighboursGoOutTogetherAndAPieceAloneIsWrittenByFinish) {
    fault_plan plan;
    fault_device counted(device_, plan);
    write_behind writes(counted, piece);
    for (std::uint64_t at = 10; at < 15; ++at) {
        ASSERT_OK(writes.write(at * block, filled(at)));
    }
    EXPECT_EQ(on_device(10), std::byte{0});
    ASSERT_OK(writes.finish());
    EXPECT_EQ(plan.count(operation_kind::write), 1U);
    for (std::uint64_t at = 10; at < 15; ++at) {
        EXPECT_EQ(on_device(at), static_cast<std::byte>(at));
    }
}

TEST_F(WriteBehind, TheLastWriteOfABlockCountsAndIsReadAtOnce) {
    random_generator random(test::seed());
    std::vector<std::uint8_t> model(blocks);
    write_behind writes(device_, piece);
    std::uint64_t at = 0;
    for (int i = 0; i < 20'000; ++i) {
        at = random.below(3) == 0 ? random.below(40) : (at + 1) % blocks;
        model[at] = static_cast<std::uint8_t>(1 + random.below(255));
        ASSERT_OK(writes.write(at * block, filled(model[at])));
        const std::uint64_t other = random.below(blocks);
        std::vector<std::byte> found(block);
        ASSERT_OK(writes.read(other * block, found));
        ASSERT_EQ(found, filled(model[other])) << "block " << other << " after " << i;
    }
    ASSERT_OK(writes.finish());
    for (std::uint64_t where = 0; where < blocks; ++where) {
        ASSERT_EQ(on_device(where), static_cast<std::byte>(model[where])) << "block " << where;
    }
}

// run() promises no order.
class reversing_device final : public test::forwarding_device {
public:
    using forwarding_device::forwarding_device;
    [[nodiscard]] result<void> run(std::span<const io_op> ops) override {
        for (auto op = ops.rbegin(); op != ops.rend(); ++op) {
            UTHIN_TRY(below().run(std::span(&*op, 1)));
        }
        return {};
    }
};

TEST_F(WriteBehind, TheLastWriteCountsOnADeviceThatReordersToo) {
    reversing_device reversing(device_);
    for (std::uint64_t round = 0; round < 500; ++round) {
        write_behind writes(reversing, piece);
        for (std::uint64_t i = 0; i < 12; ++i) {
            ASSERT_OK(writes.write((5 + i % 2 * 100) * block, filled(1 + i)));
        }
        ASSERT_OK(writes.finish());
        ASSERT_EQ(on_device(5), std::byte{11}) << "round " << round;
        ASSERT_EQ(on_device(105), std::byte{12}) << "round " << round;
    }
}

TEST_F(WriteBehind, AFailureComesBackAndNothingIsWrittenAfterIt) {
    fault_plan plan;
    fault_device faulty(device_, plan);
    plan.arm({.kinds = {operation_kind::write}, .nth = 3});
    write_behind writes(faulty, piece);
    result<void> outcome;
    for (std::uint64_t at = 0; at < blocks && outcome; at += 2) {
        outcome = writes.write(at * block, filled(1));
    }
    EXPECT_FALSE(outcome);
    plan.disarm();
    EXPECT_FALSE(writes.write((blocks - 1) * block, filled(1)));
    std::vector<std::byte> bytes(block);
    EXPECT_FALSE(writes.read(0, bytes));
    EXPECT_FALSE(writes.finish());
    EXPECT_EQ(on_device(blocks - 1), std::byte{0});
}

TEST_F(WriteBehind, GivenUpItEnds) {
    std::optional<write_behind> writes(std::in_place, device_, piece);
    for (std::uint64_t at = 0; at < 20; at += 2) {
        ASSERT_OK(writes->write(at * block, filled(1)));
    }
    writes.reset();
}

}  // namespace
}  // namespace uthin::io
