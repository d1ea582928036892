// Power cuts while a volume with its snapshots is migrated: both pools lose what they had not
// flushed, at every operation of any of their devices. Whatever is found under a name afterwards
// holds the right bytes, the volume's name is never in both pools, and the same call goes on.
#include <cstdio>
#include <map>

#include <fmt/format.h>

#include "base/random.h"
#include "base/result.h"
#include "pool/pool_directory.h"
#include "replication/migrator.h"
#include "support/crash_signatures.h"
#include "support/crash_vfs.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/pool_state.h"
#include "support/seed.h"
#include "support/tier.h"

namespace uthin {
namespace {

using test::borrowed_device;
using test::pattern;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t metadata_blocks = 128;
constexpr std::uint64_t data_blocks = 40;
constexpr std::uint64_t volume_bytes = 6 * block_bytes - 4096;

using content_map = std::map<std::string, std::vector<std::byte>>;

// Two pools, "s" and "t", on the disks of one machine.
struct machine {
    machine(const io::crash_state* state, bool target_lies)
        : domain(state != nullptr ? std::make_unique<io::crash_domain>(*state)
                                  : std::make_unique<io::crash_domain>()),
          vfs(*domain),
          lies(target_lies) {}

    [[nodiscard]] static std::string uuid_of(const std::string& name) {
        return "6f1d2c3b-0000-4000-8000-00000000000" + std::string(name == "s" ? "6" : "7");
    }
    [[nodiscard]] static std::string catalogue_of(const std::string& name) {
        return "/pools/" + name + "-catalog.db";
    }

    [[nodiscard]] result<std::unique_ptr<pool_directory>> open(const std::string& name) {
        const bool lying = lies && name == "t";
        directory_parts parts;
        parts.directory = "/" + name;
        parts.file.uuid = uuid_of(name);
        parts.file.error_if_no_space = true;
        parts.devices.metadata =
            std::make_unique<borrowed_device>(*domain->find(name + "-metadata"), lying);
        parts.devices.data =
            std::make_unique<borrowed_device>(*domain->find(name + "-data"), lying);
        parts.names = UTHIN_TRY(catalogue::open(catalogue_of(name), uuid_of(name),
                                                {.read_only = false, .vfs_name = vfs.name()}));
        directory_options options;
        options.catalogue_vfs = vfs.name();
        options.pool = {.metadata_cache_bytes = 1 << 20, .mapping_cache_entries = 256};
        return pool_directory::assemble(std::move(parts), options, time);
    }
    [[nodiscard]] result<void> open_both() {
        source = UTHIN_TRY(open("s"));
        target = UTHIN_TRY(open("t"));
        service = make_pool_service(*source);
        return {};
    }

    void add_devices(const std::string& name) {
        domain->add_device(name + "-metadata", metadata_blocks * metadata_block_size_bytes);
        domain->add_device(name + "-data", data_blocks * block_bytes);
        domain->add_device(name + "-catalog.db", std::uint64_t{0});
        domain->add_device(name + "-catalog.db-journal", std::uint64_t{0});
    }
    [[nodiscard]] result<void> make_pool(const std::string& name) {
        auto& metadata = *domain->find(name + "-metadata");
        auto& data = *domain->find(name + "-data");
        auto formatted = UTHIN_TRY(pool::open(
            std::make_unique<borrowed_device>(metadata), std::make_unique<borrowed_device>(data),
            {.format = true, .data_block_size_sectors = 128}, time));
        UTHIN_TRY(formatted->close());
        UTHIN_TRY(catalogue::create(catalogue_of(name), uuid_of(name),
                                    {.read_only = false, .vfs_name = vfs.name()}));
        return {};
    }

    [[nodiscard]] result<void> write(std::uint64_t offset, std::uint64_t seed,
                                     std::uint64_t length) {
        const auto opened = UTHIN_TRY(source->open_volume("v", false));
        return opened->write(offset, pattern(seed, length), true);
    }

    // "v" with the snapshots "one" and "two".
    [[nodiscard]] result<void> make(random_generator& random) {
        add_devices("s");
        add_devices("t");
        UTHIN_TRY(make_pool("s"));
        UTHIN_TRY(make_pool("t"));
        UTHIN_TRY(open_both());
        create_volume_request request;
        request.name = "v";
        request.size_bytes = volume_bytes;
        UTHIN_TRY(source->create_volume(request));
        UTHIN_TRY(write(512, random.next(), 2 * block_bytes));
        UTHIN_TRY(snapshot("one"));
        UTHIN_TRY(write(block_bytes, random.next(), 4096));
        UTHIN_TRY(snapshot("two"));
        UTHIN_TRY(write(4 * block_bytes + 1024, random.next(), 512));
        UTHIN_TRY(source->engine().commit());
        domain->forget_history();
        return {};
    }
    [[nodiscard]] result<void> snapshot(const std::string& name) {
        create_snapshots_request request;
        request.snapshots = {{"v", name}};
        UTHIN_TRY(source->create_snapshots(request));
        return {};
    }

    [[nodiscard]] result<void> migrate() {
        replication::migrate_request request;
        request.name = "v";
        UTHIN_TRY(replication::migrate_volume(*service, *target, request));
        return {};
    }

