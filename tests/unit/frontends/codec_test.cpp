#include "frontends/control/codec.h"

#include <gtest/gtest.h>

#include <string>

#include "support/matchers.h"

namespace uthin::frontends {
namespace {

volume_info full_volume() {
    volume_info volume;
    volume.name = "a \"quoted\" n\u00e4me";
    volume.uuid = "0b9c";
    volume.dev_id = 7;
    volume.size_bytes = 1ULL << 62;
    volume.mapped_bytes = 65536;
    volume.parent = "p";
    volume.exclusive_bytes = 512;
    volume.shared_bytes = 0;
    volume.reserved_bytes = 1024;
    volume.limit_bytes = ~0ULL;
    volume.parent_uuid = "1c2d";
    volume.created_unix_seconds = 1'800'000'000;
    volume.creation_time = 3;
    volume.creation_transaction_id = ~0ULL;
    volume.external_origin = "nbd://host/x";
    volume.received_from = "there";
    volume.labels = {{"owner", "me"}, {"", "empty"}};
    volume.in_use = true;
    return volume;
}

// What a peer gets: text, read again.
json sent(const json& value) {
    return *parse_object(to_text(value));
}

TEST(Codec, VolumesSurviveTheWire) {
    const auto one = decode_volume(sent(encode(full_volume())));
    ASSERT_OK(one);
    EXPECT_EQ(*one, full_volume());
    const auto several = decode_volumes(sent(encode(std::vector{full_volume(), volume_info{}})));
    ASSERT_OK(several);
    EXPECT_EQ(*several, (std::vector{full_volume(), volume_info{}}));
}

TEST(Codec, EventsSurviveTheWire) {
    events_reply reply;
    reply.events = {{1ULL << 52, 1'800'000'000, "mode_changed", "read_only", "because \"of\" it"},
                    {(1ULL << 52) + 1, 0, "", "", ""}};
    reply.last = (1ULL << 52) + 1;
    reply.some_lost = true;
    EXPECT_EQ(decode_events_reply(sent(encode(reply))).value(), reply);
    EXPECT_EQ(decode_events_reply(sent(encode(events_reply{}))).value(), events_reply{});
    json value = sent(encode(reply));
    value["events"][0].erase("number");
    EXPECT_FALSE(decode_events_reply(value));
    EXPECT_FALSE(decode_events_reply(*parse_object(R"({"last":1,"some_lost":false})")));
}

TEST(Codec, DiffsSurviveTheWire) {
    diff_reply reply;
    reply.from_size_bytes = 1;
    reply.to_size_bytes = 1ULL << 62;
    reply.block_size_bytes = 3;
    reply.ranges = {
        {4, 5, change_kind::changed}, {6, 7, change_kind::added}, {8, ~0ULL, change_kind::removed}};
    EXPECT_EQ(decode_diff_reply(sent(encode(reply))).value(), reply);
    reply.next_offset_bytes = 9;
    json value = sent(encode(reply));
    EXPECT_EQ(decode_diff_reply(value).value(), reply);
    value["ranges"][1]["kind"] = "eaten";
    EXPECT_FALSE(decode_diff_reply(value));
}

TEST(Codec, TransfersAndLabelsSurviveTheWire) {
    const transfer_info transfer{"id", "name", 1, 2, {{"k", "v"}}, 3, true};
    EXPECT_EQ(decode_transfer(sent(encode(transfer))).value(), transfer);
    const std::vector<transfer_info> list = {transfer, {}};
    EXPECT_EQ(decode_transfers(sent(encode(list))).value(), list);
    publish_request publish{"n",         seen_volume{1, 2, ~0ULL, 4}, "s", "from", {{"a", ""}},
                            {{"b", "c"}}};
    EXPECT_EQ(decode_publish(sent(encode(publish))).value(), publish);
    publish.replaces.reset();
    EXPECT_EQ(decode_publish(sent(encode(publish))).value(), publish);
    const begin_transfer_request begin{"n", "base", 512, {{"k", "v"}}};
    EXPECT_EQ(encode(*decode_begin_transfer(sent(encode(begin)))), encode(begin));
    const label_request labels{"", {{"k", "v"}}, {"gone"}};
    EXPECT_EQ(encode(*decode_label(sent(encode(labels)))), encode(labels));
    json unknown = encode(labels);
    unknown["x"] = 1;
    EXPECT_FALSE(decode_label(unknown));
}

TEST(Codec, ReportsSurviveTheWire) {
    pool_report report;
    report.uuid = "u";
    report.directory = "/d";
    report.metadata_url = "m";
    report.data_url = "d";
    report.adopted = report.served = report.needs_check = true;
    report.zeroing = false;
    report.cache = "writeback";
    report.mode = "read_only";
    report.mode_cause = "because";
    report.transaction_id = 1;
    report.block_size_bytes = 2;
    report.data_blocks = 3;
    report.data_used_blocks = 4;
    report.metadata_blocks = 5;
    report.metadata_used_blocks = 6;
    report.metadata_snapshot_block = 7;
    report.low_water_blocks = 8;
    report.discard = "ignore";
    report.no_space = "error";
    report.volume_count = 9;
    report.deletions_running = 10;
    report.virtual_bytes = 11;
    report.data_promised_blocks = 12;
    report.overcommit_percent = 13;
    report.discard_rate_bytes_per_s = 14;
    report.metadata_snapshot_owner = "me";
    report.metadata_snapshot_expires_unix_seconds = 15;
    const auto read = decode_report(sent(encode(report)));
    ASSERT_OK(read);
    // No field is lost: what was read says the same when it is written again.
    EXPECT_EQ(encode(*read), encode(report));
    EXPECT_EQ(read->metadata_snapshot_block, 7U);
    report.metadata_snapshot_block.reset();
    EXPECT_EQ(decode_report(sent(encode(report)))->metadata_snapshot_block, std::nullopt);
}

TEST(Codec, RepliesSurviveTheWire) {
    check_reply check{.clean = true,
                      .fatal = 1,
                      .repairable = 2,
                      .cosmetic = 3,
                      .findings = {"fatal: x", ""},
                      .devices = 4,
                      .mapped_blocks = 5,
                      .data_blocks_used = 6,
                      .metadata_blocks_used = 7,
                      .needs_check = true,
                      .repaired = true,
                      .leaks_mended = true};
    EXPECT_EQ(encode(*decode_check_reply(sent(encode(check)))), encode(check));
    release_reply release{.pool = {"pool", 0, 10, "0 20 thin-pool"},
                          .volumes = {{"v", 1, 2, "0 4 thin"}}};
    EXPECT_EQ(encode(*decode_release_reply(sent(encode(release)))), encode(release));
    const metadata_snapshot_reply held{.block = 5, .owner = "o", .expires_unix_seconds = 9};
    EXPECT_EQ(decode_metadata_snapshot_reply(sent(encode(held))), held);
    EXPECT_EQ(decode_metadata_snapshot_reply(sent(encode(metadata_snapshot_reply()))),
              metadata_snapshot_reply());
    const usage_reply usage{.mapped_bytes = 7, .freed_bytes = 3};
    EXPECT_EQ(decode_usage_reply(sent(encode(usage))), usage);
}

TEST(Codec, OriginJobsSurviveTheWire) {
    for (const origin_job_kind kind : {origin_job_kind::merge, origin_job_kind::flatten}) {
        const origin_job_info info{.name = "v",
                                   .kind = kind,
                                   .state = "failed",
                                   .failure = "because",
                                   .left_bytes = 1,
                                   .total_bytes = UINT64_MAX};
        EXPECT_EQ(*decode_origin_job_info(sent(encode(info))), info);
    }
    json wrong = encode(origin_job_info{});
    wrong["kind"] = "else";
    EXPECT_THAT(decode_origin_job_info(wrong), test::HasCode(error_code::invalid_argument));
    origin_job_request request;
    request.copy_up = true;
    EXPECT_EQ(encode(*decode_origin_job(sent(encode(request)))), encode(request));
    request = {};
    request.grow_origin = true;
    EXPECT_EQ(encode(*decode_origin_job(sent(encode(request)))), encode(request));
    EXPECT_THAT(decode_origin_job({{"copy-up", true}}),
                test::HasCode(error_code::invalid_argument));
}

TEST(Codec, RequestsSurviveTheWire) {
    create_volume_request create{.name = "n",
                                 .size_bytes = 4096,
                                 .dev_id = 9,
                                 .external_origin = "u",
                                 .reserved_bytes = 512,
                                 .limit_bytes = 1024,
                                 .if_not_exists = true};
    EXPECT_EQ(encode(*decode_create_volume(sent(encode(create)))), encode(create));
    create_snapshots_request snapshots{.snapshots = {{"a", "b", {}}, {"b", "c", {{"k", "v"}}}},
                                       .if_not_exists = true};
    EXPECT_EQ(encode(*decode_create_snapshots(sent(encode(snapshots)))), encode(snapshots));
    grow_request grow{.data_size_bytes = 5, .metadata_size_bytes = std::nullopt};
    EXPECT_EQ(decode_grow(sent(encode(grow)))->data_size_bytes, 5U);
    EXPECT_EQ(decode_grow(sent(encode(grow)))->metadata_size_bytes, std::nullopt);
    EXPECT_TRUE(decode_check(sent(encode(check_request{.repair = true})))->repair);
    rollback_request rollback{.name = "", .to = "s", .force = true};
    EXPECT_EQ(encode(*decode_rollback(sent(encode(rollback)))), encode(rollback));
    const set_volume_request limits{.name = "", .reserved_bytes = 0, .limit_bytes = std::nullopt};
    EXPECT_EQ(decode_set_volume(sent(encode(limits)))->reserved_bytes, 0U);
    EXPECT_EQ(decode_set_volume(sent(encode(limits)))->limit_bytes, std::nullopt);
    const metadata_snapshot_request lease{.lease_s = 60, .owner = "me"};
    EXPECT_EQ(decode_metadata_snapshot(sent(encode(lease)))->lease_s, 60U);
    EXPECT_EQ(decode_metadata_snapshot(sent(encode(lease)))->owner, "me");
    EXPECT_EQ(*decode_names(sent({{"volumes", {"a", "b"}}})), (std::vector<std::string>{"a", "b"}));
}

TEST(Codec, ErrorsKeepTheirCodeErrnoAndWords) {
    for (int number = 0; number <= static_cast<int>(error_code::failed); ++number) {
        const error failure(static_cast<error_code>(number), "words \"of\" it", number);
        const error read = decode_error(sent(encode(failure)));
        EXPECT_EQ(read.code(), failure.code());
        EXPECT_EQ(read.os_errno(), failure.os_errno());
        EXPECT_EQ(read.message(), failure.message());
    }
}

TEST(Codec, AnAnswerThatIsNoErrorBecomesOne) {
    for (const char* text :
         {"{}", R"({"error":5})", R"({"error":{}})", R"({"error":{"code":"new","message":"m"}})",
          R"({"error":{"code":"busy"}})"}) {
        EXPECT_EQ(decode_error(*parse_object(text)).code(), error_code::io_error) << text;
    }
}

TEST(Codec, RequestsAreRefusedWithTheNameOfTheField) {
    const auto message_of = [](const char* text) {
        const auto value = parse_object(text);
        const auto request = value ? decode_create_volume(*value) : std::unexpected(value.error());
        EXPECT_FALSE(request) << text;
        return request ? std::string() : request.error().message();
    };
    EXPECT_EQ(message_of(R"({"size":1})"), "the field 'name' is missing");
    EXPECT_EQ(message_of(R"({"name":"n","size":"1"})"), "the field 'size' has the wrong type");
    EXPECT_EQ(message_of(R"({"name":"n","size":-1})"), "the field 'size' has the wrong type");
    EXPECT_EQ(message_of(R"({"name":"n","size":1e3})"), "the field 'size' has the wrong type");
    EXPECT_EQ(message_of(R"({"name":"n","size":1,"sise":1})"), "unknown field 'sise'");
    EXPECT_EQ(message_of("{"), "the request is not JSON");
    EXPECT_EQ(message_of("[]"), "the request is no JSON object");
    EXPECT_EQ(message_of("{\"name\":\"\xff\",\"size\":1}"), "the request is not JSON");
    EXPECT_FALSE(decode_settings(*parse_object(R"({"key":1})")));
}

TEST(Codec, RepliesOfANewerServerAreUnderstood) {
    json value = encode(full_volume());
    value["colour"] = "red";
    EXPECT_TRUE(decode_volume(value));
    EXPECT_TRUE(*decode_reply_flag(*parse_object(R"({"deleted":true,"more":1})"), "deleted"));
}

TEST(Codec, BytesThatAreNoUtf8DoNotStopAnAnswer) {
    EXPECT_TRUE(parse_object(to_text({{"path", "\xff\xfe"}})));
}

}  // namespace
}  // namespace uthin::frontends
