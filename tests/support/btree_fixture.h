// A fixture that changes trees and their models in step.
//
// Threads   One.
// Failures  Reported to GoogleTest.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/tree_lab.h"

namespace uthin::test {

using namespace persistent_data;

// 9 entries a leaf: three levels with a few thousand keys.
inline constexpr std::uint32_t wide_value_bytes = 400;

// One tree and its model, changed in step.
class BtreeTest : public ::testing::Test {
protected:
    void open(std::uint32_t value_size_bytes, std::uint64_t nr_blocks = 16320) {
        lab = std::make_unique<tree_lab>(value_size_bytes, nr_blocks);
        versions.clear();
    }
    void create() {
        auto root = lab->tree.create();
        ASSERT_OK(root);
        versions.push_back({*root, {}});
    }
    void insert(std::size_t version, std::uint64_t key, std::uint64_t name) {
        tree_version& in = versions[version];
        const auto old = in.entries.find(key);
        if (old == in.entries.end() || old->second != name) {
            ++lab->rule.owners[name];
        }
        const auto value = make_value(name, lab->value_size_bytes);
        const auto done =
            name % 2 == 0 ? lab->tree.insert(in.root, key, value.data())
                          : insert_if(in, key, value, old == in.entries.end() ? 0 : old->second);
        ASSERT_OK(done);
        EXPECT_EQ(done->is_new_key, old == in.entries.end());
        in.root = done->root;
        in.entries[key] = name;
    }
    void insert(std::size_t version, std::uint64_t key) { insert(version, key, next_name++); }
    // Refused once, then not. `present`: the value that is there; 0: none.
    result<persistent_data::btree::inserted> insert_if(const tree_version& in, std::uint64_t key,
                                                       std::span<const std::byte> value,
                                                       std::uint64_t present) {
        const std::uint64_t edited = lab->blocks.private_blocks();
        const std::uint64_t allocated = lab->allocations();
        const auto condition = [&](bool answer) {
            return [this, present, answer](const std::byte* there) {
                EXPECT_EQ(there != nullptr, present != 0);
                EXPECT_TRUE(there == nullptr || is_value(present, {there, lab->value_size_bytes}));
                return answer;
            };
        };
        const auto refused =
            UTHIN_TRY(lab->tree.insert_if(in.root, key, value.data(), condition(false)));
        EXPECT_FALSE(refused.has_value());
        EXPECT_EQ(lab->blocks.private_blocks(), edited);
        EXPECT_EQ(lab->allocations(), allocated);
        return UTHIN_TRY(lab->tree.insert_if(in.root, key, value.data(), condition(true))).value();
    }
    void fill(std::uint64_t count, std::uint64_t stride = 1) {
        create();
        for (std::uint64_t i = 0; i < count; ++i) {
            insert(versions.size() - 1, i * stride);
        }
    }
    void snapshot(std::size_t version) {
        ASSERT_OK(lab->tm.inc(versions[version].root));
        versions.push_back(versions[version]);
    }
    void update(std::size_t version, std::uint64_t key) {
        tree_version& in = versions[version];
        const std::uint64_t name = next_name++;
        const auto value = make_value(name, lab->value_size_bytes);
        auto root = lab->tree.update(in.root, key, [&](std::byte* at) -> result<void> {
            UTHIN_TRY(lab->rule.dec(at, 1));
            std::copy(value.begin(), value.end(), at);
            return lab->rule.inc(at, 1);
        });
        ASSERT_OK(root);
        in.root = *root;
        in.entries[key] = name;
    }
    // Slices of `budget`, each judged.
    void remove_range(std::size_t version, std::uint64_t begin, std::uint64_t end,
                      std::uint64_t budget = UINT64_MAX) {
        tree_version& in = versions[version];
        std::uint64_t slices = 0;
        while (begin < end) {
            auto counted = btree_count_range(lab->tm.source(), in.root, begin, end);
            ASSERT_OK(counted);
            const auto first = in.entries.lower_bound(begin);
            const auto last = in.entries.lower_bound(end);
            ASSERT_EQ(*counted, static_cast<std::uint64_t>(std::distance(first, last)));

            auto done = lab->tree.remove_range(in.root, begin, end, budget);
            ASSERT_OK(done);
            in.root = done->root;
            ASSERT_GE(done->next_key, begin);
            ASSERT_LE(done->next_key, end);
            const auto stop = in.entries.lower_bound(done->next_key);
            const auto gone = static_cast<std::uint64_t>(std::distance(first, stop));
            ASSERT_TRUE(*counted == 0 || gone > 0) << "no progress";
            // Only a tree that goes as a whole is not asked how much was in it.
            if (done->emptied && done->dropped_shared_subtrees > 0) {
                EXPECT_LE(done->entries, gone);
                EXPECT_EQ(stop, in.entries.end());
            } else {
                EXPECT_EQ(done->entries, gone);
            }
            in.entries.erase(first, stop);
            begin = done->next_key;
            // The judge reads everything: a sample of the slices will do.
            if (begin < end && (++slices < 4 || slices % 37 == 0)) {
                judge();
            }
        }
    }
    void destroy(std::size_t version) {
        ASSERT_OK(lab->tree.destroy(versions[version].root));
        versions.erase(versions.begin() + static_cast<std::ptrdiff_t>(version));
    }
    void judge() { ASSERT_EQ(lab->judge(versions), ""); }

    std::unique_ptr<tree_lab> lab;
    std::vector<tree_version> versions;
    std::uint64_t next_name = 1;
};

}  // namespace uthin::test
