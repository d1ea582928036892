// What an export of differences says of its blocks.
#include "frontends/since_export.h"

#include <gmock/gmock.h>

#include "support/matchers.h"

namespace uthin::frontends {
namespace {

using testing::ElementsAre;

constexpr extent_kind data = extent_kind::data;
constexpr extent_kind hole = extent_kind::hole;

std::vector<std::tuple<std::uint64_t, std::uint64_t, extent_kind>> extents_of(
    const diff_reply& reply, std::uint64_t offset, std::uint64_t length, std::size_t max = 100) {
    const auto found = extents_since([&](const diff_request&) { return reply; },
                                     {.from = "a", .to = "b"}, offset, length, max);
    EXPECT_OK(found);
    std::vector<std::tuple<std::uint64_t, std::uint64_t, extent_kind>> list;
    for (const volume_extent& extent : *found) {
        list.emplace_back(extent.begin_bytes, extent.length_bytes, extent.kind);
    }
    return list;
}

diff_reply reply_of(std::vector<changed_range> ranges, std::uint64_t from_size = 1000) {
    diff_reply reply;
    reply.from_size_bytes = from_size;
    reply.to_size_bytes = 1000;
    reply.block_size_bytes = 100;
    reply.ranges = std::move(ranges);
    return reply;
}

TEST(SinceExport, TellsOfEveryChangeAsDataAndOfTheRestAsHoles) {
    const diff_reply reply = reply_of({{100, 100, change_kind::changed},
                                       {200, 100, change_kind::removed},
                                       {500, 100, change_kind::added}});
    EXPECT_THAT(extents_of(reply, 0, 1000),
                ElementsAre(std::tuple(0, 100, hole), std::tuple(100, 200, data),
                            std::tuple(300, 200, hole), std::tuple(500, 100, data),
                            std::tuple(600, 400, hole)));
    EXPECT_THAT(extents_of(reply, 150, 100), ElementsAre(std::tuple(150, 100, data)));
    EXPECT_THAT(extents_of(reply_of({}), 7, 5), ElementsAre(std::tuple(7, 5, hole)));
}

TEST(SinceExport, EndsWhereTheDifferenceIsNotKnownYet) {
    diff_reply reply = reply_of({{100, 100, change_kind::changed}});
    reply.next_offset_bytes = 700;
    EXPECT_THAT(extents_of(reply, 0, 1000),
                ElementsAre(std::tuple(0, 100, hole), std::tuple(100, 100, data),
                            std::tuple(200, 500, hole)));
    EXPECT_THAT(extents_of(reply, 0, 1000, 1), ElementsAre(std::tuple(0, 100, hole)));
}

TEST(SinceExport, TellsOfTheBlockInWhichASmallerBaseEnded) {
    EXPECT_THAT(extents_of(reply_of({}, 430), 0, 1000),
                ElementsAre(std::tuple(0, 430, hole), std::tuple(430, 70, data),
                            std::tuple(500, 500, hole)));
    EXPECT_THAT(extents_of(reply_of({{400, 100, change_kind::changed}}, 430), 0, 600),
                ElementsAre(std::tuple(0, 400, hole), std::tuple(400, 100, data),
                            std::tuple(500, 100, hole)));
    EXPECT_THAT(extents_of(reply_of({{600, 100, change_kind::added}}, 430), 400, 400),
                ElementsAre(std::tuple(400, 30, hole), std::tuple(430, 70, data),
                            std::tuple(500, 100, hole), std::tuple(600, 100, data),
                            std::tuple(700, 100, hole)));
}

TEST(SinceExport, ReadsANameInEveryWay) {
    const auto names = since_names("a@since-b@since-c");
    ASSERT_EQ(names.size(), 2U);
    EXPECT_EQ(names[0].to + "|" + names[0].from, "a|b@since-c");
    EXPECT_EQ(names[1].to + "|" + names[1].from, "a@since-b|c");
    EXPECT_TRUE(since_names("a@since").empty());
}

}  // namespace
}  // namespace uthin::frontends
