#include "support/metadata_crash.h"

#include <fstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/result.h"
#include "support/crash_signatures.h"
#include "support/image_check.h"

namespace uthin::test {

using io::operation_kind;

namespace {

constexpr std::size_t violations_told = 10;
constexpr std::size_t operations_told = 6;
constexpr std::size_t operations_after = 20;
constexpr std::size_t operations_before_second_cut = 4;
constexpr std::size_t choices_of_second_cut = 6;

bool is_write(const io::recorded_operation& operation) {
    return operation.kind != operation_kind::flush;
}

}  // namespace

// Devices, driver and watch of one workload.
struct metadata_crash::workload {
    explicit workload(const crash_options& with)
        : options(with),
          metadata(domain.add_device("metadata", with.metadata_blocks * metadata_block_size_bytes)),
          data(domain.add_device("data", with.driver.data_blocks_max * stamped_block_bytes)),
          watch(metadata.index(), data.index()) {
        domain.observe([this](const io::observed_operation& one) { watch.observe(one); });
        metadata_wrapper = with.wrap_metadata ? with.wrap_metadata(metadata) : nullptr;
        data_wrapper = with.wrap_data ? with.wrap_data(data) : nullptr;
        driver_options drive = with.driver;
        drive.seed = with.seed;
        drive.sequence = [this] { return domain.sequence(); };
        drive.on_commit = [this] { watch.committed(metadata); };
        driver = std::make_unique<metadata_driver>(metadata_wrapper ? *metadata_wrapper : metadata,
                                                   data_wrapper ? *data_wrapper : data, drive);
    }

    const crash_options& options;
    io::crash_domain domain;
    io::crash_device& metadata;
    io::crash_device& data;
    stream_watch watch;
    std::unique_ptr<block_device> metadata_wrapper;
    std::unique_ptr<block_device> data_wrapper;
    std::unique_ptr<metadata_driver> driver;
    std::vector<pool_operation> operations;
    std::uint64_t states = 0;
    crash_signatures signatures;
    const io::recorded_operation* in_flight = nullptr;

