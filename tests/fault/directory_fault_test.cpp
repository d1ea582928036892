// Every call of a pool with names, with the n-th operation of one of its stores failing, for every
// n: of the catalogue's files, of its statements, of the metadata or of the data.
//
// Whatever fails: the call has happened or says that it failed, and what is listed from then on is
// the old or the new state. Closed or killed and opened on healthy devices, names, sizes, parents,
// labels, promises and contents are the old or the new ones, all of them (the new ones after a
// success); the metadata is clean, nothing hidden is left over, and the pool takes changes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "base/random.h"
#include "base/result.h"
#include "io/fault_device.h"
#include "io/memory_device.h"
#include "io/sparse_image.h"
#include "pool/pool_directory.h"
#include "support/failing_sqlite.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/seed.h"
#include "support/temporary_directory.h"
#include "support/tier.h"

namespace uthin {
namespace {

using test::IsOk;
using test::statement_stage;

constexpr std::uint64_t block = 64U << 10;
constexpr std::uint64_t metadata_bytes = 96 * 4096;
constexpr std::uint64_t spare_bytes = 8 * block;  // of either device, for growth
constexpr std::uint64_t data_bytes = 64 * block;

struct images {
    io::sparse_image metadata{0};
    io::sparse_image data{0};
};

// One run: the stores, and the pool that is open on them.
class world {
public:
    world(const images& from, std::filesystem::path directory)
        : metadata("metadata", from.metadata),
          data("data", from.data),
          directory_(std::move(directory)) {}

    result<void> open(open_purpose purpose = open_purpose::change) {
        pool.reset();
        directory_parts parts;
        parts.directory = directory_;
        parts.file.uuid = "pool-1";
        parts.file.error_if_no_space = true;
        parts.devices = {std::make_unique<test::borrowed_device>(faulty_metadata),
                         std::make_unique<test::borrowed_device>(faulty_data)};
        parts.names = UTHIN_TRY(catalogue::open(directory_ / "catalog.db", parts.file.uuid,
                                                {.read_only = false, .vfs_name = vfs.name()}));
        directory_options options;
        options.purpose = purpose;
        options.open_origin = [](const std::string&, bool) {
            return result<std::unique_ptr<block_device>>(
                std::make_unique<io::memory_device>(2 * block, "origin"));
        };
        options.pool.commit_interval = std::chrono::hours(1);
        // Next to nothing, so that the metadata is read again and again.
        options.pool.metadata_cache_bytes = 2 * metadata_block_size_bytes;
        pool = UTHIN_TRY(pool_directory::assemble(std::move(parts), options, time));
        return {};
    }
    void heal() {
        vfs.disarm();
        statements.disarm();
        metadata_faults.disarm();
        data_faults.disarm();
    }
    [[nodiscard]] std::uint64_t injected() const {
        return vfs.injected() + statements.injected() + metadata_faults.injected() +
               data_faults.injected();
    }
    [[nodiscard]] images now() const { return {metadata.image(), data.image()}; }

