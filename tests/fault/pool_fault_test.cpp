// Every public call of a pool and of its volumes with the n-th operation of either device failing,
// for every n.
//
// Whatever fails: the call succeeds with the right answer or says so; the pool's mode is the one of
// docs/modes.md; nothing is read that was not there before or written by the call; after a failed
// flush none is tried again. Closed or killed and opened on healthy devices, the metadata is clean,
// nothing has leaked, and the call has happened or has not: for the data of a write sector by
// sector, for everything else as a whole. All on one thread, so that n means the same each time.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <functional>
#include <optional>

#include <fmt/format.h>

#include "base/random.h"
#include "base/result.h"
#include "io/fault_device.h"
#include "io/sparse_image.h"
#include "support/matchers.h"
#include "support/pool_judge.h"
#include "support/pool_rig.h"
#include "support/seed.h"
#include "support/tier.h"

namespace uthin {
namespace {

using io::fault_outcome;
using io::operation_kind;
using io::operation_kinds;
using test::borrowed_device;
using test::judged_pool;
using test::sectors_of;
using namespace std::chrono_literals;

constexpr std::uint64_t sector = 512;
constexpr std::uint64_t block = 128 * sector;
constexpr std::uint64_t metadata_blocks = 80;
constexpr std::uint64_t data_blocks = 24;
constexpr std::uint64_t spare_blocks = 8;  // of either device, for growth
constexpr std::uint64_t volume_blocks = 8;
// 0..3 shared with its snapshot, 4 and 5 its own, 6 and 7 holes.
constexpr std::uint64_t main_id = 0;
constexpr std::uint64_t snapshot_id = 1;  // of that
constexpr std::uint64_t small_id = 2;     // two blocks
constexpr std::uint64_t older_id = 3;     // its snapshot, before the second block was overwritten
constexpr std::uint64_t new_id = 9;
constexpr std::byte old_byte{0x11};
constexpr std::byte new_byte{0x22};
constexpr std::byte small_byte{0x33};
constexpr std::byte prepared_byte{0x44};

using bytes = std::vector<std::byte>;

bytes filled(std::uint64_t length, std::byte with) {
    return bytes(length, with);
}

// The devices of one run, and what is open on them.
struct world {
    world(io::sparse_image metadata_image, io::sparse_image data_image)
        : metadata("metadata", std::move(metadata_image)), data("data", std::move(data_image)) {}
    ~world() { main.reset(); }
    world(const world&) = delete;
    world& operator=(const world&) = delete;

    result<void> open() {
        pool_options with;
        with.data_block_size_sectors = block / sector;
        with.data_blocks = data_blocks;
        with.format = true;
        with.commit_interval = 1h;
        with.error_if_no_space = true;
        with.metadata_cache_bytes = cache_bytes;
        engine = UTHIN_TRY(pool::open(std::make_unique<borrowed_device>(faulty_metadata),
                                      std::make_unique<borrowed_device>(faulty_data), with,
                                      system_clock()));
        return {};
    }
    result<void> open_main() {
        main = UTHIN_TRY(engine->open_volume(device_id(main_id), volume_blocks * block));
        return {};
    }
    [[nodiscard]] io::fault_plan& plan_of(bool is_metadata) {
        return is_metadata ? metadata_faults : data_faults;
    }
    [[nodiscard]] std::uint64_t injected() const {
        return metadata_faults.injected() + data_faults.injected();
    }

