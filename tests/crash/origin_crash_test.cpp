// Power cuts while a volume is merged into its external origin or flattened: metadata, data,
// catalogue and the origin lose what they had not flushed, each on its own, at every operation of
// any of them. The bytes of the volume, and of its neighbours on the origin, are the same after
// every cut, and the work can go on from there.
#include <array>
#include <cstdio>
#include <map>

#include <fmt/format.h>

#include "base/random.h"
#include "base/result.h"
#include "pool/pool_directory.h"
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

constexpr const char* pool_uuid = "6f1d2c3b-0000-4000-8000-000000000005";
constexpr const char* catalogue_path = "/pool/catalog.db";
constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t metadata_blocks = 128;
constexpr std::uint64_t data_blocks = 48;
constexpr std::uint64_t volume_blocks = 9;
constexpr std::uint64_t volume_bytes = volume_blocks * block_bytes - 4096;
constexpr std::uint64_t origin_bytes = volume_blocks * block_bytes - 8192;

using content_map = std::map<std::string, std::vector<std::byte>>;

// What the volumes hold from `begin` on; certain from `end` on.
struct known_content {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    content_map volumes;
};

struct workload {
    origin_job_kind kind = origin_job_kind::merge;
    bool clients = false;
    bool origin_lies = false;
    std::uint64_t seed = 1;
};

struct totals {
    std::uint64_t workloads = 0;
    std::uint64_t cuts = 0;
    std::uint64_t states = 0;
    std::uint64_t finished_later = 0;
    std::uint64_t violations = 0;
    std::vector<std::string> first_violations;
};

struct machine {
    machine(const io::crash_state* state, bool lies)
        : domain(state != nullptr ? std::make_unique<io::crash_domain>(*state)
                                  : std::make_unique<io::crash_domain>()),
          vfs(*domain),
          origin_lies(lies) {}

    [[nodiscard]] result<void> open() {
        directory_parts parts;
        parts.directory = "/pool";
        parts.file.uuid = pool_uuid;
        parts.file.error_if_no_space = true;
        parts.devices.metadata = std::make_unique<borrowed_device>(*domain->find("metadata"));
        parts.devices.data = std::make_unique<borrowed_device>(*domain->find("data"));
        parts.names = UTHIN_TRY(catalogue::open(catalogue_path, pool_uuid,
                                                {.read_only = false, .vfs_name = vfs.name()}));
        directory_options options;
        options.catalogue_vfs = vfs.name();
        options.open_origin = [this](const std::string&, bool) {
            return result<std::unique_ptr<block_device>>(
                std::make_unique<borrowed_device>(*domain->find("origin"), origin_lies));
        };
        options.pool = {.metadata_cache_bytes = 1 << 20, .mapping_cache_entries = 256};
        pool = UTHIN_TRY(pool_directory::assemble(std::move(parts), options, time));
        return {};
    }

    [[nodiscard]] result<void> write(const std::string& name, std::uint64_t offset,
                                     std::span<const std::byte> bytes) {
        const auto opened = UTHIN_TRY(pool->open_volume(name, false));
        return opened->write(offset, bytes, true);
    }

    // A volume on the origin with some blocks of its own, and two neighbours: one shares blocks
    // with it, one maps nothing.
    [[nodiscard]] result<void> make(random_generator& random) {
        auto& metadata =
            domain->add_device("metadata", metadata_blocks * metadata_block_size_bytes);
        auto& data = domain->add_device("data", data_blocks * block_bytes);
        domain->add_device("catalog.db", std::uint64_t{0});
        domain->add_device("catalog.db-journal", std::uint64_t{0});
        auto& origin = domain->add_device("origin", origin_bytes);
        auto image = pattern(random.next(), origin_bytes);
        std::fill_n(image.begin() + 3 * block_bytes, block_bytes, std::byte{0});
        UTHIN_TRY(origin.write(0, image));
        auto formatted = UTHIN_TRY(pool::open(
            std::make_unique<borrowed_device>(metadata), std::make_unique<borrowed_device>(data),
            {.format = true, .data_block_size_sectors = 128}, time));
        UTHIN_TRY(formatted->close());
        UTHIN_TRY(catalogue::create(catalogue_path, pool_uuid,
                                    {.read_only = false, .vfs_name = vfs.name()}));
        UTHIN_TRY(open());
        for (const char* const name : {"v", "bare"}) {
            create_volume_request request;
            request.name = name;
            request.size_bytes = volume_bytes;
            request.external_origin = "/pool/origin";
            UTHIN_TRY(pool->create_volume(request));
        }
        UTHIN_TRY(write("v", block_bytes, pattern(random.next(), block_bytes)));
        UTHIN_TRY(write("v", 5 * block_bytes + 512, pattern(random.next(), 2 * block_bytes)));
        create_snapshots_request snapshot;
        snapshot.snapshots = {{"v", "sharing"}};
        UTHIN_TRY(pool->create_snapshots(snapshot));
        UTHIN_TRY(write("v", 1024, pattern(random.next(), 4096)));
        UTHIN_TRY(write("v", 3 * block_bytes + 4096, pattern(random.next(), 4096)));
        UTHIN_TRY(write("v", 6 * block_bytes, pattern(random.next(), 512)));
        // Over the end of the volume's last block, not over the end of the origin.
        UTHIN_TRY(write("v", origin_bytes - 2048, pattern(random.next(), 2048)));
        UTHIN_TRY(pool->engine().commit());
        domain->forget_history();
        return {};
    }