    manual_clock time;
    io::image_device metadata;
    io::image_device data;
    io::fault_plan metadata_faults;
    io::fault_plan data_faults;
    io::fault_device faulty_metadata{metadata, metadata_faults};
    io::fault_device faulty_data{data, data_faults};
    test::failing_vfs vfs;
    test::failing_statements statements;
    std::unique_ptr<pool_directory> pool;

private:
    const std::filesystem::path directory_;
};

result<void> fill(pool_directory& pool, std::string_view name, std::uint64_t blocks,
                  std::byte with) {
    const auto open = UTHIN_TRY(pool.open_volume(name, false));
    UTHIN_TRY(open->write(0, std::vector<std::byte>(blocks * block, with)));
    return open->flush();
}

// ---- what can be seen

// The first byte of each block.
result<std::string> content_of(pool_directory& pool, const std::string& name) {
    const auto open = UTHIN_TRY(pool.open_volume(name, true));
    std::string text;
    for (std::uint64_t at = 0; at < open->size_bytes(); at += block) {
        std::byte byte{};
        UTHIN_TRY(open->read(at, std::span(&byte, 1)));
        text += fmt::format("{:02x}", std::to_integer<int>(byte));
    }
    return text;
}

std::string text_of(const std::map<std::string, std::string>& labels) {
    std::string text;
    for (const auto& [key, value] : labels) {
        text += fmt::format(" {}={}", key, value);
    }
    return text;
}

constexpr std::string_view renewed = "renewed";

// The id of a changed snapshot is another one each time.
std::string_view content_id_of(const volume_info& one) {
    return one.received_from.empty() || one.received_from == "there" ? one.received_from : renewed;
}

// A snapshot is no base any more before its content changes; a base too few is no harm.
bool is_either(const std::string& found, const std::string& before, const std::string& after) {
    std::string unchanged = found;
    if (const auto at = unchanged.find(renewed); at != std::string::npos) {
        unchanged.erase(at, renewed.size());
    }
    return unchanged == before || found == after;
}

// Without `whole` only what no step of a change that takes many may alter.
result<std::string> listed(pool_directory& pool, bool whole) {
    std::string text;
    for (const volume_info& one : UTHIN_TRY(pool.list())) {
        text += fmt::format("{} of {}: {} bytes", one.name, one.parent, one.size_bytes);
        if (whole) {
            text += fmt::format(" on '{}' promised {} of {} from {},{}", one.external_origin,
                                one.reserved_bytes, one.limit_bytes, content_id_of(one),
                                text_of(one.labels));
        }
        text += '\n';
    }
    for (const transfer_info& one : UTHIN_TRY(pool.list_transfers())) {
        text += fmt::format("transfer into {}: {} bytes,{}\n", one.name, one.size_bytes,
                            text_of(one.notes));
    }
    return text;
}

result<std::string> everything(pool_directory& pool, bool whole, std::string_view in_parts) {
    std::string text = UTHIN_TRY(listed(pool, whole));
    for (const volume_info& one : UTHIN_TRY(pool.list())) {
        if (one.name != in_parts) {
            text += fmt::format("{}: {}\n", one.name, UTHIN_TRY(content_of(pool, one.name)));
        }
        if (whole) {
            text += fmt::format("mapped {}\n", one.mapped_bytes);
        }
    }
    if (!whole) {
        return text;
    }
    const metadata_snapshot_reply held = UTHIN_TRY(pool.metadata_snapshot({}));
    const pool_report report = UTHIN_TRY(pool.report());
    return text + fmt::format("snapshot {} of '{}' until {}, {} data, {} metadata\n",
                              held.block ? "held" : "free", held.owner, held.expires_unix_seconds,
                              report.data_blocks, report.metadata_blocks);
}

// ---- the calls

struct call {
    const char* name;
    std::function<result<void>(world&)> act;
    // False: done in steps, after each of which it may stop.
    bool whole = true;
    // False: a reading, or something that is not kept.
    bool changes = true;
    bool closes = false;
    const char* in_parts = "";  // the volume whose content changes bit by bit
    // In a pool that has failed, too: without the metadata, or at the next opening.
    bool goes_on = false;
};

template <class T>
result<void> done(result<T> outcome) {
    UTHIN_TRY(std::move(outcome));
    return {};
}

seen_volume seen(const volume_info& info) {
    return {info.dev_id, info.creation_time, info.creation_transaction_id, info.size_bytes};
}

result<std::string> transfer_id(world& in) {
    return UTHIN_TRY(in.pool->list_transfers()).front().id;
}

void add_volumes(std::vector<call>& all) {
    const auto create = [](create_volume_request request) {
        return [=](world& in) { return done(in.pool->create_volume(request)); };
    };
    all.push_back({"create", create({.name = "new", .size_bytes = 3 * block})});
    all.push_back({"create with a promise", create({.name = "new",
                                                    .size_bytes = 3 * block,
                                                    .dev_id = 77,
                                                    .reserved_bytes = block,
                                                    .limit_bytes = 2 * block})});
    all.push_back({"create on an origin",
                   create({.name = "new", .size_bytes = 0, .external_origin = "memory:1M"})});
    all.push_back({"create what exists",
                   create({.name = "a", .size_bytes = 4 * block, .if_not_exists = true}), true,
                   false});
    all.push_back({"snapshots", [](world& in) {
                       create_snapshots_request request;
                       request.snapshots = {{"a", "s1", {{"k", "v"}}}, {"s1", "s2", {}}};
                       return done(in.pool->create_snapshots(request));
                   }});
    all.push_back({"rename", [](world& in) { return done(in.pool->rename("a", "other name")); }});
    all.push_back({"rename of a device without a record",
                   [](world& in) { return done(in.pool->rename("thin-50", "other name")); }});
    all.push_back(
        {"grow a volume", [](world& in) { return done(in.pool->resize("a", 9 * block)); }});
    all.push_back({"shrink a volume",
                   [](world& in) { return done(in.pool->resize("a", 2 * block)); }, false, true,
                   false, "a"});
    all.push_back({"limit", [](world& in) {
                       return done(in.pool->set_volume(
                           {.name = "b", .reserved_bytes = block, .limit_bytes = 3 * block}));
                   }});
    all.push_back({"label", [](world& in) {
                       return done(in.pool->label(
                           {.name = "a", .set = {{"x", "1"}, {"y", "2"}}, .remove = {"k"}}));
                   }});
    all.push_back({"remove", [](world& in) { return done(in.pool->remove({.name = "a"})); }});
    all.push_back(
        {"remove of a snapshot", [](world& in) { return done(in.pool->remove({.name = "b"})); }});
    all.push_back(
        {"rollback", [](world& in) { return done(in.pool->rollback({.name = "a", .to = "b"})); }});
    all.push_back({"rollback to another", [](world& in) {
                       return done(
                           in.pool->rollback({.name = "b", .to = "limited", .force = true}));
                   }});
}

void add_transfers(std::vector<call>& all) {
    all.push_back({"begin a transfer", [](world& in) {
                       return done(in.pool->begin_transfer(
                           {.name = "sent", .size_bytes = 2 * block, .notes = {{"n", "1"}}}));
                   }});
    all.push_back({"begin a transfer with a base", [](world& in) {
                       return done(in.pool->begin_transfer(
                           {.name = "sent", .base = "a", .size_bytes = 2 * block}));
                   }});
    all.push_back({"note",
                   [](world& in) -> result<void> {
                       return in.pool->note_transfer(UTHIN_TRY(transfer_id(in)), {{"n", "2"}});
                   },
                   true, true, false, "", true});
    all.push_back({"publish a transfer", [](world& in) -> result<void> {
                       publish_request request;
                       request.name = "published";
                       request.received_from = "there";
                       request.labels = {{"l", "1"}};
                       request.snapshot = "published, too";
                       request.snapshot_labels = {{"m", "1"}};
                       return in.pool->publish_transfer(UTHIN_TRY(transfer_id(in)), request);
                   }});
    all.push_back({"publish a transfer in the place of a volume", [](world& in) -> result<void> {
                       publish_request request;
                       request.name = "limited";
                       request.replaces = seen(UTHIN_TRY(in.pool->show("limited")));
                       return in.pool->publish_transfer(UTHIN_TRY(transfer_id(in)), request);
                   }});
    all.push_back({"drop a transfer", [](world& in) -> result<void> {
                       return in.pool->drop_transfer(UTHIN_TRY(transfer_id(in)));
                   }});
    all.push_back({"drop what is over",
                   [](world& in) {
                       in.time.advance(std::chrono::hours(48));
                       return in.pool->drop_expired();
                   },
                   true, true, false, "", true});
    all.push_back({"fill a hidden volume and publish it", [](world& in) -> result<void> {
                       hidden_volume hidden = UTHIN_TRY(in.pool->make_hidden("a", 3 * block));
                       const std::vector<std::byte> bytes(block, std::byte{0x77});
                       auto outcome = hidden.data->write(block, bytes);
                       if (outcome) {
                           outcome = in.pool->publish_hidden(hidden, {.name = "published"});
                       }
                       in.pool->drop_hidden(hidden);
                       return outcome;
                   }});
    all.push_back({"make a hidden volume and drop it",
                   [](world& in) -> result<void> {
                       hidden_volume hidden = UTHIN_TRY(in.pool->make_hidden({}, 3 * block));
                       in.pool->drop_hidden(hidden);
                       return {};
                   },
                   true, false});
}

void add_pool(std::vector<call>& all) {
    for (const char* text :
         {"create_thin 60", "create_snap 61 0", "delete 0", "delete 50", "reserve_metadata_snap"}) {
        all.push_back({text, [=](world& in) { return in.pool->message(text); }});
    }
    all.push_back({"grow the data", [](world& in) {
                       return in.pool->grow({.data_size_bytes = data_bytes + spare_bytes});
                   }});
    all.push_back({"grow the metadata", [](world& in) {
                       return in.pool->grow({.metadata_size_bytes = metadata_bytes + spare_bytes});
                   }});
    all.push_back({"set",
                   [](world& in) {
                       return in.pool->set({{"low-water", "3"}, {"overcommit", "1000%"}});
                   },
                   true, false});
    const auto held = [](metadata_snapshot_action action, std::uint64_t lease_s) {
        return [=](world& in) -> result<void> {
            metadata_snapshot_request request{action, std::nullopt, {}};
            if (lease_s != 0) {
                request.lease_s = lease_s;
                request.owner = "reader";
            }
            return done(in.pool->metadata_snapshot(request));
        };
    };
    all.push_back({"reserve the snapshot", held(metadata_snapshot_action::reserve, 60)});
    all.push_back({"reserve, renew and release the snapshot",
                   [=](world& in) -> result<void> {
                       UTHIN_TRY(held(metadata_snapshot_action::reserve, 60)(in));
                       UTHIN_TRY(held(metadata_snapshot_action::renew, 90)(in));
                       return held(metadata_snapshot_action::release, 0)(in);
                   },
                   false, false});
    all.push_back({"a lease that is over",
                   [=](world& in) -> result<void> {
                       UTHIN_TRY(held(metadata_snapshot_action::reserve, 60)(in));
                       in.time.advance(std::chrono::minutes(2));
                       return done(in.pool->rename("a", "other name"));
                   },
                   false});
    all.push_back(
        {"check", [](world& in) { return done(in.pool->check({.repair = true})); }, true, false});
    all.push_back(
        {"release", [](world& in) { return done(in.pool->release()); }, false, true, false});
    all.push_back({"flatten",
                   [](world& in) {
                       return done(in.pool->start_origin_job(
                           {.name = "on origin", .kind = origin_job_kind::flatten}));
                   },
                   false});
    all.push_back({"merge",
                   [](world& in) { return done(in.pool->start_origin_job({.name = "on origin"})); },
                   false, false, false, "on origin"});
    all.push_back({"close", [](world& in) { return in.pool->close(); }, true, false, true});
}

void add_readings(std::vector<call>& all) {
    const auto read = [&](const char* name, std::function<result<void>(pool_directory&)> act) {
        all.push_back({name, [=](world& in) { return act(*in.pool); }, true, false});
    };
    read("list", [](pool_directory& pool) { return done(pool.list_with_usage()); });
    read("show", [](pool_directory& pool) { return done(pool.show_with_usage("b")); });
    read("show a device without a record",
         [](pool_directory& pool) { return done(pool.show("thin-50")); });
    read("usage", [](pool_directory& pool) { return done(pool.usage({"a", "b"})); });
    read("report", [](pool_directory& pool) { return done(pool.report()); });
    read("kernel_lines", [](pool_directory& pool) -> result<void> {
        UTHIN_TRY(pool.kernel_lines());
        return done(pool.kernel_lines("a"));
    });
    read("diff", [](pool_directory& pool) { return done(pool.diff({.from = "b", .to = "a"})); });
    read("trim", [](pool_directory& pool) { return done(pool.trim()); });
    read("wait_for_deletions", [](pool_directory& pool) { return pool.wait_for_deletions(); });
    read("show_origin_job", [](pool_directory& pool) -> result<void> {
        const auto job = pool.show_origin_job("on origin");
        return job || job.error().code() == error_code::not_found ? result<void>() : done(job);
    });
    read("stop_origin_job", [](pool_directory& pool) -> result<void> {
        const auto job = pool.stop_origin_job("on origin", true);
        return job || job.error().code() == error_code::not_found ? result<void>() : done(job);
    });
}

std::vector<call> all_calls() {
    std::vector<call> all;
    add_volumes(all);
    add_transfers(all);
    add_pool(all);
    add_readings(all);
    return all;
}

// ---- what fails

struct failure {
    const char* name;
    std::function<void(world&, std::uint64_t nth)> arm;
    bool always = false;  // at tier 0, too, for each call
};

std::vector<failure> failures() {
    std::vector<failure> all;
    for (const bool for_ever : {false, true}) {
        const char* const often = for_ever ? "for ever" : "once";
        const auto add = [&](const char* which, bool always, auto arm) {
            // Kept for the rest of the program.
            static std::vector<std::unique_ptr<std::string>> names;
            names.push_back(std::make_unique<std::string>(fmt::format("{} {}", which, often)));
            all.push_back({names.back()->c_str(),
                           [=](world& in, std::uint64_t nth) { arm(in, nth, for_ever); }, always});
        };
        add("a file of the catalogue", false, [](world& in, std::uint64_t nth, bool ever) {
            in.vfs.arm({.nth = nth, .for_ever = ever});
        });
        add("a statement", true, [](world& in, std::uint64_t nth, bool ever) {
            in.statements.arm(statement_stage::run, nth, ever);
        });
        add("the metadata", !for_ever, [](world& in, std::uint64_t nth, bool ever) {
            in.metadata_faults.arm({.nth = nth, .persistent = ever});
        });
        add("the data", false, [](world& in, std::uint64_t nth, bool ever) {
            in.data_faults.arm({.nth = nth, .persistent = ever});
        });
    }
    return all;
}

// ---- the base

result<void> fill_base(world& in) {
    pool_directory& pool = *in.pool;
    UTHIN_TRY(pool.create_volume({.name = "a", .size_bytes = 4 * block}));
    UTHIN_TRY(fill(pool, "a", 3, std::byte{0x11}));
    UTHIN_TRY(pool.label({.name = "a", .set = {{"k", "v"}}}));
    create_snapshots_request snapshot;
    snapshot.snapshots = {{"a", "b", {}}};
    UTHIN_TRY(pool.create_snapshots(snapshot));
    UTHIN_TRY(fill(pool, "a", 1, std::byte{0x22}));
    UTHIN_TRY(pool.create_volume({.name = "limited",
                                  .size_bytes = 3 * block,
                                  .reserved_bytes = block,
                                  .limit_bytes = 2 * block}));
    UTHIN_TRY(fill(pool, "limited", 1, std::byte{0x33}));
    UTHIN_TRY(pool.create_volume({.name = "on origin", .external_origin = "memory:128K"}));
    UTHIN_TRY(fill(pool, "on origin", 1, std::byte{0x44}));
    UTHIN_TRY(pool.message("create_thin 50"));
    UTHIN_TRY(pool.begin_transfer({.name = "in transfer", .size_bytes = 2 * block}));
    return pool.close();
}

class DirectoryFault : public testing::Test {
protected:
    DirectoryFault() {
        io::image_device metadata("metadata", io::sparse_image(metadata_bytes));
        io::image_device data("data", io::sparse_image(data_bytes));
        pool_options options;
        options.format = true;
        options.data_block_size_sectors = block / sector_size_bytes;
        auto formatted =
            pool::open(std::make_unique<test::borrowed_device>(metadata),
                       std::make_unique<test::borrowed_device>(data), options, system_clock());
        EXPECT_THAT(formatted, IsOk());
        EXPECT_THAT((*formatted)->close(), IsOk());
        EXPECT_THAT(catalogue::create(path_, "pool-1", {}), IsOk());
        world in({metadata.image(), data.image()}, directory_.path());
        EXPECT_THAT(in.open(), IsOk());
        EXPECT_THAT(fill_base(in), IsOk());
        in.pool.reset();
        std::filesystem::copy_file(path_, base_path_);
        base_ = in.now();
        base_.metadata.resize(metadata_bytes + spare_bytes);
        base_.data.resize(data_bytes + spare_bytes);
    }
    void begin_anew() const {
        std::filesystem::remove(path_ + "-journal");
        std::filesystem::copy_file(base_path_, path_,
                                   std::filesystem::copy_options::overwrite_existing);
    }
    // Of a call that nothing disturbs; without one the base.
    std::string text_after(const call* of, bool whole, std::string_view in_parts) {
        begin_anew();
        world in(base_, directory_.path());
        EXPECT_THAT(in.open(), IsOk());
        if (of != nullptr) {
            EXPECT_THAT(of->act(in), IsOk()) << of->name;
        }
        return text_anew(in, whole, in_parts);
    }
    // On healthy devices, after all that was left over has been settled.
    std::string text_anew(world& in, bool whole, std::string_view in_parts) {
        const auto text = [&]() -> result<std::string> {
            UTHIN_TRY(in.open());
            // After a failed commit the pool is read-only until it is checked.
            if (UTHIN_TRY(in.pool->check({.repair = true})).repaired) {
                UTHIN_TRY(in.open());
            }
            UTHIN_TRY(in.pool->wait_for_deletions());
            std::string found = UTHIN_TRY(everything(*in.pool, whole, in_parts));
            const std::size_t known =
                UTHIN_TRY(in.pool->list()).size() + UTHIN_TRY(in.pool->list_transfers()).size();
            const std::size_t devices = UTHIN_TRY(in.pool->engine().list_devices()).size();
            EXPECT_EQ(devices, known) << "something hidden is left over";
            const check_reply checked = UTHIN_TRY(in.pool->check({}));
            EXPECT_TRUE(checked.clean) << testing::PrintToString(checked.findings);
            UTHIN_TRY(in.pool->create_volume({.name = "last", .size_bytes = block}));
            UTHIN_TRY(in.pool->remove({.name = "last"}));
            UTHIN_TRY(in.pool->close());
            in.pool.reset();
            return found;
        }();
        EXPECT_THAT(text, IsOk());
        return text.value_or("");
    }
    bool survives(const call& of, const failure& what, std::uint64_t nth, const std::string& before,
                  const std::string& after);
    void open_again(const images& left, const failure& what, const std::string& before,
                    const std::string& after);