    [[nodiscard]] result<void> prepare() {
        UTHIN_TRY(driver->format(options.data_blocks));
        UTHIN_TRY(driver->create(0));
        UTHIN_TRY(driver->create(1));
        UTHIN_TRY(driver->write(0, 0, 4));
        UTHIN_TRY(driver->write(1, 2, 4));
        UTHIN_TRY(driver->snapshot(2, 0));
        UTHIN_TRY(driver->write(0, 1, 1));
        UTHIN_TRY(driver->commit());
        domain.forget_history();
        driver->restart_recording();
        return {};
    }
};

metadata_crash::metadata_crash(crash_totals& totals) : totals_(totals) {
}

void metadata_crash::violation(const workload& of, const std::string& where,
                               const std::string& what) {
    ++totals_.violations;
    if (totals_.first_violations.size() < violations_told) {
        std::vector<const char*> names;
        for (const pool_operation operation : of.operations) {
            if (names.size() < operations_told) {
                names.push_back(to_string(operation));
            }
        }
        totals_.first_violations.push_back(
            fmt::format("seed {} [{}{}] {}: {}", of.options.seed, fmt::join(names, " "),
                        of.operations.size() > operations_told ? " ..." : "", where, what));
    }
}

void metadata_crash::run_random(std::size_t count, const crash_options& options) {
    random_generator random(options.seed);
    std::vector<pool_operation> operations;
    for (std::size_t i = 0; i < count; ++i) {
        operations.push_back(static_cast<pool_operation>(random.below(pool_operation_count)));
    }
    run(operations, options);
}

void metadata_crash::run(const std::vector<pool_operation>& operations,
                         const crash_options& options) {
    workload work(options);
    work.operations = operations;
    if (auto prepared = work.prepare(); !prepared) {
        violation(work, "setup", prepared.error().to_string());
        return;
    }
    for (const pool_operation operation : operations) {
        if (auto done = work.driver->step(operation); !done) {
            violation(work, to_string(operation), done.error().to_string());
            return;
        }
    }
    if (auto done = work.driver->step(pool_operation::commit); !done) {
        violation(work, "last commit", done.error().to_string());
    }
    for (const std::string& text : work.driver->complaints()) {
        violation(work, "model", text);
    }
    for (const std::string& text : work.watch.complaints()) {
        ++totals_.stream_violations;
        violation(work, "stream", text);
    }
    if (std::string text = work.driver->live_complaint(); !text.empty()) {
        violation(work, "at the end", text);
    }
    ++totals_.workloads;
    cut_everywhere(work);
}

void metadata_crash::cut_everywhere(workload& of) {
    const io::crash_history history = of.domain.history();
    io::power_cut cut(history);
    for (std::size_t k = 0; k <= cut.operation_count(); ++k) {
        if (k > 0) {
            of.signatures.completed(history.operations[k - 1]);
        }
        of.in_flight = k < cut.operation_count() && is_write(history.operations[k])
                           ? &history.operations[k]
                           : nullptr;
        cut.move_to(k);
        cut_at(of, cut, k);
    }
}

void metadata_crash::cut_at(workload& of, io::power_cut& cut, std::size_t operation) {
    ++totals_.cuts;
    const bool superblock = of.in_flight != nullptr && of.in_flight->offset_bytes == 0 &&
                            of.in_flight->device_index == of.metadata.index();
    io::crash_state_options choose;
    choose.seed = of.options.seed + operation;
    choose.random_subsets = of.options.choices_max;
    choose.all_masks_of_last_write = superblock && of.options.all_superblock_masks;
    choose.choices_max = choose.all_masks_of_last_write ? 0 : of.options.choices_max;
    const std::uint64_t duties = of.driver->duties_after(operation);
    const std::vector<io::crash_choice> choices = cut.choices(choose);
    totals_.cuts_without_state += choices.empty() ? 1U : 0U;
    for (const io::crash_choice& choice : choices) {
        if (!of.signatures.is_new(cut, choice, of.in_flight, duties)) {
            ++totals_.repeated_states;
            continue;
        }
        ++totals_.states;
        if (std::string text = check(of, cut.materialize(choice), operation); !text.empty()) {
            violation(of, fmt::format("cut at {}, {}", operation, to_string(choice)), text);
        }
    }
}

std::string metadata_crash::check(workload& of, const io::crash_state& state,
                                  std::size_t operation) {
    const auto metadata_after = state.open(of.metadata.index());
    const auto data_after = state.open(of.data.index());
    const auto pool = metadata::open(*metadata_after, {.cache_bytes = 1 << 20});
    if (!pool) {
        return "does not open: " + pool.error().to_string();
    }
    const auto view = (*pool)->create_view();
    if (!view) {
        return view.error().to_string();
    }
    const auto found = read_state(**view, metadata_after.get());
    if (!found) {
        return "does not read: " + found.error().to_string();
    }
    const pool_state* matched = nullptr;
    std::string complaint;
    for (const pool_state* candidate : of.driver->allowed_after(operation)) {
        const std::string text = difference(*candidate, *found);
        if (text.empty()) {
            matched = candidate;
        }
        complaint += (complaint.empty() ? "P1: " : "; or ") + text;
    }
    if (matched == nullptr) {
        return complaint;
    }
    if (std::string text = check_complaint(**view); !text.empty()) {
        return text;
    }
    if (std::string text = of.driver->data_complaint(*matched, *data_after, operation);
        !text.empty()) {
        return "P2/P3: " + text;
    }
    ++of.states;
    if (of.options.judge_every != 0 && totals_.states % of.options.judge_every == 0) {
        keep_for_judges(*metadata_after);
    }
    if (of.options.live_on_every == 0 || totals_.states % of.options.live_on_every != 0) {
        return {};
    }
    pool_state unstamped = *matched;
    for (auto& [id, device] : unstamped.devices) {
        for (auto& [block, mapping] : device.mappings) {
            mapping.content = 0;
            mapping.first_content = 0;
        }
    }
    if (++totals_.lived_on % of.options.cut_again_every == 0) {
        return cut_again(of, state, unstamped);
    }
    return live_on(of, state, unstamped);
}

std::string metadata_crash::live_on(workload& of, const io::crash_state& state,
                                    const pool_state& found) {
    const auto metadata_after = state.open(of.metadata.index());
    const auto data_after = state.open(of.data.index());
    driver_options options = of.options.driver;
    options.seed = of.options.seed + totals_.states;
    metadata_driver driver(*metadata_after, *data_after, options);
    const auto run = [&]() -> result<void> {
        UTHIN_TRY(driver.open(found));
        for (std::size_t i = 0; i < operations_after; ++i) {
            UTHIN_TRY(driver.step(driver.any_operation()));
        }
        return driver.step(pool_operation::commit);
    };
    if (auto done = run(); !done) {
        return "living on: " + done.error().to_string();
    }
    for (const std::string& text : driver.complaints()) {
        return "living on: " + text;
    }
    if (std::string text = driver.live_complaint(); !text.empty()) {
        return "living on: " + text;
    }
    const auto view = driver.pool().create_view();
    const auto after = read_state(**view, metadata_after.get());
    if (!after) {
        return "living on: " + after.error().to_string();
    }
    for (const std::string& text : {difference(driver.now(), *after), check_complaint(**view)}) {
        if (!text.empty()) {
            return "living on: " + text;
        }
    }
    return {};
}

std::string metadata_crash::cut_again(workload& of, const io::crash_state& state,
                                      const pool_state& found) {
    io::crash_domain domain(state);
    io::crash_device& metadata_after = *domain.find("metadata");
    io::crash_device& data_after = *domain.find("data");
    driver_options options = of.options.driver;
    options.seed = of.options.seed + totals_.states;
    options.sequence = [&] { return domain.sequence(); };
    metadata_driver driver(metadata_after, data_after, options);
    const auto run = [&]() -> result<void> {
        UTHIN_TRY(driver.open(found));
        for (std::size_t i = 0; i < operations_before_second_cut; ++i) {
            UTHIN_TRY(driver.step(driver.any_operation()));
        }
        return driver.step(pool_operation::commit);
    };
    if (auto done = run(); !done) {
        return "before the second cut: " + done.error().to_string();
    }
    io::power_cut cut(domain.history());
    for (std::size_t k = 0; k <= cut.operation_count(); ++k) {
        cut.move_to(k);
        ++totals_.second_cuts;
        for (const io::crash_choice& choice :
             cut.choices({.choices_max = choices_of_second_cut, .seed = options.seed + k})) {
            const io::crash_state again = cut.materialize(choice);
            const auto device = again.open("metadata");
            const auto view = thin_metadata::open_offline(*device, {});
            if (!view) {
                return "second cut: " + view.error().to_string();
            }
            const auto after = read_state(**view, device.get());
            if (!after) {
                return "second cut: " + after.error().to_string();
            }
            std::string complaint;
            bool allowed = false;
            for (const pool_state* candidate : driver.allowed_after(k)) {
                complaint = difference(*candidate, *after);
                allowed = allowed || complaint.empty();
            }
            if (!allowed) {
                return fmt::format("second cut at {}, {}: {}", k, to_string(choice), complaint);
            }
            if (std::string text = check_complaint(**view); !text.empty()) {
                return "second cut: " + text;
            }
        }
    }
    return {};
}

void metadata_crash::keep_for_judges(block_device& metadata_after) {
    std::vector<std::byte> bytes(metadata_after.size_bytes().value());
    if (!metadata_after.read(0, bytes)) {
        return;
    }
    images_.push_back(folder_.path() / std::to_string(images_.size()));
    std::ofstream out(images_.back(), std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
}

void metadata_crash::judge() {
    totals_.judged += images_.size();
    expect_images_are_clean(images_);
    images_.clear();
}

}  // namespace uthin::test