    [[nodiscard]] result<content_map> read() {
        content_map found;
        for (const volume_info& info : UTHIN_TRY(pool->list())) {
            auto& bytes = found[info.name];
            bytes.resize(info.size_bytes);
            const auto opened = UTHIN_TRY(pool->open_volume(info.name, true));
            UTHIN_TRY(opened->read(0, bytes));
        }
        return found;
    }

    manual_clock time;
    std::unique_ptr<io::crash_domain> domain;
    test::crash_vfs vfs;
    const bool origin_lies;
    std::unique_ptr<pool_directory> pool;
};

class origin_crash {
public:
    explicit origin_crash(totals& sums) : totals_(sums) {}

    void run(const workload& what) {
        work_ = what;
        ++totals_.workloads;
        machine running(nullptr, what.origin_lies);
        if (auto done = run_on(running); !done) {
            violation(done.error().to_string());
            return;
        }
        running.pool.reset();
        cut_everywhere(running);
    }

private:
    [[nodiscard]] origin_job_request request() const {
        origin_job_request wanted;
        wanted.name = "v";
        wanted.kind = work_.kind;
        wanted.copy_up = work_.kind == origin_job_kind::merge;
        return wanted;
    }

    [[nodiscard]] result<void> run_on(machine& running) {
        random_generator random(work_.seed);
        UTHIN_TRY(running.make(random));
        known_ = {{0, 0, UTHIN_TRY(running.read())}};
        result<void> clients;
        UTHIN_TRY(running.pool->run_origin_job(request(), [&] {
            running.time.advance(std::chrono::milliseconds(random.below(1200)));
            if (work_.clients && clients && known_.size() < 12) {
                clients = write_somewhere(running, random);
            }
        }));
        UTHIN_TRY(std::move(clients));
        return complain(check_finished(running, known_.back().volumes));
    }

    static result<void> complain(const std::string& text) {
        return text.empty() ? result<void>() : fail(error_code::corrupt, text);
    }

    // Durable when it returns.
    [[nodiscard]] result<void> write_somewhere(machine& running, random_generator& random) {
        const std::string name = random.one_in(4) ? "sharing" : "v";
        const std::uint64_t sectors = 1 + random.below(random.one_in(3) ? 300 : 20);
        const std::uint64_t offset = random.below(origin_bytes / 512 - sectors) * 512;
        const auto bytes = pattern(random.next(), sectors * 512);
        known_content next = known_.back();
        next.begin = running.domain->sequence();
        std::copy(bytes.begin(), bytes.end(),
                  next.volumes[name].begin() + static_cast<std::ptrdiff_t>(offset));
        UTHIN_TRY(running.write(name, offset, bytes));
        next.end = running.domain->sequence();
        known_.push_back(std::move(next));
        return {};
    }

    // The volumes read as ever, and the work is done.
    [[nodiscard]] std::string check_finished(machine& running, const content_map& wanted) const {
        const auto found = running.read();
        if (!found || *found != wanted) {
            return "other bytes at the end";
        }
        const auto info = running.pool->show("v");
        if (!info || !info->labels.empty()) {
            return "the work is still recorded at the end";
        }
        if (work_.kind == origin_job_kind::flatten) {
            return info->external_origin.empty() ? "" : "still on the origin";
        }
        std::vector<std::byte> image(origin_bytes);
        if (!running.domain->find("origin")->read(0, image) || info->mapped_bytes != 0) {
            return fmt::format("{} bytes are still mapped", info->mapped_bytes);
        }
        const auto& whole = wanted.at("v");
        return std::equal(image.begin(), image.end(), whole.begin()) ? "" : "the origin differs";
    }

    void violation(const std::string& what) {
        ++totals_.violations;
        if (totals_.first_violations.size() < 5) {
            totals_.first_violations.push_back(
                fmt::format("seed {} {}{}: {}", work_.seed,
                            work_.kind == origin_job_kind::merge ? "merge" : "flatten",
                            work_.clients ? " with clients" : "", what));
        }
    }

