// What stands behind the thin_* tools with the n-th allocation failing, for every n: out_of_memory,
// nothing leaked, and what it was to write is no pool or a clean one.
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/out_of_memory.h"
#include "io/memory_device.h"
#include "memory/failing_allocator.h"
#include "support/matchers.h"
#include "support/mutants.h"
#include "support/pack_parts.h"
#include "support/round_trip.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/difference.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/leak_repair.h"
#include "thin_metadata/pack.h"
#include "thin_metadata/pool_usage.h"
#include "thin_metadata/restorer.h"
#include "thin_metadata/reverse_map.h"
#include "thin_metadata/salvage.h"
#include "thin_metadata/xml_reader.h"
#include "thin_metadata/xml_writer.h"

namespace uthin {
namespace {

using namespace thin_metadata;

constexpr std::uint64_t image_blocks = 1024;

const io::sparse_image& input_image() {
    static const io::sparse_image image = test::mutant_source("snap-break-64k").image();
    return image;
}

// The output allocates where it is written to: also that may fail.
class images {
public:
    images()
        : input("input", input_image()),
          output(image_blocks * metadata_block_size_bytes, "output") {}

    io::image_device input;
    io::memory_device output;
};

using tool_action = std::function<result<void>(images&)>;

class tool_trial final : public test::memory_trial {
public:
    tool_trial(const tool_action& act, bool writes) : act_(act), writes_(writes) {}

    result<void> prepare() override { return {}; }
    // As around all of a tool.
    result<void> act() override {
        return or_out_of_memory([this] { return act_(on_); });
    }
    std::string judge(const result<void>& outcome, bool) override {
        if (!outcome && outcome.error().code() != error_code::out_of_memory) {
            return outcome.error().to_string();
        }
        if (const auto still = test::is_accepted(on_.input); !still || !*still) {
            return "the input has changed";
        }
        if (!writes_) {
            return {};
        }
        const auto made = test::is_accepted(on_.output);
        if (made && !*made) {
            return "the output is a pool, and not a clean one";
        }
        return made || !outcome ? "" : "there is no output: " + made.error().to_string();
    }

private:
    const tool_action& act_;
    const bool writes_;
    images on_;
};

struct tool {
    const char* name;
    tool_action act;
    bool writes = false;
};

std::vector<tool> tools() {
    std::vector<tool> all;
    all.push_back({"check", [](images& on) -> result<void> {
                       const auto view = UTHIN_TRY(open_offline(on.input, {}));
                       const auto report = UTHIN_TRY(check_metadata(*view, {}));
                       return report.is_clean() ? result<void>()
                                                : fail(error_code::corrupt, "not clean");
                   }});
    all.push_back({"dump", [](images& on) -> result<void> {
                       const auto view = UTHIN_TRY(open_offline(on.input, {}));
                       xml_writer writer([](std::string_view) { return result<void>(); },
                                         dump_dialect::v1);
                       return dump_metadata(*view, writer, {.shared_pieces = true});
                   }});
    static const std::string xml = [] {
        images on;
        return *test::xml_of(on.input);
    }();
    all.push_back({"restore",
                   [](images& on) -> result<void> {
                       restorer restorer(on.output, {});
                       return test::read_xml_text(xml, restorer);
                   },
                   true});
    all.push_back({"repair",
                   [](images& on) -> result<void> {
                       const auto plan = UTHIN_TRY(salvage::plan(on.input, {}));
                       restorer restorer(on.output, {});
                       return plan->send(restorer, {.shared_pieces = true});
                   },
                   true});
    all.push_back({"delta", [](images& on) -> result<void> {
                       const auto view = UTHIN_TRY(open_offline(on.input, {}));
                       const auto devices = UTHIN_TRY(list_devices(*view));
                       return find_differences(
                           *view, UTHIN_TRY(mapping_root_of(*view, devices.front().info.id)),
                           UTHIN_TRY(mapping_root_of(*view, devices.back().info.id)),
                           [](const difference_run&) { return result<void>(); });
                   }});
    all.push_back({"pack", [](images& on) {
                       return pack_metadata(
                           on.input, [](std::span<const std::byte>) { return result<void>(); });
                   }});
    static const std::vector<std::byte> pack = [] {
        images on;
        return *test::packed(on.input);
    }();
    all.push_back({"unpack", [](images& on) { return test::unpack_into(pack, on.output); }, true});
    all.push_back({"repair of leaks", [](images& on) {
                       return repair_leaks(on.input,
                                           {.rebuild_space_maps = true, .clear_needs_check = true});
                   }});
    all.push_back({"ls", [](images& on) -> result<void> {
                       const auto view = UTHIN_TRY(open_offline(on.input, {}));
                       UTHIN_TRY(measure_usage(*view, {}));
                       return {};
                   }});
    all.push_back({"rmap", [](images& on) -> result<void> {
                       const auto view = UTHIN_TRY(open_offline(on.input, {}));
                       static const std::vector<range<data_block>> all_blocks{
                           {data_block(0), data_block(1000)}};
                       return reverse_mappings(*view, all_blocks,
                                               [](const reverse_run&) { return result<void>(); });
                   }});
    return all;
}

TEST(ToolsMemory, EveryToolSurvivesEveryFailingAllocation) {
    test::memory_totals sums;
    const std::vector<tool> all = tools();
    for (const tool& one : all) {
        test::memory_totals here;
        test::fail_each_allocation(
            one.name,
            [&]() -> std::unique_ptr<test::memory_trial> {
                return std::make_unique<tool_trial>(one.act, one.writes);
            },
            here);
        std::printf("%s: %llu of %llu out of memory\n", one.name,
                    static_cast<unsigned long long>(here.out_of_memory),
                    static_cast<unsigned long long>(here.runs));
        sums.runs += here.runs;
        sums.violations += here.violations;
        sums.out_of_memory += here.out_of_memory;
    }
    std::printf("tools without memory: tools=%zu runs=%llu violations=%llu out_of_memory=%llu\n",
                all.size(), static_cast<unsigned long long>(sums.runs),
                static_cast<unsigned long long>(sums.violations),
                static_cast<unsigned long long>(sums.out_of_memory));
    EXPECT_GT(sums.out_of_memory, sums.runs / 3);
}

}  // namespace
}  // namespace uthin