    io::image_device metadata;
    io::image_device data;
    io::fault_plan metadata_faults;
    io::fault_plan data_faults;
    io::fault_device faulty_metadata{metadata, metadata_faults};
    io::fault_device faulty_data{data, data_faults};
    std::uint64_t cache_bytes = 64ULL << 20;
    std::unique_ptr<pool> engine;
    std::shared_ptr<volume> main;
};

struct images {
    io::sparse_image metadata{0};
    io::sparse_image data{0};
};

using action = std::function<result<std::string>(world&)>;

struct scenario {
    const char* name;
    action act;
    action prepare = [](world&) -> result<std::string> { return std::string(); };
    bool durable = true;         // on return
    bool by_sector = false;      // half of it may have happened
    bool tells_by_mode = false;  // succeeds although a commit in it failed
    bool needs_check = false;    // the pool is so, read-only, when it begins
    bool closes = false;
    bool reads_anew = false;  // all of the metadata, which may fail
};

result<std::string> done(result<void> outcome) {
    UTHIN_TRY(std::move(outcome));
    return std::string();
}

result<std::string> write_old(world& in) {
    return done(in.main->write(6 * block, filled(block, prepared_byte)));
}

// ---- the calls

void add_device_calls(std::vector<scenario>& all) {
    all.push_back(
        {"create_thin", [](world& in) { return done(in.engine->create_thin(device_id(new_id))); }});
    all.push_back({"create_snapshots (one, of an open volume)",
                   [](world& in) {
                       const snapshot_request one{device_id(main_id), device_id(new_id)};
                       return done(in.engine->create_snapshots({&one, 1}));
                   },
                   write_old});
    all.push_back({"create_snapshots (three)", [](world& in) {
                       const snapshot_request three[] = {
                           {device_id(main_id), device_id(new_id)},
                           {device_id(new_id), device_id(new_id + 1)},
                           {device_id(small_id), device_id(new_id + 2)}};
                       return done(in.engine->create_snapshots(three));
                   }});
    all.push_back({"delete_thin",
                   [](world& in) { return done(in.engine->delete_thin(device_id(small_id))); }});
    all.push_back({"delete_thin (shared)",
                   [](world& in) { return done(in.engine->delete_thin(device_id(snapshot_id))); }});
    all.push_back({"delete_in_background", [](world& in) -> result<std::string> {
                       UTHIN_TRY(in.engine->delete_in_background(device_id(small_id)));
                       return done(in.engine->wait_for_deletion(device_id(small_id)));
                   }});
    all.push_back({"rollback", [](world& in) {
                       return done(in.engine->rollback(device_id(small_id), device_id(older_id),
                                                       device_id(new_id)));
                   }});
    all.push_back({"open_volume and read", [](world& in) -> result<std::string> {
                       const auto opened =
                           UTHIN_TRY(in.engine->open_volume(device_id(small_id), 2 * block));
                       bytes found(2 * block);
                       UTHIN_TRY(opened->read(0, found));
                       return fmt::format("{} {} {}", UTHIN_TRY(opened->mapped_blocks()),
                                          std::to_integer<int>(found.front()),
                                          std::to_integer<int>(found.back()));
                   }});
    all.push_back({"list_devices", [](world& in) -> result<std::string> {
                       std::string text;
                       for (const auto& info : UTHIN_TRY(in.engine->list_devices())) {
                           text +=
                               fmt::format("{}:{} ", info.id.value(), info.details.mapped_blocks);
                       }
                       return text;
                   }});
}

void add_pool_calls(std::vector<scenario>& all) {
    const action commit = [](world& in) { return done(in.engine->commit()); };
    all.push_back({"commit", commit, write_old});
    all.push_back({"commit of nothing", commit});
    all.push_back({"status", [](world& in) -> result<std::string> {
                       const pool_status now = UTHIN_TRY(in.engine->status());
                       return fmt::format("{} {}", now.device_count, now.data_used_blocks);
                   }});
    scenario exact{"status after a commit",
                   [](world& in) -> result<std::string> {
                       UTHIN_TRY(in.engine->status(true));
                       return std::string();
                   },
                   write_old};
    exact.durable = false;
    exact.tells_by_mode = true;
    all.push_back(exact);
    all.push_back({"grow_data", [](world& in) { return done(in.engine->grow_data()); }});
    all.push_back({"grow_metadata", [](world& in) { return done(in.engine->grow_metadata()); }});
    all.push_back(
        {"set_space_policies", [](world& in) {
             return done(in.engine->set_space_policies(
                 {{device_id(small_id), {.reserved_blocks = 3, .limit_blocks = 4}}}, true));
         }});
    all.push_back({"trim", [](world& in) -> result<std::string> {
                       UTHIN_TRY(in.engine->trim());  // what fails of it is not counted
                       return std::string();
                   }});
    const action reserve = [](world& in) { return done(in.engine->reserve_metadata_snap()); };
    all.push_back({"reserve_metadata_snap", reserve, write_old});
    all.push_back({"release_metadata_snap",
                   [](world& in) { return done(in.engine->release_metadata_snap()); }, reserve});
    all.push_back({"set_transaction_id",
                   [](world& in) { return done(in.engine->set_transaction_id(0, 5)); }});
    all.push_back({"create_view and a walk", [](world& in) -> result<std::string> {
                       const auto view = UTHIN_TRY(in.engine->create_view());
                       const auto state = UTHIN_TRY(test::read_state(*view, nullptr));
                       return fmt::format("{} {}", state.devices.size(), state.references(0));
                   }});
    all.push_back({"with_metadata", [](world& in) -> result<std::string> {
                       UTHIN_TRY(in.engine->with_metadata(
                           [](metadata& of) { return of.create_thin(device_id(new_id)); }));
                       return done(in.engine->commit());
                   }});
    scenario clear{"clear_needs_check",
                   [](world& in) { return done(in.engine->clear_needs_check()); }};
    clear.needs_check = true;
    all.push_back(clear);
    scenario repair{"repair_leaks", [](world& in) { return done(in.engine->repair_leaks()); }};
    repair.needs_check = true;
    repair.reads_anew = true;
    all.push_back(repair);
    scenario close{"close", [](world& in) { return done(in.engine->close()); }, write_old};
    close.closes = true;
    all.push_back(close);
}

scenario data_call(const char* name, action act, bool durable = false) {
    scenario made{name, std::move(act)};
    made.durable = durable;
    made.by_sector = true;
    return made;
}

action write_of(std::uint64_t begin, std::uint64_t end, bool fua = false) {
    return
        [=](world& in) { return done(in.main->write(begin, filled(end - begin, new_byte), fua)); };
}

action zero_of(std::uint64_t begin, std::uint64_t end, zero_options with) {
    return [=](world& in) { return done(in.main->write_zeroes(begin, end - begin, with)); };
}

action discard_of(std::uint64_t begin, std::uint64_t end) {
    return [=](world& in) { return done(in.main->discard(begin, end - begin)); };
}

void add_writing_calls(std::vector<scenario>& all) {
    all.push_back(data_call("first write of a part",
                            write_of(6 * block + 3 * sector, 6 * block + 8 * sector)));
    all.push_back(data_call("first write over a border", write_of(6 * block + sector, 8 * block)));
    all.push_back(
        data_call("breaking sharing by a copy", write_of(block + 5 * sector, block + 9 * sector)));
    all.push_back(data_call("breaking sharing of whole blocks", write_of(0, 3 * block)));
    all.push_back(data_call("overwrite", write_of(4 * block + sector, 6 * block)));
    all.push_back(data_call("FUA write to shared, own and new blocks",
                            write_of(3 * block + sector, 7 * block, true), true));
    all.push_back(
        data_call("FUA overwrite", write_of(4 * block, 4 * block + 8 * sector, true), true));
    all.push_back(data_call(
        "write and flush",
        [](world& in) -> result<std::string> {
            UTHIN_TRY(write_of(2 * block, 7 * block)(in));
            return done(in.main->flush());
        },
        true));
    all.push_back(data_call("zeroing with unmapping",
                            zero_of(3 * block + sector, 5 * block + 2 * sector, {})));
    all.push_back(data_call("zeroing in place",
                            zero_of(3 * block + sector, 7 * block - sector, {.may_unmap = false})));
    all.push_back(data_call("FUA zeroing with unmapping",
                            zero_of(2 * block, 5 * block + sector, {.fua = true}), true));
    all.push_back(data_call("discard", discard_of(2 * block, 6 * block)));
    all.push_back(data_call("discard of a block in parts", [](world& in) -> result<std::string> {
        UTHIN_TRY(discard_of(4 * block, 4 * block + 5 * sector)(in));
        return discard_of(4 * block + 5 * sector, 5 * block)(in);
    }));
    all.push_back(data_call("set_size (smaller)",
                            [](world& in) { return done(in.main->set_size(3 * block + sector)); }));
    all.push_back(data_call("set_size (larger)",
                            [](world& in) { return done(in.main->set_size(20 * block)); }));
    all.push_back(data_call("write by the caller himself", [](world& in) -> result<std::string> {
        const auto ticket = UTHIN_TRY(in.main->begin(io_kind::write));
        const auto place = UTHIN_TRY(in.main->map(ticket, 4 * block, block));
        if (place.where != mapped_extent::place::data_device) {
            return fail(error_code::corrupt, "no place on the data device");
        }
        return done(in.engine->data_device().write(place.data_offset_bytes,
                                                   filled(place.length_bytes, new_byte)));
    }));
}

void add_reading_calls(std::vector<scenario>& all) {
    all.push_back({"read", [](world& in) -> result<std::string> {
                       bytes found(volume_blocks * block);
                       UTHIN_TRY(in.main->read(0, found));
                       return fmt::format("{} {}", std::ranges::count(found, old_byte),
                                          std::ranges::count(found, std::byte{}));
                   }});
    all.push_back({"read of a part", [](world& in) -> result<std::string> {
                       bytes found(3 * sector);
                       UTHIN_TRY(in.main->read(6 * block - sector, found));
                       return fmt::format("{}", std::ranges::count(found, old_byte));
                   }});
    all.push_back({"flush of nothing", [](world& in) { return done(in.main->flush()); }});
    all.push_back({"block_status", [](world& in) -> result<std::string> {
                       std::string text;
                       for (const auto& one :
                            UTHIN_TRY(in.main->block_status(0, volume_blocks * block))) {
                           text += fmt::format("{}+{} ", one.begin_bytes, one.length_bytes);
                       }
                       return text;
                   }});
    all.push_back({"highest_mapped_block", [](world& in) -> result<std::string> {
                       const auto highest = UTHIN_TRY(in.main->highest_mapped_block());
                       return std::to_string(highest ? highest->value() : UINT64_MAX);
                   }});
}

std::vector<scenario> scenarios() {
    std::vector<scenario> all;
    add_device_calls(all);
    add_pool_calls(all);
    add_writing_calls(all);
    add_reading_calls(all);
    return all;
}

// ---- the base

result<images> make_base(bool needs_check) {
    // Formatted while it is smaller, so that there is something to grow into.
    io::image_device formatted("metadata",
                               io::sparse_image(metadata_blocks * metadata_block_size_bytes));
    UTHIN_TRY(
        metadata::open(formatted, {.data_block_size_sectors = block / sector, .format = true}));
    io::sparse_image larger = formatted.image();
    larger.resize((metadata_blocks + spare_blocks) * metadata_block_size_bytes);
    world made(larger, io::sparse_image((data_blocks + spare_blocks) * block));
    UTHIN_TRY(made.open());
    for (const std::uint64_t id : {main_id, small_id}) {
        UTHIN_TRY(made.engine->create_thin(device_id(id)));
    }
    UTHIN_TRY(made.open_main());
    UTHIN_TRY(made.main->write(0, filled(4 * block, old_byte)));
    auto small_volume = UTHIN_TRY(made.engine->open_volume(device_id(small_id), 2 * block));
    UTHIN_TRY(small_volume->write(0, filled(2 * block, small_byte)));
    const snapshot_request both[] = {{device_id(main_id), device_id(snapshot_id)},
                                     {device_id(small_id), device_id(older_id)}};
    UTHIN_TRY(made.engine->create_snapshots(both));
    UTHIN_TRY(made.main->write(4 * block, filled(2 * block, old_byte)));
    UTHIN_TRY(small_volume->write(block, filled(block, new_byte)));
    small_volume.reset();
    made.main.reset();
    if (needs_check) {
        UTHIN_TRY(made.engine->commit());
        UTHIN_TRY(made.engine->with_metadata([](metadata& of) { return of.set_needs_check(); }));
    }
    UTHIN_TRY(made.engine->close());
    return images{made.metadata.image(), made.data.image()};
}

result<judged_pool> judged(const io::sparse_image& metadata_image,
                           const io::sparse_image& data_image) {
    world in(metadata_image, data_image);
    return test::judge_pool(in.metadata, in.data, {block, volume_blocks, main_id});
}

// ---- the loop

enum class endurance : std::uint8_t { once, to_the_end_of_the_call, until_reopened };

struct fault_mode {
    bool on_metadata;
    operation_kinds kinds;
    fault_outcome outcome;
    endurance lasts;
    std::string name;

