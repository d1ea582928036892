// The checker against images with one planted defect each, and against hostile bytes.
#include "thin_metadata/checker.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/random.h"
#include "io/memory_device.h"
#include "persistent_data/validator.h"
#include "support/matchers.h"
#include "support/metadata_images.h"
#include "support/seed.h"

namespace uthin::thin_metadata {
namespace {

using persistent_data::block_kind;
using testing::HasSubstr;

struct expectation {
    const char* image;
    // Every distinct "severity code", sorted; "" is clean.
    const char* findings;
};

// What each image must show: no more, no less.
const expectation expectations[] = {
    {"clean", ""},
    {"clean_deep", ""},
    {"clean_fresh", ""},
    {"clean_held", ""},
    {"clean_low_parent_key", ""},
    {"clean_minimum_fill", ""},
    {"needs_check", ""},

    {"metadata_leak_1", "repairable count_too_high"},
    {"metadata_leak_2", "repairable count_too_high"},
    {"metadata_count_low", "fatal count_too_low"},
    {"held_not_counted", "fatal count_too_low"},
    {"metadata_nr_free", "cosmetic wrong_nr_free"},
    {"metadata_none_free_before", "cosmetic wrong_none_free_before"},
    {"metadata_nr_allocated", "cosmetic wrong_nr_allocated"},
    {"metadata_index_garbage", "cosmetic unused_index_entry"},
    {"metadata_count_beyond_end", "repairable count_beyond_end"},
    {"metadata_stale_overflow", "cosmetic stale_overflow_entry"},
    {"metadata_missing_overflow",
     "cosmetic wrong_nr_allocated, cosmetic wrong_nr_free, fatal missing_overflow_entry"},
    {"metadata_map_too_long", "cosmetic stale_metadata_size, fatal bad_space_map_size"},
    {"metadata_bitmap_checksum", "fatal bad_block"},
    {"metadata_index_checksum", "fatal bad_block"},
    {"metadata_bitmap_shared",
     "cosmetic wrong_none_free_before, cosmetic wrong_nr_allocated, cosmetic wrong_nr_free, fatal "
     "conflicting_use, fatal count_too_low"},

    {"data_counts_low",
     "cosmetic wrong_none_free_before, cosmetic wrong_nr_allocated, cosmetic wrong_nr_free, fatal "
     "count_too_low"},
    {"data_leak_1",
     "cosmetic wrong_nr_allocated, cosmetic wrong_nr_free, repairable count_too_high"},
    {"data_leak_2",
     "cosmetic wrong_nr_allocated, cosmetic wrong_nr_free, repairable count_too_high"},
    {"data_count_beyond_end", "repairable count_beyond_end"},
    {"data_stale_overflow", "cosmetic stale_overflow_entry"},
    {"data_small_overflow", "cosmetic small_overflow_entry"},
    {"data_missing_overflow", "fatal missing_overflow_entry"},
    {"data_nr_allocated", "cosmetic wrong_nr_allocated"},
    {"data_nr_free_truncated", "cosmetic wrong_nr_free"},
    {"data_index_missing", "fatal missing_index_entry"},
    {"data_index_extra",
     "cosmetic wrong_nr_allocated, fatal extra_index_entry, fatal mapping_beyond_data"},
    {"data_index_checksum", "fatal bad_block"},
    {"data_bitmap_checksum", "fatal bad_block"},
    {"data_overflow_checksum", "fatal bad_block"},
    {"data_map_too_long", "fatal bad_space_map_size, fatal missing_index_entry"},

    {"max_entries_low", "cosmetic odd_max_entries"},
    {"max_entries_odd", "cosmetic odd_max_entries"},
    {"node_flags_3", "fatal bad_block, fatal shared_damage"},
    {"node_flags_0", "fatal bad_block, fatal shared_damage"},
    {"node_padding", "cosmetic nonzero_padding"},
    {"node_slack", "cosmetic nonzero_padding"},
    {"keys_out_of_order", "fatal keys_out_of_order, fatal shared_damage"},
    {"value_size", "fatal shared_damage, fatal wrong_value_size"},
    {"too_many_entries", "fatal bad_block, fatal shared_damage"},
    {"node_number", "fatal shared_damage, fatal wrong_block_number"},
    {"underfull_left", "cosmetic underfull_node"},
    {"underfull_right", "cosmetic underfull_node"},
    {"high_parent_key", "fatal key_out_of_bounds, fatal shared_damage"},
    {"loop", "fatal count_too_low, fatal loop, fatal shared_damage"},
    {"pointer_beyond_device", "fatal block_out_of_range, fatal shared_damage"},
    {"empty_internal", "fatal empty_internal_node, fatal shared_damage"},
    {"root_is_details", "fatal conflicting_use, fatal count_too_low"},
    {"bottom_checksum", "fatal bad_block, fatal shared_damage"},
    {"second_leaf_checksum", "fatal bad_block, fatal shared_damage"},
    {"top_checksum", "fatal bad_block"},
    {"details_checksum", "fatal bad_block"},
    {"uneven_depth", "cosmetic underfull_node, fatal shared_damage, fatal uneven_depth"},
    {"too_deep", "cosmetic underfull_node, fatal shared_damage, fatal tree_too_deep"},

    {"details_lack_device", "fatal missing_details"},
    {"top_lacks_device", "fatal missing_mapping_tree"},
    {"mapped_blocks", "repairable wrong_mapped_blocks"},
    {"device_times", "cosmetic device_from_future"},
    {"device_time_order", "cosmetic device_from_future"},
    {"device_transaction", "cosmetic device_from_future"},
    {"mapping_beyond_data", "fatal mapping_beyond_data, repairable count_too_high"},
    {"mapping_time", "fatal mapping_from_future"},
    {"data_block_mapped_twice", "fatal count_too_low, repairable count_too_high"},
    {"large_device_id", "cosmetic device_id_too_large"},

    // The first four are refused before the check.
    {"superblock_magic", "corrupt"},
    {"superblock_number", "wrong block"},
    {"superblock_checksum", "corrupt"},
    {"superblock_blank", "corrupt"},
    {"superblock_version_1", "cosmetic bad_version"},
    {"superblock_version_3", "cosmetic bad_version"},
    {"superblock_incompat", "fatal unknown_features"},
    {"superblock_compat_ro", "fatal unknown_features"},
    {"superblock_compat", "cosmetic unknown_features"},
    {"superblock_flags", "cosmetic unknown_flags"},
    {"superblock_metadata_block_size", "cosmetic bad_metadata_block_size"},
    {"superblock_metadata_nr_blocks", "cosmetic stale_metadata_size"},
    {"superblock_data_block_size", "fatal bad_data_block_size"},
    {"superblock_time", "fatal time_limit_reached"},
    {"superblock_tail", "cosmetic nonzero_padding"},
    {"held_uncounted_garbage", "repairable bad_held_root"},
    {"held_beyond_device", "fatal block_out_of_range"},
    {"held_is_a_node", "fatal conflicting_use, fatal count_too_low"},
    {"held_broken", "fatal bad_block"},
};

result<check_report> check_device(block_device& device, const check_options& options = {}) {
    const auto view = UTHIN_TRY(open_offline(device, {}));
    return check_metadata(*view, options);
}

std::string findings_text(const check_report& report) {
    std::string text;
    for (const check_finding& finding : report.findings) {
        text += fmt::format("{} {}: {}\n", to_string(finding.severity), to_string(finding.code),
                            finding.text);
    }
    return text;
}

std::string distinct_findings(const check_report& report) {
    std::set<std::string> distinct;
    for (const check_finding& finding : report.findings) {
        distinct.insert(fmt::format("{} {}", to_string(finding.severity), to_string(finding.code)));
    }
    return fmt::format("{}", fmt::join(distinct, ", "));
}

const check_finding* find(const check_report& report, check_code code) {
    const auto found = std::find_if(report.findings.begin(), report.findings.end(),
                                    [&](const check_finding& f) { return f.code == code; });
    return found != report.findings.end() ? &*found : nullptr;
}

TEST(Checker, ReportsEveryPlantedDefectAndNothingElse) {
    for (const expectation& expected : expectations) {
        SCOPED_TRACE(expected.image);
        const auto device = test::load_defect_image(expected.image);
        ASSERT_NE(device, nullptr);
        const result<check_report> report = check_device(*device);
        if (!report) {
            EXPECT_EQ(to_string(report.error().code()), expected.findings)
                << report.error().to_string();
            continue;
        }
        EXPECT_EQ(distinct_findings(*report), expected.findings) << findings_text(*report);
        EXPECT_EQ(report->fatal + report->repairable + report->cosmetic, report->findings.size());
        EXPECT_EQ(report->is_clean(), !std::string_view(expected.findings).contains("fatal") &&
                                          !std::string_view(expected.findings).contains("repair"));
    }
}

TEST(Checker, ExpectsSomethingOfEveryDefectImage) {
    std::vector<std::string> expected;
    for (const expectation& one : expectations) {
        expected.emplace_back(one.image);
    }
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(expected, test::defect_image_names());
}

TEST(Checker, JudgesASuperblockThatTheCallerBroughtAlong) {
    const auto device = test::load_defect_image("clean");
    ASSERT_OK_AND_ASSIGN(const auto good, open_offline(*device, {}));
    disk_superblock superblock = good->superblock();
    superblock.magic = 1;
    superblock.blocknr = 5;
    ASSERT_OK_AND_ASSIGN(const auto view,
                         open_offline(*device, {.superblock_override = &superblock}));
    ASSERT_OK_AND_ASSIGN(const check_report report, check_metadata(*view, {}));
    EXPECT_EQ(distinct_findings(report), "fatal bad_magic, fatal wrong_block_number");
}

TEST(Checker, CountsWhatAHealthyPoolUses) {
    const auto device = test::load_defect_image("clean_deep");
    ASSERT_OK_AND_ASSIGN(const check_report report, check_device(*device));
    EXPECT_EQ(report.devices, 2U);
    EXPECT_EQ(report.mapped_blocks, 400U);
    EXPECT_EQ(report.data_blocks_used, 200U);
    EXPECT_EQ(report.data_blocks, 1000U);
    EXPECT_EQ(report.metadata_blocks, 2048U);
    EXPECT_EQ(report.metadata_blocks_used, 12U);
    EXPECT_EQ(report.free_metadata_blocks, 2036U);
    EXPECT_EQ(report.metadata_space_map, space_map_check::compared);
    EXPECT_EQ(report.data_space_map, space_map_check::compared);
    EXPECT_FALSE(report.needs_check);
}

TEST(Checker, TellsThatThePoolNeedsACheck) {
    const auto device = test::load_defect_image("needs_check");
    ASSERT_OK_AND_ASSIGN(const check_report report, check_device(*device));
    EXPECT_TRUE(report.needs_check);
    EXPECT_TRUE(report.is_clean());
}

TEST(Checker, NamesTheDeviceAndTheRangeThatADamagedLeafLoses) {
    const auto device = test::load_defect_image("second_leaf_checksum");
    ASSERT_OK_AND_ASSIGN(const check_report report, check_device(*device));
    const check_finding* finding = find(report, check_code::bad_block);
    ASSERT_NE(finding, nullptr);
    EXPECT_EQ(finding->device, device_id(1));
    EXPECT_EQ(finding->space, block_space::metadata);
    EXPECT_EQ(finding->block, 11U);
    EXPECT_THAT(finding->text, HasSubstr("lost: mappings of device 1, virtual blocks 100 and up"));
    const check_finding* shared = find(report, check_code::shared_damage);
    ASSERT_NE(shared, nullptr);
    EXPECT_EQ(shared->device, device_id(2));
    // The rest is still counted, and the map is not accused of leaks that nobody can see.
    EXPECT_EQ(report.mapped_blocks, 200U);
    EXPECT_EQ(report.data_space_map, space_map_check::partial);
    EXPECT_EQ(report.leaked_data_blocks, 0U);
}

TEST(Checker, StillSeesCountsThatAreTooLowBesideDamage) {
    const auto device = test::load_defect_image("held_is_a_node");
    ASSERT_OK_AND_ASSIGN(const check_report report, check_device(*device));
    EXPECT_EQ(report.metadata_space_map, space_map_check::partial);
    EXPECT_NE(find(report, check_code::count_too_low), nullptr);
}

TEST(Checker, HandsOutEveryLeakedRange) {
    const auto device = test::load_defect_image("data_leak_2");
    std::vector<leaked_range> leaks;
    check_options options;
    options.findings_max = 0;
    options.on_leak = [&](const leaked_range& leak) { leaks.push_back(leak); };
    ASSERT_OK_AND_ASSIGN(const check_report report, check_device(*device, options));
    ASSERT_EQ(leaks.size(), 1U);
    EXPECT_EQ(leaks[0].space, block_space::data);
    EXPECT_EQ(leaks[0].begin, 16U);
    EXPECT_EQ(leaks[0].count, 4U);
    EXPECT_EQ(leaks[0].stored, 2U);
    EXPECT_EQ(leaks[0].expected, 0U);
    EXPECT_EQ(report.leaked_data_blocks, 4U);
    EXPECT_EQ(report.repairable, 1U);
    EXPECT_TRUE(report.findings.empty());
}

TEST(Checker, NoticesADataDeviceThatIsTooSmall) {
    const auto device = test::load_defect_image("clean");
    check_options options;
    options.data_device_blocks = 99;
    ASSERT_OK_AND_ASSIGN(const check_report small, check_device(*device, options));
    EXPECT_EQ(distinct_findings(small), "fatal bad_space_map_size");
    options.data_device_blocks = 100;
    ASSERT_OK_AND_ASSIGN(const check_report enough, check_device(*device, options));
    EXPECT_EQ(distinct_findings(enough), "");
}

TEST(Checker, LooksOnlyAsDeepAsItIsAsked) {
    const auto broken = test::load_defect_image("bottom_checksum");
    check_options options;
    options.scope = check_scope::devices;
    ASSERT_OK_AND_ASSIGN(const check_report devices, check_device(*broken, options));
    EXPECT_EQ(distinct_findings(devices), "");
    EXPECT_EQ(devices.devices, 2U);
    EXPECT_EQ(devices.data_space_map, space_map_check::skipped);
    const auto worse = test::load_defect_image("details_checksum");
    ASSERT_OK_AND_ASSIGN(const check_report details, check_device(*worse, options));
    EXPECT_EQ(distinct_findings(details), "fatal bad_block");
    options.scope = check_scope::superblock;
    ASSERT_OK_AND_ASSIGN(const check_report superblock, check_device(*worse, options));
    EXPECT_EQ(distinct_findings(superblock), "");
    EXPECT_EQ(superblock.free_metadata_blocks, 2038U);
}

TEST(Checker, ChecksTheTreesOfAMetadataSnapshot) {
    const auto device = test::load_defect_image("clean_held");
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*device, {.metadata_snapshot = true}));
    ASSERT_OK_AND_ASSIGN(const check_report report, check_metadata(*view, {}));
    EXPECT_EQ(distinct_findings(report), "");
    EXPECT_EQ(report.devices, 2U);
    EXPECT_EQ(report.mapped_blocks, 6U);
    EXPECT_EQ(report.metadata_space_map, space_map_check::absent);
    EXPECT_EQ(report.data_space_map, space_map_check::absent);
}