    void cut_everywhere(const machine& running) {
        const io::crash_history history = running.domain->history();
        io::power_cut cut(history);
        test::crash_signatures signatures;
        for (std::size_t k = 0; k <= cut.operation_count(); ++k) {
            if (k > 0) {
                signatures.completed(history.operations[k - 1]);
            }
            const io::recorded_operation* in_flight =
                k < cut.operation_count() && history.operations[k].kind != io::operation_kind::flush
                    ? &history.operations[k]
                    : nullptr;
            cut.move_to(k);
            ++totals_.cuts;
            for (const io::crash_choice& choice : cut.choices({.random_subsets = 16,
                                                  .random_masks = 4,
                                                  .choices_max = test::tier() == 0 ? 3U : 12U,
                                                  .seed = work_.seed + k})) {
                if (!signatures.is_new(cut, choice, in_flight, duties_after(k))) {
                    continue;
                }
                ++totals_.states;
                if (const std::string text = check(cut.materialize(choice), k); !text.empty()) {
                    violation(fmt::format("cut at {} of {}, {}: {}", k, cut.operation_count(),
                                          to_string(choice), text));
                    return;
                }
            }
        }
    }

    [[nodiscard]] std::uint64_t duties_after(std::uint64_t operations) const {
        return static_cast<std::uint64_t>(std::ranges::count_if(
            known_, [&](const known_content& one) { return one.end <= operations; }));
    }

    // Sector by sector one of those that are possible after `operations`.
    [[nodiscard]] std::string complaint(const content_map& found, std::uint64_t operations) const {
        std::vector<const known_content*> possible;
        for (const known_content& one : known_) {
            if (one.end <= operations) {
                possible = {&one};
            } else if (one.begin <= operations) {
                possible.push_back(&one);
            }
        }
        for (const auto& [name, bytes] : found) {
            for (std::size_t at = 0; at < bytes.size(); at += 512) {
                const bool right = std::ranges::any_of(possible, [&](const known_content* one) {
                    const auto& wanted = one->volumes.at(name);
                    return std::equal(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                                      bytes.begin() + static_cast<std::ptrdiff_t>(at + 512),
                                      wanted.begin() + static_cast<std::ptrdiff_t>(at));
                });
                if (!right) {
                    return fmt::format("volume {} differs at {}", name, at);
                }
            }
        }
        return found.size() == 3 ? "" : fmt::format("{} volumes", found.size());
    }

    [[nodiscard]] std::string check(const io::crash_state& state, std::uint64_t operations) {
        machine after(&state, false);
        if (auto opened = after.open(); !opened) {
            return opened.error().to_string();
        }
        const auto found = after.read();
        if (!found) {
            return found.error().to_string();
        }
        if (std::string text = complaint(*found, operations); !text.empty()) {
            return text;
        }
        const auto view = thin_metadata::open_offline(*after.domain->find("metadata"), {});
        if (std::string text = view ? test::check_complaint(**view) : view.error().to_string();
            !text.empty()) {
            return text;
        }
        return totals_.states % 8 == 0 ? finish_later(after, *found) : "";
    }

    // Goes on as `uthin merge` again would.
    [[nodiscard]] std::string finish_later(machine& after, const content_map& wanted) {
        ++totals_.finished_later;
        const auto info = after.pool->show("v");
        if (info && info->external_origin.empty()) {
            return check_finished(after, wanted);
        }
        if (auto done = after.pool->start_origin_job(request()); !done) {
            return "going on: " + done.error().to_string();
        }
        if (std::string text = check_finished(after, wanted); !text.empty()) {
            return "going on: " + text;
        }
        const auto closed = after.pool->close();
        return closed ? "" : closed.error().to_string();
    }

    totals& totals_;
    workload work_;
    std::vector<known_content> known_;
};

void report(const char* name, const totals& sums) {
    std::printf("%s: workloads=%llu cuts=%llu states=%llu finished_later=%llu violations=%llu\n",
                name, static_cast<unsigned long long>(sums.workloads),
                static_cast<unsigned long long>(sums.cuts),
                static_cast<unsigned long long>(sums.states),
                static_cast<unsigned long long>(sums.finished_later),
                static_cast<unsigned long long>(sums.violations));
    for (const std::string& text : sums.first_violations) {
        std::printf("  %s\n", text.c_str());
    }
    std::fflush(stdout);
}

void expect_none(const char* name, origin_job_kind kind) {
    totals sums;
    origin_crash lab(sums);
    const std::uint64_t rounds = test::tier() == 0 ? 2 : 20;
    for (std::uint64_t i = 0; i < rounds; ++i) {
        for (const bool clients : {false, true}) {
            lab.run({.kind = kind, .clients = clients, .seed = test::seed() + i});
        }
    }
    report(name, sums);
    EXPECT_EQ(sums.violations, 0U);
    EXPECT_GT(sums.finished_later, 0U);
}

TEST(OriginCrash, AMergeKeepsEveryVolumesBytesAtEveryCut) {
    expect_none("merge", origin_job_kind::merge);
}

TEST(OriginCrash, FlatteningKeepsEveryVolumesBytesAtEveryCut) {
    expect_none("flatten", origin_job_kind::flatten);
}

TEST(OriginCrashHarness, SeesAnOriginThatIsNotFlushed) {
    totals sums;
    origin_crash lab(sums);
    lab.run({.origin_lies = true, .seed = test::seed()});
    EXPECT_GT(sums.violations, 0U);
}

}  // namespace
}  // namespace uthin
