// The metadata library without a pool on top of it: changes with the n-th allocation failing, for
// every n.
//
// What got half-way can be committed no more: the commit is refused until abort(). What had not
// begun yet is no reason for that. Either way the metadata is clean and no block has leaked.
#include <cstdio>

#include <fmt/format.h>

#include "base/result.h"
#include "io/memory_device.h"
#include "memory/failing_allocator.h"
#include "support/matchers.h"
#include "support/pool_state.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

constexpr std::uint64_t metadata_blocks = 256;
constexpr std::uint64_t mapped_blocks = 252;  // a full leaf
constexpr device_id thin_id(0);
constexpr device_id snapshot_id(1);

using change = std::function<result<void>(metadata&)>;

result<void> map(metadata& pool, device_id id, std::uint64_t begin, std::uint64_t count) {
    thin_device* device = UTHIN_TRY(pool.open_device(id));
    for (std::uint64_t block = begin; block < begin + count; ++block) {
        const data_block fresh = UTHIN_TRY(pool.alloc_data_block());
        UTHIN_TRY(pool.insert_block(*device, virtual_block(block), fresh));
    }
    pool.close_device(device);
    return {};
}

struct scenario {
    const char* name;
    change act;
};

std::vector<scenario> scenarios() {
    return {
        {"mapping a block where a leaf is shared and full",
         [](metadata& pool) { return map(pool, thin_id, mapped_blocks, 1); }},
        {"a new device and a snapshot",
         [](metadata& pool) -> result<void> {
             UTHIN_TRY(pool.create_thin(device_id(2)));
             return pool.create_snap(device_id(3), thin_id);
         }},
        {"removing what is shared",
         [](metadata& pool) -> result<void> {
             thin_device* device = UTHIN_TRY(pool.open_device(thin_id));
             auto removed =
                 pool.remove_range(*device, {virtual_block(10), virtual_block(mapped_blocks)});
             pool.close_device(device);
             return removed;
         }},
        {"growing the data", [](metadata& pool) { return pool.resize_data(100'000); }},
        {"deleting a snapshot", [](metadata& pool) { return pool.delete_thin(snapshot_id); }},
    };
}

class metadata_trial final : public test::memory_trial {
public:
    explicit metadata_trial(const scenario& what) : scenario_(what) {}

    result<void> prepare() override {
        pool_ =
            UTHIN_TRY(metadata::open(device_, {.data_block_size_sectors = 128, .format = true}));
        UTHIN_TRY(pool_->resize_data(1000));
        UTHIN_TRY(pool_->create_thin(thin_id));
        UTHIN_TRY(map(*pool_, thin_id, 0, mapped_blocks));
        UTHIN_TRY(pool_->create_snap(snapshot_id, thin_id));
        return pool_->commit();
    }
    result<void> act() override { return scenario_.act(*pool_); }

    std::string judge(const result<void>& outcome, bool) override {
        if (!outcome && outcome.error().code() != error_code::out_of_memory) {
            return "unexpected error: " + outcome.error().to_string();
        }
        const auto committed = pool_->commit();
        if (outcome && !committed) {
            return "the commit of a change: " + committed.error().to_string();
        }
        if (!committed && !pool_->failed()) {
            if (auto undone = pool_->abort(); !undone) {
                return "abort: " + undone.error().to_string();
            }
            if (auto again = pool_->commit(); !again) {
                return "a commit after the abort: " + again.error().to_string();
            }
        }
        pool_.reset();
        const auto view = thin_metadata::open_offline(device_, {});
        return view ? test::check_complaint(**view) : view.error().to_string();
    }

private:
    const scenario& scenario_;
    io::memory_device device_{metadata_blocks * metadata_block_size_bytes};
    std::unique_ptr<metadata> pool_;
};

TEST(MetadataMemory, EveryChangeSurvivesEveryFailingAllocation) {
    test::memory_totals sums;
    const auto all = scenarios();
    for (const scenario& one : all) {
        test::fail_each_allocation(
            one.name,
            [&]() -> std::unique_ptr<test::memory_trial> {
                return std::make_unique<metadata_trial>(one);
            },
            sums);
    }
    std::printf(
        "metadata without memory: scenarios=%zu runs=%llu violations=%llu "
        "out_of_memory=%llu\n",
        all.size(), static_cast<unsigned long long>(sums.runs),
        static_cast<unsigned long long>(sums.violations),
        static_cast<unsigned long long>(sums.out_of_memory));
    EXPECT_GT(sums.out_of_memory, sums.runs / 3);
}

}  // namespace
}  // namespace uthin