TEST(Checker, ReportsAnUnreadableBlockAndGoesOn) {
    auto memory = test::load_defect_image("clean_deep");
    ASSERT_OK_AND_ASSIGN(const std::uint64_t size_bytes, memory->size_bytes());
    // Nothing can be read from block 11 on: the second leaf.
    io::memory_device shorter(11 * metadata_block_size_bytes);
    std::vector<std::byte> bytes(11 * metadata_block_size_bytes);
    ASSERT_GT(size_bytes, bytes.size());
    ASSERT_OK(memory->read(0, bytes));
    ASSERT_OK(shorter.write(0, bytes));
    ASSERT_OK_AND_ASSIGN(const check_report report, check_device(shorter));
    EXPECT_NE(find(report, check_code::block_out_of_range), nullptr) << findings_text(report);
    EXPECT_NE(find(report, check_code::bad_space_map_size), nullptr);
    EXPECT_EQ(report.mapped_blocks, 200U);
}

TEST(Checker, EndsWhenItIsCancelled) {
    // Enough blocks that progress is asked for.
    const auto device = test::load_corpus_metadata("many-thins-500");
    ASSERT_NE(device, nullptr);
    check_options options;
    std::uint64_t calls = 0;
    options.progress = [&](std::uint64_t) { return ++calls < 2; };
    EXPECT_THAT(check_device(*device, options), test::HasCode(error_code::cancelled));
    EXPECT_EQ(calls, 2U);
}