    [[nodiscard]] bool only(operation_kind kind) const {
        return kinds.contains(kind) && !kinds.contains(operation_kind::resize);
    }
};

std::vector<fault_mode> fault_modes() {
    const std::pair<const char*, operation_kinds> kinds[] = {
        {"read", {operation_kind::read}},         {"write", {operation_kind::write}},
        {"flush", {operation_kind::flush}},       {"discard", {operation_kind::discard}},
        {"zero", {operation_kind::write_zeroes}}, {"any", operation_kinds::all()}};
    const std::pair<const char*, fault_outcome> outcomes[] = {
        {"EIO", fault_outcome::io_error},
        {"ENOSPC", fault_outcome::no_space},
        {"ETIMEDOUT", fault_outcome::timed_out},
        {"short", fault_outcome::short_transfer}};
    const std::pair<const char*, endurance> endurances[] = {
        {"once", endurance::once},
        {"from then on", endurance::to_the_end_of_the_call},
        {"until it is opened again", endurance::until_reopened}};
    std::vector<fault_mode> modes;
    for (const bool on_metadata : {true, false}) {
        for (const auto& [kind_name, kind] : kinds) {
            const bool is_data_kind = kind.contains(operation_kind::discard) !=
                                      kind.contains(operation_kind::write_zeroes);
            if (on_metadata && is_data_kind) {
                continue;  // there are none
            }
            for (const auto& [outcome_name, outcome] : outcomes) {
                for (const auto& [lasts_name, lasts] : endurances) {
                    modes.push_back({on_metadata, kind, outcome, lasts,
                                     fmt::format("{} {} {} {}", on_metadata ? "metadata" : "data",
                                                 kind_name, outcome_name, lasts_name)});
                }
            }
        }
    }
    return modes;
}

struct planned_fault {
    const fault_mode* mode;
    std::uint64_t nth;
};

struct totals {
    std::uint64_t runs = 0;
    std::uint64_t violations = 0;
    std::uint64_t failed_calls = 0;
    std::uint64_t read_only = 0;
    std::uint64_t failed_pools = 0;
};

class fault_loop {
public:
    fault_loop(const scenario& what, const images& base, totals& sums,
               std::optional<std::uint64_t> cache_bytes)
        : scenario_(what), base_(base), totals_(sums), cache_bytes_(cache_bytes) {}

