// The dumper over small images; tests/unit/thin_metadata/corpus_check_test.cpp has the real ones.
#include "thin_metadata/dumper.h"

#include "support/mapping_model.h"
#include "support/mapping_recorder.h"
#include "support/matchers.h"
#include "support/metadata_images.h"

namespace uthin::thin_metadata {
namespace {

using test::HasCode;
using test::mapping_recorder;
using testing::ElementsAre;

result<void> dump_image(const std::string& name, mapping_sink& sink,
                        const dump_options& options = {}) {
    const auto device = test::load_defect_image(name);
    const auto view = UTHIN_TRY(open_offline(*device, {}));
    return dump_metadata(*view, sink, options);
}

TEST(Dumper, SendsEveryDeviceWithAllItsMappings) {
    mapping_recorder recorder;
    ASSERT_OK(dump_image("clean_deep", recorder));
    // Neighbouring leaves join to one run.
    EXPECT_THAT(recorder.events,
                ElementsAre("pool", "device 1", "run 0 0 200 0", "end device", "device 2",
                            "run 0 0 200 0", "end device", "end pool"));
    EXPECT_EQ(recorder.pool.time, 1U);
    EXPECT_EQ(recorder.pool.data_blocks, 1000U);
    EXPECT_EQ(recorder.devices[2].details.creation_time, 1U);
}

TEST(Dumper, SendsSharedLeavesOnce) {
    mapping_recorder recorder;
    ASSERT_OK(dump_image("clean_deep", recorder, {.shared_pieces = true}));
    EXPECT_THAT(recorder.events,
                ElementsAre("pool", "def 10", "run 0 0 200 0", "end def", "device 1", "ref 10",
                            "end device", "device 2", "ref 10", "end device", "end pool"));
}

TEST(Dumper, SendsOnlyTheDevicesAskedFor) {
    mapping_recorder recorder;
    const std::vector<device_id> wanted = {device_id(2), device_id(77), device_id(2)};
    ASSERT_OK(dump_image("clean", recorder, {.devices = wanted, .shared_pieces = true}));
    // One device shares with nobody.
    EXPECT_THAT(recorder.events,
                ElementsAre("pool", "device 2", "run 0 0 3 0", "end device", "end pool"));
}

TEST(Dumper, SkipsMappingsEvenWhenTheyAreDamaged) {
    mapping_recorder recorder;
    ASSERT_OK(dump_image("top_checksum", recorder, {.skip_mappings = true}));
    EXPECT_THAT(recorder.events, ElementsAre("pool", "device 1", "end device", "device 2",
                                             "end device", "end pool"));
}

TEST(Dumper, SendsAPoolWithoutDevices) {
    mapping_recorder recorder;
    ASSERT_OK(dump_image("clean_fresh", recorder, {.shared_pieces = true}));
    EXPECT_THAT(recorder.events, ElementsAre("pool", "end pool"));
}

TEST(Dumper, ReadsAMetadataSnapshot) {
    const auto device = test::load_defect_image("clean_held");
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*device, {.metadata_snapshot = true}));
    mapping_recorder recorder;
    ASSERT_OK(dump_metadata(*view, recorder, {}));
    EXPECT_EQ(recorder.pool.data_blocks, 100U);
    EXPECT_EQ(recorder.devices.size(), 2U);
}

TEST(Dumper, FailsOnDamageInEitherForm) {
    for (const char* name :
         {"bottom_checksum", "second_leaf_checksum", "top_checksum", "details_checksum", "loop",
          "keys_out_of_order", "value_size", "pointer_beyond_device", "empty_internal", "too_deep",
          "uneven_depth", "high_parent_key", "details_lack_device", "top_lacks_device",
          "root_is_details"}) {
        for (const bool shared : {false, true}) {
            mapping_recorder recorder;
            EXPECT_THAT(dump_image(name, recorder, {.shared_pieces = shared}),
                        HasCode(error_code::corrupt))
                << name << shared;
        }
    }
}

TEST(Dumper, SaysWhichDeviceIsDamaged) {
    mapping_recorder recorder;
    const auto outcome = dump_image("second_leaf_checksum", recorder);
    ASSERT_FALSE(outcome);
    EXPECT_THAT(outcome.error().message(), testing::StartsWith("device 1: "));
}

TEST(Dumper, ErrorsOfTheSinkEndIt) {
    for (const bool shared : {false, true}) {
        mapping_recorder counting;
        ASSERT_OK(dump_image("clean_deep", counting, {.shared_pieces = shared}));
        for (std::size_t at = 0; at < counting.events.size(); ++at) {
            mapping_recorder failing;
            failing.fail_at = at;
            EXPECT_THAT(dump_image("clean_deep", failing, {.shared_pieces = shared}),
                        HasCode(error_code::io_error));
            EXPECT_EQ(failing.events.size(), at + 1);
        }
    }
}

// What is announced to it, of the source below.
class plan_counter final : public persistent_data::block_source {
public:
    explicit plan_counter(persistent_data::block_source& below) : below_(below) {}
    result<persistent_data::block_ref> read(metadata_block where,
                                            persistent_data::block_kind kind) override {
        return below_.read(where, kind);
    }
    [[nodiscard]] std::uint64_t block_count() const override { return below_.block_count(); }
    void prefetch(std::span<const metadata_block> blocks,
                  persistent_data::block_kind kind) override {
        below_.prefetch(blocks, kind);
    }
    bool plan(std::vector<std::uint32_t> order, persistent_data::block_kind /*kind*/) override {
        planned.push_back(order.size());
        return false;
    }

    std::vector<std::size_t> planned;

private:
    persistent_data::block_source& below_;
};

TEST(Dumper, AnnouncesOnlyWhatIsMoreThanOneLeaf) {
    test::mapping_model model;
    for (std::uint64_t id = 0; id < 20; ++id) {
        model.devices[id].mappings[0] = {id, 0};
        model.devices[id].details.mapped_blocks = 1;
    }
    for (std::uint64_t block = 0; block < 600; ++block) {
        model.devices[20].mappings[2 * block] = {20 + block, 0};
    }
    model.devices[20].details.mapped_blocks = 600;
    const auto image = test::image_of(model);
    ASSERT_NE(image, nullptr);
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*image, {}));
    ASSERT_OK_AND_ASSIGN(const auto devices, list_devices(*view));
    plan_counter source(view->source());
    mapping_recorder recorder;
    ASSERT_OK(dump_devices(source, pool_header_of(view->superblock()), devices, recorder, {}));
    EXPECT_EQ(recorder.devices, model.devices);
    EXPECT_EQ(source.planned, std::vector<std::size_t>{3});
}

}  // namespace
}  // namespace uthin::thin_metadata