    test::temporary_directory directory_;
    std::string path_ = directory_.path() / "catalog.db";
    std::string base_path_ = directory_.path() / "base.db";
    images base_;
    std::uint64_t failed_calls_ = 0;
};

// False: fewer operations were made.
bool DirectoryFault::survives(const call& of, const failure& what, std::uint64_t nth,
                              const std::string& before, const std::string& after) {
    SCOPED_TRACE(fmt::format("{}: {} fails, {}", of.name, what.name, nth));
    begin_anew();
    world in(base_, directory_.path());
    EXPECT_THAT(in.open(), IsOk());
    what.arm(in, nth);
    const result<void> outcome = of.act(in);
    const bool struck = in.injected() != 0;
    in.heal();
    if (!outcome) {
        ++failed_calls_;
        EXPECT_TRUE(struck) << outcome.error().to_string();
    }
    if (nth % 2 == 1 && !of.closes) {
        (void)in.pool->close();
    }
    const std::string found = text_anew(in, of.whole, of.in_parts);
    if (outcome && of.changes) {
        EXPECT_EQ(found, after);
    } else {
        EXPECT_TRUE(is_either(found, before, after))
            << (outcome ? "" : outcome.error().to_string()) << "\n-- found:\n"
            << found << "-- before:\n"
            << before << "-- after:\n"
            << after;
    }
    return struck;
}

// The stores as they are, opened with the n-th operation failing, for every n.
void DirectoryFault::open_again(const images& left, const failure& what, const std::string& before,
                                const std::string& after) {
    constexpr std::uint64_t operations_max = 200;
    const auto replace = std::filesystem::copy_options::overwrite_existing;
    const std::string left_path = base_path_ + ".left";
    std::filesystem::copy_file(path_, left_path, replace);
    for (std::uint64_t nth = 1; nth < operations_max; nth += test::tier() == 0 ? 5U : 1U) {
        SCOPED_TRACE(fmt::format("{} fails, {}", what.name, nth));
        std::filesystem::copy_file(left_path, path_, replace);
        world again(left, directory_.path());
        what.arm(again, nth);
        const auto opened = again.open();
        const bool struck = again.injected() != 0;
        again.heal();
        EXPECT_TRUE(opened || struck);
        const std::string found = text_anew(again, true, {});
        EXPECT_TRUE(is_either(found, before, after)) << found;
        if (!struck || HasFailure()) {
            break;
        }
    }
    std::filesystem::copy_file(left_path, path_, replace);
}

// At tier 0 one of the other failures in so many, another one for each call.
constexpr std::size_t sampled = 4;

TEST_F(DirectoryFault, EveryCallHappensOrSaysThatItFailed) {
    constexpr std::uint64_t operations_max = 1000;
    const std::vector<failure> all = failures();
    std::uint64_t runs = 0;
    std::size_t turn = test::seed();
    for (const call& of : all_calls()) {
        const std::string before = text_after(nullptr, of.whole, of.in_parts);
        const std::string after = text_after(&of, of.whole, of.in_parts);
        for (std::size_t i = 0; i < all.size(); ++i) {
            if (test::tier() == 0 && !all[i].always && (i + turn) % sampled != 0) {
                continue;
            }
            std::uint64_t nth = 1;
            while (survives(of, all[i], nth, before, after) && !HasFailure()) {
                ++nth;
                ASSERT_LT(nth, operations_max);
            }
            runs += nth;
            ASSERT_FALSE(HasFailure());
        }
        ++turn;
    }
    std::printf("DirectoryFault: runs=%llu failed_calls=%llu\n",
                static_cast<unsigned long long>(runs),
                static_cast<unsigned long long>(failed_calls_));
}

// The metadata is dead: a pool that cannot even go back to its last commit takes no call but close,
// and loses nothing.
TEST_F(DirectoryFault, AFailedPoolRefusesWhatItCannotDo) {
    const std::string before = text_after(nullptr, true, {});
    std::uint64_t refused = 0;
    for (const call& of : all_calls()) {
        SCOPED_TRACE(of.name);
        begin_anew();
        world in(base_, directory_.path());
        ASSERT_THAT(in.open(), IsOk());
        // What cannot be read before anything was changed breaks nothing.
        for (std::uint64_t nth = 1; in.pool->engine().mode() == pool_mode::write; ++nth) {
            in.heal();
            in.metadata_faults.arm({.nth = nth, .persistent = true});
            ASSERT_FALSE(in.pool->message("create_thin 70"));
        }
        ASSERT_EQ(in.pool->engine().mode(), pool_mode::fail);
        in.heal();
        const auto outcome = of.act(in);
        if (!outcome) {
            ++refused;
            EXPECT_THAT(outcome.error().code(),
                        testing::AnyOf(error_code::failed, error_code::unsupported));
            EXPECT_THAT(outcome.error().message(), testing::Not(testing::IsEmpty()));
        } else {
            EXPECT_FALSE(of.changes && of.whole && !of.goes_on);
        }
        EXPECT_EQ(in.pool->report()->mode, "fail");
        if (!of.goes_on) {
            EXPECT_EQ(text_anew(in, true, {}), before);
        }
        ASSERT_FALSE(HasFailure());
    }
    EXPECT_GT(refused, 30U);
}

// What a change that was cut off has left, and an opening that is cut off itself.
TEST_F(DirectoryFault, AnOpeningThatFailsLeavesTheNextOneEverything) {
    constexpr std::uint64_t cuts_max = 40;
    const std::vector<failure> all = failures();
    std::size_t turn = test::seed();
    for (const call& of : all_calls()) {
        if (!of.changes || !of.whole) {
            continue;
        }
        const std::string before = text_after(nullptr, true, {});
        const std::string after = text_after(&of, true, {});
        for (std::uint64_t cut = 1; cut < cuts_max; cut += 1 + test::seed() % 7) {
            SCOPED_TRACE(fmt::format("{} cut at {}", of.name, cut));
            begin_anew();
            world in(base_, directory_.path());
            ASSERT_THAT(in.open(), IsOk());
            in.statements.arm(statement_stage::run, cut, true);
            (void)of.act(in);
            if (in.injected() == 0) {
                break;
            }
            in.pool.reset();
            ++turn;
            for (std::size_t i = 0; i < all.size(); ++i) {
                if (test::tier() != 0 || (i + turn) % all.size() == 0) {
                    open_again(in.now(), all[i], before, after);
                    ASSERT_FALSE(HasFailure());
                }
            }
        }
    }
}

}  // namespace
}  // namespace uthin