    void rehearse() {
        ASSERT_OK_AND_ASSIGN(judged_pool before, judged(base_.metadata, base_.data));
        legal_.push_back(std::move(before));
        for (const bool acts : {false, true}) {
            world in(base_.metadata, base_.data);
            ASSERT_OK(in.open());
            ASSERT_OK(in.open_main());
            ASSERT_OK(scenario_.prepare(in));
            if (acts) {
                ASSERT_OK_AND_ASSIGN(answer_, scenario_.act(in));
            }
            if (in.engine->mode() == pool_mode::write) {
                static_cast<void>(in.engine->commit());  // nothing after a close
            }
            in.main.reset();
            in.engine.reset();
            ASSERT_OK_AND_ASSIGN(judged_pool now, judged(in.metadata.image(), in.data.image()));
            legal_.push_back(std::move(now));
        }
    }

    void run(const fault_mode& mode) {
        constexpr std::uint64_t nth_max = 300;
        for (std::uint64_t nth = 1; nth < nth_max; ++nth) {
            bool injected = false;
            for (const bool is_killed : {false, true}) {
                const planned_fault one{&mode, nth};
                if (!try_faults({&one, 1}, is_killed, &injected)) {
                    return;
                }
            }
            if (!injected) {
                return;
            }
        }
        ADD_FAILURE() << scenario_.name << " does not come to an end";
    }

