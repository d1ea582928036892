#include "support/mapping_model.h"

#include <algorithm>

#include "io/memory_device.h"
#include "support/matchers.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/restorer.h"

namespace uthin::test {

namespace {

// Runs of blocks that nobody has used yet, at random places.
class block_giver {
public:
    block_giver(random_generator& random, const model_limits& limits)
        : random_(random), limits_(limits), used_(limits.data_blocks) {}

    std::pair<std::uint64_t, std::uint64_t> take(std::uint64_t wanted) {
        const std::uint64_t begin = random_.below(limits_.data_blocks);
        std::uint64_t count = 0;
        while (count < wanted && begin + count < limits_.data_blocks && !used_[begin + count] &&
               given_ < limits_.used_blocks_max) {
            used_[begin + count] = true;
            ++count;
            ++given_;
        }
        return {begin, count};
    }

private:
    random_generator& random_;
    const model_limits& limits_;
    std::vector<bool> used_;
    std::uint64_t given_ = 0;
};

}  // namespace

mapping_model random_model(random_generator& random, const model_limits& limits) {
    mapping_model model;
    model.pool.data_blocks = limits.data_blocks;
    block_giver giver(random, limits);
    const std::uint64_t devices = 1 + random.below(limits.devices_max);
    for (std::uint64_t number = 0; number < devices; ++number) {
        const std::uint64_t id = number * 3 + random.below(3);
        mapping_recorder::device& made = model.devices[id];
        const auto before = model.devices.find(id) == model.devices.begin()
                                ? model.devices.end()
                                : std::prev(model.devices.find(id));
        if (before != model.devices.end() && !random.one_in(3)) {
            made.mappings = before->second.mappings;
        }
        const std::uint64_t runs = random.below(limits.runs_max + 1);
        for (std::uint64_t run = 0; run < runs; ++run) {
            const auto [data, count] = giver.take(1 + random.below(limits.run_max));
            const std::uint64_t begin = random.below(4 * limits.data_blocks);
            const auto time = static_cast<std::uint32_t>(random.below(model.pool.time + 1));
            for (std::uint64_t index = 0; index < count; ++index) {
                made.mappings[begin + index] = {data + index, time};
            }
        }
        made.details = {.mapped_blocks = made.mappings.size(),
                        .transaction_id = random.below(4),
                        .creation_time = static_cast<std::uint32_t>(random.below(9)),
                        .snapshotted_time = static_cast<std::uint32_t>(random.below(9))};
    }
    return model;
}

result<void> send(const mapping_model& model, thin_metadata::mapping_sink& sink) {
    UTHIN_TRY(sink.begin_pool(model.pool));
    for (const auto& [id, device] : model.devices) {
        UTHIN_TRY(sink.begin_device({.id = device_id(id), .details = device.details}));
        thin_metadata::run_joiner joiner(sink);
        for (const auto& [block, mapped] : device.mappings) {
            UTHIN_TRY(joiner.add({.begin = virtual_block(block),
                                  .data_begin = data_block(mapped.first),
                                  .count = 1,
                                  .time = mapped.second}));
        }
        UTHIN_TRY(joiner.flush());
        UTHIN_TRY(sink.end_device());
    }
    return sink.end_pool();
}

std::unique_ptr<block_device> image_of(const mapping_model& model, std::uint64_t metadata_blocks) {
    auto image = std::make_unique<io::memory_device>(metadata_blocks * metadata_block_size_bytes);
    thin_metadata::restorer restorer(*image, {});
    const auto sent = send(model, restorer);
    EXPECT_OK(sent);
    return sent ? std::move(image) : nullptr;
}

std::optional<mapping_model> model_of(block_device& image) {
    const auto view = thin_metadata::open_offline(image, {});
    EXPECT_OK(view);
    if (!view) {
        return std::nullopt;
    }
    mapping_recorder recorder;
    const auto dumped = thin_metadata::dump_metadata(**view, recorder, {.shared_pieces = true});
    EXPECT_OK(dumped);
    return mapping_model{.pool = recorder.pool, .devices = recorder.devices};
}

void expect_clean(block_device& image) {
    const auto view = thin_metadata::open_offline(image, {});
    EXPECT_OK(view);
    if (!view) {
        return;
    }
    const auto report = thin_metadata::check_metadata(**view, {});
    EXPECT_OK(report);
    if (report) {
        for (const auto& finding : report->findings) {
            EXPECT_EQ(finding.severity, thin_metadata::check_severity::cosmetic) << finding.text;
        }
    }
}

}  // namespace uthin::test