    [[nodiscard]] static result<content_map> read(pool_directory& from) {
        content_map found;
        for (const volume_info& info : UTHIN_TRY(from.list())) {
            auto& bytes = found[info.name];
            bytes.resize(info.size_bytes);
            const auto opened = UTHIN_TRY(from.open_volume(info.name, true));
            UTHIN_TRY(opened->read(0, bytes));
        }
        return found;
    }

    manual_clock time;
    std::unique_ptr<io::crash_domain> domain;
    test::crash_vfs vfs;
    const bool lies;
    std::unique_ptr<pool_directory> source;
    std::unique_ptr<pool_directory> target;
    std::unique_ptr<pool_service> service;
};

struct totals {
    std::uint64_t cuts = 0;
    std::uint64_t states = 0;
    std::uint64_t finished_later = 0;
    std::vector<std::string> violations;
};

// Empty, or what is wrong. `wanted` has "v", "one" and "two".
std::string complaint(machine& after, const content_map& wanted) {
    const auto here = machine::read(*after.source);
    const auto there = machine::read(*after.target);
    if (!here || !there) {
        return (here ? there.error() : here.error()).to_string();
    }
    if (here->contains("v") == here->contains("v.migrated")) {
        return "the source has the volume twice, or not at all";
    }
    if (here->contains("v") && there->contains("v")) {
        return "both pools have the volume under its name";
    }
    const auto differs = [&](const content_map& found, const std::string& name,
                             const std::string& as) {
        const auto at = found.find(name);
        return at != found.end() && at->second != wanted.at(as);
    };
    if (differs(*here, "v", "v") || differs(*here, "v.migrated", "v") ||
        differs(*here, "one", "one") || differs(*here, "two", "two")) {
        return "the source holds other bytes";
    }
    for (const auto& [name, bytes] : wanted) {
        if (differs(*there, name, name)) {
            return "the target holds other bytes under " + name;
        }
    }
    return here->contains("one") && here->contains("two") ? "" : "a snapshot of the source is gone";
}

std::string complaint_of_metadata(machine& after) {
    const auto view = thin_metadata::open_offline(*after.domain->find("t-metadata"), {});
    return view ? test::check_complaint(**view) : view.error().to_string();
}

std::string finish_later(machine& after, const content_map& wanted) {
    if (auto done = after.migrate(); !done) {
        return "going on: " + done.error().to_string();
    }
    const auto there = machine::read(*after.target);
    if (!there || *there != wanted) {
        return "going on: the target does not hold all, and nothing else";
    }
    const auto closed = after.target->close();
    return closed ? complaint_of_metadata(after) : closed.error().to_string();
}

totals cut_everywhere(bool target_lies) {
    totals sums;
    random_generator random(test::seed());
    machine running(nullptr, target_lies);
    EXPECT_OK(running.make(random));
    const content_map wanted = machine::read(*running.source).value();
    EXPECT_OK(running.migrate());
    running.service.reset();
    running.source.reset();
    running.target.reset();
    const io::crash_history history = running.domain->history();
    io::power_cut cut(history);
    test::crash_signatures signatures;
    for (std::size_t k = 0; k <= cut.operation_count() && sums.violations.size() < 5; ++k) {
        if (k > 0) {
            signatures.completed(history.operations[k - 1]);
        }
        const io::recorded_operation* in_flight =
            k < cut.operation_count() && history.operations[k].kind != io::operation_kind::flush
                ? &history.operations[k]
                : nullptr;
        cut.move_to(k);
        ++sums.cuts;
        for (const io::crash_choice& choice : cut.choices({.random_subsets = 16,
                                              .random_masks = 4,
                                              .choices_max = test::tier() == 0 ? 3U : 12U,
                                              .seed = test::seed() + k})) {
            if (!signatures.is_new(cut, choice, in_flight, 0)) {
                continue;
            }
            ++sums.states;
            const io::crash_state state = cut.materialize(choice);
            machine after(&state, false);
            auto opened = after.open_both();
            std::string text = opened ? complaint(after, wanted) : opened.error().to_string();
            if (text.empty() && sums.states % 4 == 0) {
                ++sums.finished_later;
                text = finish_later(after, wanted);
            }
            if (!text.empty()) {
                sums.violations.push_back(fmt::format(
                    "cut at {} of {}, {}: {}", k, cut.operation_count(), to_string(choice), text));
            }
        }
    }
    return sums;
}

TEST(MigrateCrash, EveryCutLeavesWholeVolumesAndAWayOn) {
    const totals sums = cut_everywhere(false);
    std::printf("migrate: cuts=%llu states=%llu finished_later=%llu violations=%zu\n",
                static_cast<unsigned long long>(sums.cuts),
                static_cast<unsigned long long>(sums.states),
                static_cast<unsigned long long>(sums.finished_later), sums.violations.size());
    EXPECT_TRUE(sums.violations.empty()) << ::testing::PrintToString(sums.violations);
    EXPECT_GT(sums.finished_later, 20U);
}

TEST(MigrateCrashHarness, SeesATargetThatIsNotFlushed) {
    EXPECT_FALSE(cut_everywhere(true).violations.empty());
}

}  // namespace
}  // namespace uthin