    // False after a violation.
    bool try_faults(std::span<const planned_fault> faults, bool is_killed, bool* injected) {
        ++totals_.runs;
        const std::string complaint = run_once(faults, is_killed, injected);
        if (complaint.empty()) {
            return true;
        }
        ++totals_.violations;
        std::string what;
        for (const planned_fault& one : faults) {
            what += fmt::format("operation {} fails ({}), ", one.nth, one.mode->name);
        }
        ADD_FAILURE() << scenario_.name << ": " << what << (is_killed ? "killed: " : "closed: ")
                      << complaint;
        return false;
    }

private:
    // At most one fault for each device.
    std::string run_once(std::span<const planned_fault> faults, bool is_killed, bool* injected) {
        world in(base_.metadata, base_.data);
        in.cache_bytes = cache_bytes_.value_or(in.cache_bytes);
        if (!in.open() || !in.open_main() || !scenario_.prepare(in)) {
            return "preparation failed";
        }
        for (const planned_fault& one : faults) {
            in.plan_of(one.mode->on_metadata)
                .arm({.kinds = one.mode->kinds,
                      .nth = one.nth,
                      .persistent = one.mode->lasts != endurance::once,
                      .outcome = one.mode->outcome});
        }
        const result<std::string> answer = scenario_.act(in);
        *injected = in.injected() != 0;
        bool is_healthy = true;
        for (const planned_fault& one : faults) {
            if (one.mode->lasts != endurance::until_reopened) {
                in.plan_of(one.mode->on_metadata).disarm();
            } else {
                is_healthy = false;
            }
        }
        if (*injected) {
            totals_.read_only += in.engine->mode() == pool_mode::read_only ? 1U : 0U;
            totals_.failed_pools += in.engine->mode() == pool_mode::fail ? 1U : 0U;
        }
        const bool device_is_full = std::ranges::any_of(faults, [](const planned_fault& one) {
            return !one.mode->on_metadata && one.mode->outcome == fault_outcome::no_space;
        });
        std::string complaint = judge_answer(answer, *injected, device_is_full);
        if (complaint.empty() && *injected && faults.size() == 1) {
            complaint = judge_mode(in, *faults.front().mode, answer.has_value());
        }
        if (complaint.empty() && !scenario_.closes) {
            complaint = judge_at_once(in, is_healthy, answer.has_value());
        }
        bool is_durable = answer.has_value() && scenario_.durable;
        if (!is_killed && !scenario_.closes) {
            const bool closed = in.engine->close().has_value();
            is_durable = is_durable || (answer && closed && !scenario_.tells_by_mode &&
                                        in.engine->mode() == pool_mode::write);
        }
        in.main.reset();
        in.engine.reset();
        return complaint.empty() ? judge_reopened(in, is_durable) : complaint;
    }

