// Salvage of pools in which one thing is damaged: what is kept is what was there, and what is
// missing is in the report.
#include "thin_metadata/salvage.h"

#include <algorithm>
#include <fstream>
#include <set>

#include <fmt/format.h>

#include "io/memory_device.h"
#include "support/big_volume.h"
#include "support/corpus.h"
#include "support/image_check.h"
#include "support/mapping_recorder.h"
#include "support/matchers.h"
#include "support/metadata_images.h"
#include "support/temporary_directory.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/restorer.h"

namespace uthin::thin_metadata {
namespace {

using persistent_data::block_kind;
using persistent_data::node_view;
using test::HasCode;
using test::mapping_recorder;
using testing::HasSubstr;
using testing::IsEmpty;

using block_image = std::array<std::byte, metadata_block_size_bytes>;

block_image read_block(block_device& device, std::uint64_t where) {
    block_image bytes{};
    EXPECT_TRUE(device.read(where * metadata_block_size_bytes, bytes));
    return bytes;
}

void write_block(block_device& device, std::uint64_t where, const block_image& bytes) {
    ASSERT_OK(device.write(where * metadata_block_size_bytes, bytes));
}

// Damage that is undone at the end of its life.
class damaged_block {
public:
    enum class how : std::uint8_t { one_bit, noise, zeros };
    damaged_block(block_device& device, std::uint64_t where, how kind)
        : device_(device), where_(where), before_(read_block(device, where)) {
        block_image bytes = before_;
        constexpr std::size_t in_the_keys = 41;
        if (kind == how::one_bit) {
            bytes[in_the_keys] ^= std::byte{0x10};
        } else if (kind == how::noise) {
            for (std::size_t at = in_the_keys; at < bytes.size(); at += 97) {
                bytes[at] ^= std::byte{0xA5};
            }
        } else {
            bytes = {};
        }
        write_block(device, where, bytes);
    }
    damaged_block(const damaged_block&) = delete;
    damaged_block& operator=(const damaged_block&) = delete;
    ~damaged_block() { write_block(device_, where_, before_); }

private:
    block_device& device_;
    std::uint64_t where_;
    block_image before_;
};

struct pool_state {
    pool_header header;
    std::map<std::uint64_t, mapping_recorder::device> devices;
};

pool_state dumped(block_device& device) {
    mapping_recorder recorder;
    const auto view = open_offline(device, {});
    EXPECT_THAT(view, test::IsOk());
    if (view) {
        EXPECT_OK(dump_metadata(**view, recorder, {}));
    }
    return {.header = recorder.pool, .devices = std::move(recorder.devices)};
}

struct outcome {
    salvage_report report;
    std::map<std::uint64_t, mapping_recorder::device> devices;
    std::map<std::uint64_t, std::uint64_t> missing;  // of each device