// Copies of a real image with some bytes changed, checksums made right again: only the structure
// is left to object to.
class hostile_image {
public:
    explicit hostile_image(block_device& from) : image_(from.size_bytes().value()) {
        bytes_.resize(image_.size_bytes().value());
        EXPECT_TRUE(from.read(0, bytes_));
    }
    [[nodiscard]] block_device& make(random_generator& random) {
        std::vector<std::byte> copy = bytes_;
        const std::uint64_t changes = 1 + random.below(8);
        for (std::uint64_t change = 0; change < changes; ++change) {
            const std::uint64_t at = random_used_block(random) * metadata_block_size_bytes;
            change_block(random, std::span(copy).subspan(at).first<metadata_block_size_bytes>(),
                         metadata_block(at / metadata_block_size_bytes));
        }
        EXPECT_TRUE(image_.write(0, copy));
        return image_;
    }

private:
    std::uint64_t random_used_block(random_generator& random) const {
        const std::uint64_t count = bytes_.size() / metadata_block_size_bytes;
        for (;;) {
            const std::uint64_t block = random.below(count);
            const auto begin = bytes_.begin() + static_cast<std::ptrdiff_t>(block * 4096);
            if (std::any_of(begin, begin + 4096, [](std::byte b) { return b != std::byte{}; })) {
                return block;
            }
        }
    }
    static void change_block(random_generator& random, persistent_data::block_bytes block,
                             metadata_block where) {
        block_kind kind = block_kind::superblock;
        for (const block_kind candidate :
             {block_kind::btree_node, block_kind::bitmap, block_kind::index}) {
            if (persistent_data::check_block(candidate, where, block)) {
                kind = candidate;
            }
        }
        const std::uint64_t field = random.below(4);
        const std::uint64_t at = field == 0 ? 4 * random.below(8) : 4 * random.below(1024);
        const std::uint64_t value = field == 1 ? random.below(64) : random.next();
        std::memcpy(block.data() + at, &value, std::min<std::size_t>(4096 - at, 8));
        if (random.below(8) != 0) {
            persistent_data::prepare_block(kind, where, block);
        }
    }

    io::memory_device image_;
    std::vector<std::byte> bytes_;
};

TEST(Checker, SurvivesHostileBytes) {
    random_generator random(test::seed());
    std::uint64_t noticed = 0;
    for (const char* scenario : {"random-2-128k", "many-thins-500", "metasnap-held"}) {
        const auto original = test::load_corpus_metadata(scenario);
        ASSERT_NE(original, nullptr);
        hostile_image hostile(*original);
        for (int round = 0; round < 200; ++round) {
            const auto report = check_device(hostile.make(random));
            if (!report || !report->is_clean()) {
                ++noticed;
            }
            if (report) {
                EXPECT_LE(report->findings.size(), check_options().findings_max);
                EXPECT_LE(report->metadata_blocks_used,
                          original->size_bytes().value() / metadata_block_size_bytes);
            }
        }
    }
    // Most changes hit blocks and bytes that nobody reads; a quarter does not.
    EXPECT_GT(noticed, 60U);
}

}  // namespace
}  // namespace uthin::thin_metadata