    [[nodiscard]] std::string judge_answer(const result<std::string>& answer, bool injected,
                                           bool device_is_full) {
        if (answer) {
            return *answer == answer_ ? "" : fmt::format("answers {}, not {}", *answer, answer_);
        }
        ++totals_.failed_calls;
        const error_code code = answer.error().code();
        const bool is_told = code == error_code::io_error || code == error_code::failed ||
                             code == error_code::read_only || code == error_code::needs_check ||
                             (code == error_code::no_data_space && device_is_full);
        return injected && is_told ? "" : "unexpected error: " + answer.error().to_string();
    }

    // docs/modes.md, "From mode to mode".
    std::string judge_mode(world& in, const fault_mode& fault, bool succeeded) {
        const pool_mode now = in.engine->mode();
        const std::string is = fmt::format("mode {}: {}", to_string(now), in.engine->mode_cause());
        const pool_mode usual =
            scenario_.needs_check && !succeeded ? pool_mode::read_only : pool_mode::write;
        if (!fault.on_metadata && !fault.kinds.contains(operation_kind::flush)) {
            // A write that found no space in the device, not a read that said so.
            const bool is_full = now == pool_mode::out_of_data_space && !succeeded &&
                                 fault.outcome == fault_outcome::no_space &&
                                 !fault.kinds.contains(operation_kind::read);
            return now == usual || is_full ? "" : is + " although only data failed";
        }
        if (fault.lasts == endurance::once && now == pool_mode::fail && !scenario_.reads_anew) {
            return is + " although only one operation failed";
        }
        if (succeeded && !scenario_.tells_by_mode) {
            return now == usual || scenario_.closes ? "" : is + " although the call succeeded";
        }
        if (!fault.on_metadata && fault.only(operation_kind::flush)) {
            return now == pool_mode::read_only ? "" : is + " after a failed flush of the data";
        }
        const bool changes_failed =
            fault.only(operation_kind::write) || fault.only(operation_kind::flush);
        if (fault.on_metadata && changes_failed && now == pool_mode::write) {
            return is + " although the metadata failed";
        }
        // Nothing of it was done, and undoing only reads.
        const bool is_undone = fault.on_metadata && fault.only(operation_kind::write) &&
                               fault.outcome != fault_outcome::short_transfer;
        return is_undone && now != pool_mode::read_only && !scenario_.needs_check
                   ? is + " although the last commit can be read"
                   : "";
    }