    [[nodiscard]] std::uint64_t all_missing() const {
        std::uint64_t sum = 0;
        for (const auto& [id, count] : missing) {
            sum += count;
        }
        return sum;
    }
};

std::unique_ptr<io::memory_device> restored(salvage& plan, std::uint64_t size_bytes) {
    auto target = std::make_unique<io::memory_device>(size_bytes, "repaired");
    restorer writer(*target, {});
    EXPECT_OK(plan.send(writer, {.shared_pieces = true}));
    const auto view = open_offline(*target, {});
    EXPECT_THAT(view, test::IsOk());
    if (view) {
        const auto report = check_metadata(**view, {});
        EXPECT_THAT(report, test::IsOk());
        for (const check_finding& finding : report->findings) {
            ADD_FAILURE() << finding.text;
        }
    }
    return target;
}

void expect_missing_is_listed(const pool_state& before, outcome& found) {
    for (const auto& [id, device] : before.devices) {
        const auto kept = found.devices.find(id);
        ASSERT_NE(kept, found.devices.end()) << "device " << id << " is gone";
        for (const auto& [block, mapping] : device.mappings) {
            const auto now = kept->second.mappings.find(block);
            if (now != kept->second.mappings.end()) {
                ASSERT_EQ(now->second, mapping) << "device " << id << " block " << block;
                continue;
            }
            ++found.missing[id];
            const bool listed = std::any_of(found.report.losses.begin(), found.report.losses.end(),
                                            [id = id, block = block](const lost_mappings& loss) {
                                                return loss.device.value() == id &&
                                                       loss.blocks.first <= block &&
                                                       block <= loss.blocks.last;
                                            });
            ASSERT_TRUE(listed) << "device " << id << " block " << block;
        }
    }
}

void expect_losses_are_missing(const outcome& found) {
    for (const lost_mappings& loss : found.report.losses) {
        const auto& kept = found.devices.at(loss.device.value()).mappings;
        const auto next = kept.lower_bound(loss.blocks.first);
        EXPECT_TRUE(next == kept.end() || next->first > loss.blocks.last)
            << "device " << loss.device.value() << " has block " << next->first;
    }
    for (const salvaged_device& device : found.report.devices) {
        const auto missing = found.missing.find(device.id.value());
        const std::uint64_t count = missing != found.missing.end() ? missing->second : 0;
        if (device.stated_mappings) {
            EXPECT_EQ(device.lost_mappings(), count) << "device " << device.id.value();
        }
        EXPECT_TRUE(device.has_loss || count == 0) << "device " << device.id.value();
    }
}

// Salvages, restores, and holds everything against the state before the damage.
outcome salvaged(block_device& device, const pool_state& before,
                 const salvage_options& options = {}) {
    outcome found;
    auto plan = salvage::plan(device, options);
    EXPECT_THAT(plan, test::IsOk());
    if (!plan) {
        return found;
    }
    found.report = (*plan)->report();
    constexpr std::uint64_t room_bytes = 4ULL << 20;
    const auto target = restored(**plan, device.size_bytes().value() + room_bytes);
    found.devices = dumped(*target).devices;
    expect_missing_is_listed(before, found);
    expect_losses_are_missing(found);
    return found;
}

// Blocks of the trees, by what they are.
struct tree_blocks {
    std::vector<std::uint64_t> leaves;
    std::vector<std::uint64_t> internal_nodes;
    std::vector<std::uint64_t> top;
    std::vector<std::uint64_t> details;
};

void collect(block_device& device, std::uint64_t where, std::set<std::uint64_t>& seen,
             tree_blocks& found) {
    if (!seen.insert(where).second) {
        return;
    }
    const block_image bytes = read_block(device, where);
    const node_view node(bytes);
    if (node.is_leaf()) {
        found.leaves.push_back(where);
        return;
    }
    found.internal_nodes.push_back(where);
    for (std::uint32_t index = 0; index < node.nr_entries(); ++index) {
        collect(device, node.value_u64(index), seen, found);
    }
}

tree_blocks blocks_of(block_device& device) {
    tree_blocks found;
    const disk_superblock superblock = load_superblock(read_block(device, 0));
    mending_source blocks(device, device.size_bytes().value() / metadata_block_size_bytes, 64,
                          false);
    const auto top = read_top_tree(blocks, metadata_block(superblock.data_mapping_root));
    const auto details = read_details_tree(blocks, metadata_block(superblock.device_details_root));
    std::set<std::uint64_t> seen;
    for (const named_root& entry : top.entries) {
        collect(device, entry.root.value(), seen, found);
    }
    for (const metadata_block node : top.nodes) {
        found.top.push_back(node.value());
    }
    for (const metadata_block node : details.nodes) {
        found.details.push_back(node.value());
    }
    return found;
}

using how = damaged_block::how;

// Pools of real kernels: all in the long run, every fourth else.
class corpus_salvage : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        device_ = test::load_corpus_metadata(GetParam());
        ASSERT_NE(device_, nullptr);
        before_ = dumped(*device_);
        blocks_ = blocks_of(*device_);
    }
    std::unique_ptr<block_device> device_;
    pool_state before_;
    tree_blocks blocks_;
};

std::vector<std::string> chosen_pools() {
    const std::vector<std::string> all = test::corpus_names();
    std::vector<std::string> chosen;
    const std::size_t step = test::is_long_run() ? 1 : 4;
    for (std::size_t index = 0; index < all.size(); index += step) {
        chosen.push_back(all[index]);
    }
    return chosen;
}