    // The pool as the failure left it.
    std::string judge_at_once(world& in, bool is_healthy, bool succeeded) {
        const pool_mode now = in.engine->mode();
        const auto found =
            sectors_of(*in.main, 0, std::min(in.main->size_bytes(), volume_blocks * block));
        if (now == pool_mode::fail) {
            if (found || in.main->flush() || in.engine->commit()) {
                return "in fail mode something succeeds";
            }
            return {};
        }
        if (!found) {
            return is_healthy ? "reading fails: " + found.error().to_string() : "";
        }
        if (std::string text = wrong_sectors(*found, succeeded && now == pool_mode::write);
            !text.empty()) {
            return "at once: " + text;
        }
        if (in.main->lost_changes()) {
            const std::uint64_t flushes = in.data_faults.count(operation_kind::flush);
            if (in.main->flush() || in.main->flush() ||
                in.main->write(4 * block, filled(sector, old_byte), true)) {
                return "a flush succeeds after changes were lost";
            }
            if (in.data_faults.count(operation_kind::flush) != flushes) {
                return "a failed flush is tried again";
            }
        }
        if (now == pool_mode::read_only) {
            const std::uint64_t commits = in.engine->counters().commits;
            if (in.engine->commit() || in.engine->create_thin(device_id(new_id + 7)) ||
                in.engine->counters().commits != commits) {
                return "a commit succeeds in read-only mode";
            }
            return {};
        }
        if (is_healthy && (!in.main->flush() || !in.engine->commit())) {
            return "a flush fails in write mode";
        }
        return {};
    }

    // Of the main volume; the last legal state is the one after the call.
    [[nodiscard]] std::string wrong_sectors(const bytes& found, bool must_be_new) const {
        const std::size_t first = must_be_new ? legal_.size() - 1 : 0;
        for (std::size_t at = 0; at < found.size(); ++at) {
            const bool legal = std::any_of(
                legal_.begin() + static_cast<std::ptrdiff_t>(first), legal_.end(),
                [&](const judged_pool& one) { return one.data.at(main_id)[at] == found[at]; });
            if (!legal) {
                return fmt::format("sector {} holds {}", at, std::to_integer<int>(found[at]));
            }
        }
        return {};
    }

    std::string judge_reopened(const world& in, bool is_durable) {
        auto found = judged(in.metadata.image(), in.data.image());
        if (!found) {
            return "reopened: " + found.error().to_string();
        }
        if (std::string text = wrong_sectors(found->data.at(main_id), is_durable); !text.empty()) {
            return "reopened: " + text;
        }
        std::string complaint;
        for (std::size_t at = is_durable ? legal_.size() - 1 : 0; at < legal_.size(); ++at) {
            const std::string text = difference_from(legal_[at], *found);
            if (text.empty()) {
                return {};
            }
            complaint += (complaint.empty() ? "" : "; or ") + text;
        }
        return "reopened: " + complaint;
    }

    [[nodiscard]] std::string difference_from(const judged_pool& one,
                                              const judged_pool& found) const {
        if (!scenario_.by_sector) {
            if (std::string text = difference(one.metadata, found.metadata); !text.empty()) {
                return text;
            }
        }
        for (const auto& [id, content] : found.data) {
            const auto expected = one.data.find(id);
            if (expected == one.data.end() || (id != main_id && expected->second != content)) {
                return fmt::format("device {} has other content", id);
            }
        }
        return found.data.size() == one.data.size() ? "" : "other devices";
    }

    const scenario& scenario_;
    const images& base_;
    totals& totals_;
    const std::optional<std::uint64_t> cache_bytes_;
    std::string answer_;
    std::vector<judged_pool> legal_;  // before, prepared, after
};

class all_calls {
public:
    explicit all_calls(std::optional<std::uint64_t> cache_bytes = std::nullopt) {
        for (const bool needs_check : {false, true}) {
            auto made = make_base(needs_check);
            EXPECT_OK(made);
            bases_.push_back(made ? std::move(*made) : images{});
        }
        for (const scenario& one : scenarios_) {
            loops_.emplace_back(one, bases_[one.needs_check ? 1 : 0], sums, cache_bytes);
            loops_.back().rehearse();
        }
    }
    [[nodiscard]] std::deque<fault_loop>& loops() { return loops_; }
    void print(const char* what) const {
        const auto ull = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
        const double seconds =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count();
        std::printf(
            "%s: scenarios=%zu runs=%llu violations=%llu failed_calls=%llu read_only=%llu "
            "failed_pools=%llu seconds=%.1f per_second=%.0f\n",
            what, loops_.size(), ull(sums.runs), ull(sums.violations), ull(sums.failed_calls),
            ull(sums.read_only), ull(sums.failed_pools), seconds,
            static_cast<double>(sums.runs) / seconds);
    }

    totals sums;

private:
    const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
    const std::vector<scenario> scenarios_ = scenarios();
    std::vector<images> bases_;
    std::deque<fault_loop> loops_;
};

// At tier 0 one fault mode in so many, another one for each call.
constexpr std::size_t sampled = 30;

TEST(PoolFault, EveryCallSurvivesEveryFailingDeviceOperation) {
    all_calls calls;
    const std::vector<fault_mode> modes = fault_modes();
    std::size_t number = 0;
    for (fault_loop& loop : calls.loops()) {
        for (std::size_t at = 0; at < modes.size() && !HasFatalFailure(); ++at) {
            if (test::tier() != 0 || (at + 7 * number) % sampled == 0) {
                loop.run(modes[at]);
            }
        }
        ++number;
    }
    calls.print("pool faults");
    EXPECT_GE(calls.loops().size(), 40U);
    EXPECT_GT(calls.sums.read_only, calls.sums.runs / 50);
    EXPECT_GT(calls.sums.failed_pools, 0U);
}

// A cache that holds next to nothing, so that a call reads the metadata again and again.
TEST(PoolFault, CallsSurviveFailingReadsOfTheMetadata) {
    constexpr std::uint64_t next_to_nothing = 2 * metadata_block_size_bytes;
    all_calls calls(next_to_nothing);
    for (const fault_mode& mode : fault_modes()) {
        if (mode.on_metadata && mode.only(operation_kind::read) &&
            mode.outcome == fault_outcome::io_error && mode.lasts != endurance::until_reopened) {
            for (fault_loop& loop : calls.loops()) {
                loop.run(mode);
            }
        }
    }
    calls.print("failing reads");
    EXPECT_GT(calls.sums.failed_calls, calls.sums.runs / 5);
}

// Both devices fail in one call, at operations drawn by lot.
TEST(PoolFault, CallsSurviveFaultsOfBothDevices) {
    all_calls calls;
    const std::vector<fault_mode> modes = fault_modes();
    const auto both = std::ranges::partition_point(modes, &fault_mode::on_metadata);
    const auto metadata_modes = static_cast<std::uint64_t>(both - modes.begin());
    random_generator random(test::seed());
    const std::uint64_t pairs = test::tier() == 0 ? 300 : 40'000;
    constexpr std::uint64_t nth_max = 6;
    for (std::uint64_t pair = 0; pair < pairs && !HasFailure(); ++pair) {
        const planned_fault faults[] = {
            {&modes[random.below(metadata_modes)], 1 + random.below(nth_max)},
            {&modes[metadata_modes + random.below(modes.size() - metadata_modes)],
             1 + random.below(nth_max)}};
        bool injected = false;
        fault_loop& loop = calls.loops()[random.below(calls.loops().size())];
        static_cast<void>(loop.try_faults(faults, random.one_in(2), &injected));
    }
    calls.print("pairs of faults");
    EXPECT_GT(calls.sums.failed_calls, calls.sums.runs / 5);
}

}  // namespace
}  // namespace uthin