INSTANTIATE_TEST_SUITE_P(pools, corpus_salvage, testing::ValuesIn(chosen_pools()),
                         [](const auto& given) {
                             std::string name = given.param;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

TEST_P(corpus_salvage, KeepsEverythingOfASoundPool) {
    const outcome found = salvaged(*device_, before_);
    EXPECT_EQ(found.all_missing(), 0U);
    EXPECT_FALSE(found.report.has_loss());
    EXPECT_EQ(found.devices, before_.devices);
    EXPECT_EQ(found.report.header, before_.header);
}

TEST_P(corpus_salvage, PutsOneFlippedBitRightWhereverItIs) {
    std::vector<std::uint64_t> all = {0};
    for (const auto* some :
         {&blocks_.leaves, &blocks_.internal_nodes, &blocks_.top, &blocks_.details}) {
        all.insert(all.end(), some->begin(), some->end());
    }
    for (const std::uint64_t block : all) {
        const damaged_block damage(*device_, block, how::one_bit);
        const outcome found = salvaged(*device_, before_);
        EXPECT_EQ(found.all_missing(), 0U) << block;
        EXPECT_FALSE(found.report.has_loss()) << block;
        EXPECT_EQ(found.devices, before_.devices);
    }
}

TEST_P(corpus_salvage, LosesNothingButTheLeafThatIsDamaged) {
    for (const std::uint64_t leaf : blocks_.leaves) {
        const block_image bytes = read_block(*device_, leaf);
        const node_view node(bytes);
        for (const how kind : {how::one_bit, how::noise}) {
            const damaged_block damage(*device_, leaf, kind);
            const outcome found = salvaged(*device_, before_, {.correct_bits = false});
            for (const auto& [id, count] : found.missing) {
                EXPECT_EQ(count, node.nr_entries()) << "device " << id << " leaf " << leaf;
            }
            EXPECT_TRUE(found.report.has_loss() || node.nr_entries() == 0);
        }
    }
}

TEST_P(corpus_salvage, FindsTheChildrenOfADamagedNode) {
    for (const std::uint64_t block : blocks_.internal_nodes) {
        const damaged_block damage(*device_, block, how::noise);
        const outcome found = salvaged(*device_, before_);
        EXPECT_EQ(found.all_missing(), 0U) << block;
        EXPECT_EQ(found.report.loss_count, 0U) << block;
        EXPECT_EQ(found.report.rebuilt_nodes.size(), 1U);
    }
}

TEST_P(corpus_salvage, MakesUpDetailsThatAreLost) {
    for (const std::uint64_t block : blocks_.details) {
        if (before_.devices.empty()) {
            continue;
        }
        const damaged_block damage(*device_, block, how::zeros);
        const outcome found = salvaged(*device_, before_);
        EXPECT_EQ(found.all_missing(), 0U) << block;
        EXPECT_EQ(found.devices.size(), before_.devices.size());
    }
}

// Two devices with as many mappings each, and no older top node to tell them apart, stay lost.
TEST_P(corpus_salvage, RecognisesDevicesThatTheTopTreeNoLongerNames) {
    for (const std::uint64_t block : blocks_.top) {
        if (before_.devices.empty()) {
            continue;
        }
        const damaged_block damage(*device_, block, how::noise);
        const outcome found = salvaged(*device_, before_);
        std::map<std::uint64_t, std::uint64_t> devices_with;
        for (const auto& [id, device] : before_.devices) {
            ++devices_with[device.mappings.size()];
        }
        for (const auto& [id, missing] : found.missing) {
            EXPECT_GT(devices_with[missing], 1U) << "device " << id;
        }
    }
}

TEST_P(corpus_salvage, NeedsNoSpaceMaps) {
    const disk_superblock superblock = load_superblock(read_block(*device_, 0));
    for (const std::uint64_t block : {std::uint64_t{superblock.data_sm_root.bitmap_root},
                                      std::uint64_t{superblock.data_sm_root.ref_count_root},
                                      std::uint64_t{superblock.metadata_sm_root.bitmap_root},
                                      std::uint64_t{superblock.metadata_sm_root.ref_count_root}}) {
        const damaged_block damage(*device_, block, how::noise);
        const outcome found = salvaged(*device_, before_);
        EXPECT_EQ(found.devices, before_.devices) << block;
        EXPECT_FALSE(found.report.has_loss());
    }
}

TEST_P(corpus_salvage, FindsTheRootsWhenTheSuperblockIsLost) {
    if (before_.devices.empty()) {
        return;
    }
    const disk_superblock superblock = load_superblock(read_block(*device_, 0));
    for (const how kind : {how::noise, how::zeros}) {
        const damaged_block damage(*device_, 0, kind);
        salvage_options options;
        options.overrides.data_block_size_sectors = superblock.data_block_size_sectors;
        options.mapping_root = metadata_block(superblock.data_mapping_root);
        options.details_root = metadata_block(superblock.device_details_root);
        const outcome by_hand = salvaged(*device_, before_, options);
        EXPECT_EQ(by_hand.devices, before_.devices);
        options.mapping_root.reset();
        options.details_root.reset();
        const auto plan = salvage::plan(*device_, options);
        ASSERT_THAT(plan, test::IsOk());
        const auto& candidates = (*plan)->report().candidates;
        const bool is_among =
            std::any_of(candidates.begin(), candidates.end(), [&](const root_candidate& candidate) {
                return candidate.mapping_root.value() == superblock.data_mapping_root;
            });
        EXPECT_TRUE(is_among);
    }
}

}  // namespace
}  // namespace uthin::thin_metadata
