// Power cuts under a pool that runs as in a server: its executor's thread, several clients at once
// on each volume, and somebody who takes and deletes snapshots. Metadata, data and catalogue lose
// what they had not flushed, each on its own.
//
// What may be there after a cut is judged from acknowledgements alone:
//   TC1  A sector holds a write of its client that is not older than the newest one that a flush
//   (or
//        its own FUA) had acknowledged, and that had been issued.
//   TC2  A snapshot shows each client's area after a whole number of that client's requests: at
//        least those that had been acknowledged when it was asked for, at most those issued by its
//        end. Nothing of it may be torn, whether or not its command had returned.
//   TC3  A command that returned has happened; one that was not begun has not.
//
// The seed decides what each client does, and where the history is cut; how the threads interleave
// is up to the machine, so a failure names a history that another run need not make.
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/mutex.h"
#include "base/random.h"
#include "base/result.h"
#include "io/crash_device.h"
#include "io/delay_device.h"
#include "pool/pool_directory.h"
#include "support/crash_vfs.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/pool_state.h"
#include "support/seed.h"
#include "support/tier.h"

namespace uthin {
namespace {

using test::borrowed_device;
using namespace std::chrono_literals;

constexpr const char* pool_uuid = "6f1d2c3b-0000-4000-8000-000000000002";
constexpr const char* catalogue_path = "/pool/catalog.db";
constexpr std::uint64_t block_bytes = 64ULL << 10;
constexpr std::uint64_t block_sectors = block_bytes / sector_size_bytes;
constexpr std::uint64_t metadata_blocks = 192;
constexpr std::uint64_t data_blocks = 256;
constexpr std::size_t volume_count = 2;
constexpr std::size_t clients_per_volume = 2;
// No whole number of blocks: two clients meet in one.
constexpr std::uint64_t area_sectors = 2 * block_sectors + 40;
constexpr std::uint64_t volume_bytes = clients_per_volume * area_sectors * sector_size_bytes;
constexpr std::uint64_t never = UINT64_MAX;

std::string volume_name(std::size_t number) {
    return fmt::format("volume-{}", number);
}

// ---- what the clients did

enum class request_kind : std::uint8_t { write, write_fua, zero, discard };

struct request {
    request_kind kind = request_kind::write;
    std::uint64_t begin_sector = 0;  // of the area
    std::uint64_t end_sector = 0;
    std::uint64_t issued_at = 0;  // sequence of the domain
    std::uint64_t answered_at = never;
};

using stamps = std::vector<std::uint64_t>;  // of an area: number of the request, 0: zeros

// One client and its part of a volume. Requests are numbered from 1.
class area {
public:
    area(std::size_t volume, std::size_t part) : volume_(volume), part_(part) {}

    [[nodiscard]] std::size_t volume() const { return volume_; }
    [[nodiscard]] std::uint64_t first_sector() const { return part_ * area_sectors; }
    [[nodiscard]] std::uint64_t answered() const { return answered_.load(); }
    [[nodiscard]] std::uint64_t issued() const { return issued_.load(); }

    std::uint64_t issue(request what) {
        const lock_guard held(lock_);
        requests_.push_back(what);
        issued_.store(requests_.size());
        return requests_.size();
    }
    void answer(std::uint64_t number, std::uint64_t sequence) {
        const lock_guard held(lock_);
        requests_[number - 1].answered_at = sequence;
        answered_.store(number);
    }
    // A flush that began when `number` requests had been answered was acknowledged.
    void flushed(std::uint64_t number, std::uint64_t sequence) {
        const lock_guard held(lock_);
        flushes_.emplace_back(number, sequence);
    }

    // After the threads have ended:
    [[nodiscard]] std::uint64_t issued_by(std::uint64_t sequence) const {
        std::uint64_t count = 0;
        while (count < requests_.size() && requests_[count].issued_at <= sequence) {
            ++count;
        }
        return count;
    }
    [[nodiscard]] std::string stamp_complaint(const stamps& found, std::uint64_t cut) const;
    // TC2, of `found` in a snapshot.
    [[nodiscard]] bool is_prefix(const stamps& found, std::uint64_t least,
                                 std::uint64_t most) const;
    [[nodiscard]] std::size_t flush_count() const { return flushes_.size(); }

private:
    void apply(const request& what, std::uint64_t number, stamps& to) const {
        const bool zeros = what.kind == request_kind::zero || what.kind == request_kind::discard;
        for (std::uint64_t at = what.begin_sector; at < what.end_sector; ++at) {
            if (covers(what, at)) {
                to[at] = zeros ? 0 : number;
            }
        }
    }
    // A discard takes whole blocks of the volume only.
    [[nodiscard]] bool covers(const request& what, std::uint64_t sector) const {
        if (sector < what.begin_sector || sector >= what.end_sector) {
            return false;
        }
        const std::uint64_t block_begin = (first_sector() + sector) / block_sectors * block_sectors;
        return what.kind != request_kind::discard ||
               (block_begin >= first_sector() + what.begin_sector &&
                block_begin + block_sectors <= first_sector() + what.end_sector);
    }

    const std::size_t volume_;
    const std::size_t part_;
    mutex lock_;
    std::vector<request> requests_;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> flushes_;
    std::atomic<std::uint64_t> issued_ = 0;
    std::atomic<std::uint64_t> answered_ = 0;
};

// TC1.
std::string area::stamp_complaint(const stamps& found, std::uint64_t cut) const {
    std::uint64_t durable = 0;
    for (const auto& [number, sequence] : flushes_) {
        durable = sequence <= cut ? std::max(durable, number) : durable;
    }
    const std::uint64_t issued = issued_by(cut);
    for (std::uint64_t sector = 0; sector < area_sectors; ++sector) {
        bool allowed = false;
        std::uint64_t number = issued;
        for (; number > 0 && !allowed; --number) {
            const request& what = requests_[number - 1];
            if (!covers(what, sector)) {
                continue;
            }
            const bool zeros =
                what.kind == request_kind::zero || what.kind == request_kind::discard;
            allowed = found[sector] == (zeros ? 0 : number);
            const bool must_be_there = number <= durable || (what.kind == request_kind::write_fua &&
                                                             what.answered_at <= cut);
            if (must_be_there) {
                break;
            }
        }
        if (!allowed && (number > 0 || found[sector] != 0)) {
            return fmt::format(
                "volume {}, sector {}: holds request {}; durable are all up to {}, issued {}",
                volume_, first_sector() + sector, found[sector], durable, issued);
        }
    }
    return {};
}

bool area::is_prefix(const stamps& found, std::uint64_t least, std::uint64_t most) const {
    stamps state(area_sectors, 0);
    for (std::uint64_t number = 0;; ++number) {
        if (number > 0) {
            apply(requests_[number - 1], number, state);
        }
        if (number >= least && state == found) {
            return true;
        }
        if (number >= most || number >= requests_.size()) {
            return false;
        }
    }
}

struct snapshot_life {
    std::size_t volume = 0;
    std::uint64_t begin = 0;
    std::uint64_t end = never;  // acknowledged
    std::uint64_t delete_begin = never;
    std::uint64_t delete_end = never;
    std::array<std::uint64_t, clients_per_volume> least{};  // requests answered before
    std::array<std::uint64_t, clients_per_volume> most{};   // issued when it returned
};

// ---- the machine

struct lies {
    bool metadata = false;
    bool data = false;
    bool catalogue = false;
};

class machine {
public:
    machine(const lies& with, const io::crash_state* state)
        : lying_(with),
          domain_(state != nullptr ? std::make_unique<io::crash_domain>(*state)
                                   : std::make_unique<io::crash_domain>()),
          vfs_(*domain_, with.catalogue) {}

    [[nodiscard]] io::crash_domain& domain() { return *domain_; }

    // Flushes take their time, so that others come in between.
    [[nodiscard]] result<std::unique_ptr<pool_directory>> open_pool(open_purpose purpose) {
        directory_parts parts;
        parts.directory = "/pool";
        parts.file.uuid = pool_uuid;
        parts.file.error_if_no_space = true;
        parts.devices.metadata = device("metadata", lying_.metadata, purpose);
        parts.devices.data = device("data", lying_.data, purpose);
        parts.names = UTHIN_TRY(catalogue::open(catalogue_path, pool_uuid,
                                                {.read_only = false, .vfs_name = vfs_.name()}));
        return pool_directory::assemble(std::move(parts),
                                        {.purpose = purpose,
                                         .catalogue_vfs = vfs_.name(),
                                         // A part that turns into zeros at a moment that nobody
                                         // is told of has no place in a history of requests.
                                         .pool = {.commit_interval = 20ms,
                                                  .metadata_cache_bytes = 1 << 20,
                                                  .mapping_cache_entries = 256,
                                                  .remember_partial_discards = false}},
                                        system_clock());
    }

    [[nodiscard]] result<void> make() {
        auto& metadata =
            domain_->add_device("metadata", metadata_blocks * metadata_block_size_bytes);
        auto& data = domain_->add_device("data", data_blocks * block_bytes);
        domain_->add_device("catalog.db", std::uint64_t{0});
        domain_->add_device("catalog.db-journal", std::uint64_t{0});
        auto formatted = UTHIN_TRY(pool::open(
            std::make_unique<borrowed_device>(metadata), std::make_unique<borrowed_device>(data),
            {.format = true, .data_block_size_sectors = block_sectors}, system_clock()));
        UTHIN_TRY(formatted->close());
        UTHIN_TRY(catalogue::create(catalogue_path, pool_uuid,
                                    {.read_only = false, .vfs_name = vfs_.name()}));
        const auto opened = UTHIN_TRY(open_pool(open_purpose::change));
        for (std::size_t i = 0; i < volume_count; ++i) {
            create_volume_request wanted;
            wanted.name = volume_name(i);
            wanted.size_bytes = volume_bytes;
            UTHIN_TRY(opened->create_volume(wanted));
        }
        UTHIN_TRY(opened->close());
        domain_->forget_history();
        return {};
    }

private:
    std::unique_ptr<block_device> device(const char* name, bool lying, open_purpose purpose) {
        if (purpose != open_purpose::serve) {
            return std::make_unique<borrowed_device>(*domain_->find(name), lying);
        }
        layers_.push_back(std::make_unique<borrowed_device>(*domain_->find(name), lying));
        auto slow = std::make_unique<io::delay_device>(*layers_.back(), system_clock());
        slow->set_delay(io::operation_kind::flush, 2ms);
        slow->set_delay(io::operation_kind::write, 200us);
        return slow;
    }

    const lies lying_;
    std::unique_ptr<io::crash_domain> domain_;
    test::crash_vfs vfs_;
    std::vector<std::unique_ptr<block_device>> layers_;
};

// ---- the run

class workload {
public:
    workload(std::uint64_t seed, const lies& with) : seed_(seed), machine_(with, nullptr) {
        for (std::size_t i = 0; i < volume_count * clients_per_volume; ++i) {
            areas_.push_back(
                std::make_unique<area>(i / clients_per_volume, i % clients_per_volume));
        }
    }

    // All threads have ended and the pool is closed.
    [[nodiscard]] std::string run();
    // What is wrong in the state that a cut at `operation` left.
    [[nodiscard]] std::string complaint(const io::crash_state& state, std::uint64_t operation,
                                        std::uint64_t& snapshots_judged) const;

    [[nodiscard]] machine& disks() { return machine_; }
    [[nodiscard]] std::size_t snapshot_count() const { return snapshots_.size(); }
    [[nodiscard]] std::uint64_t request_count() const {
        std::uint64_t count = 0;
        for (const auto& one : areas_) {
            count += one->issued();
        }
        return count;
    }

private:
    [[nodiscard]] std::uint64_t now() { return machine_.domain().sequence(); }
    [[nodiscard]] result<void> client(area& mine, std::shared_ptr<volume> volume,
                                      std::uint64_t seed);
    [[nodiscard]] result<void> send(area& mine, volume& volume, const request& what);
    [[nodiscard]] result<void> flush(volume& volume, std::size_t number);
    [[nodiscard]] result<void> administrator(pool_directory& pool);
    [[nodiscard]] result<void> take_snapshot(pool_directory& pool, std::size_t volume);
    [[nodiscard]] result<void> delete_snapshot(pool_directory& pool, std::size_t number);
    [[nodiscard]] std::string snapshot_complaint(pool_directory& pool, std::size_t number,
                                                 std::uint64_t operation, bool exists) const;

    const std::uint64_t seed_;
    machine machine_;
    std::vector<std::unique_ptr<area>> areas_;
    std::vector<snapshot_life> snapshots_;  // the administrator's until the end
    std::atomic<int> clients_running_ = 0;
};

std::string snapshot_name(std::size_t number) {
    return fmt::format("snapshot-{}", number);
}

// Each sector says whose it is, where, and of which request.
struct sector_mark {
    std::uint64_t place = 0;
    std::uint64_t number = 0;
};

std::vector<std::byte> content(const area& mine, const request& what, std::uint64_t number) {
    std::vector<std::byte> bytes((what.end_sector - what.begin_sector) * sector_size_bytes);
    for (std::uint64_t i = 0; i < bytes.size(); i += sizeof(sector_mark)) {
        const sector_mark mark{mine.volume() << 32U | (mine.first_sector() + what.begin_sector +
                                                       i / sector_size_bytes),
                               number};
        std::memcpy(bytes.data() + i, &mark, sizeof mark);
    }
    return bytes;
}

// Nothing when a sector holds what nobody wrote there.
std::optional<stamps> read_stamps(volume& from, const area& whose) {
    std::vector<std::byte> bytes(area_sectors * sector_size_bytes);
    if (!from.read(whose.first_sector() * sector_size_bytes, bytes)) {
        return std::nullopt;
    }
    stamps found(area_sectors);
    for (std::uint64_t sector = 0; sector < area_sectors; ++sector) {
        const std::byte* at = bytes.data() + sector * sector_size_bytes;
        sector_mark mark;
        std::memcpy(&mark, at, sizeof mark);
        const bool is_zero = mark.place == 0 && mark.number == 0;
        if (std::memcmp(at, at + sizeof mark, sector_size_bytes - sizeof mark) != 0 ||
            (!is_zero && mark.place != (whose.volume() << 32U | (whose.first_sector() + sector)))) {
            return std::nullopt;
        }
        found[sector] = mark.number;
    }
    return found;
}

result<void> workload::send(area& mine, volume& volume, const request& what) {
    const std::uint64_t begin = (mine.first_sector() + what.begin_sector) * sector_size_bytes;
    const std::uint64_t length = (what.end_sector - what.begin_sector) * sector_size_bytes;
    request issued = what;
    issued.issued_at = now();
    const std::uint64_t number = mine.issue(issued);
    result<void> done;
    switch (what.kind) {
        case request_kind::write:
        case request_kind::write_fua:
            done = volume.write(begin, content(mine, what, number),
                                what.kind == request_kind::write_fua);
            break;
        case request_kind::zero: done = volume.write_zeroes(begin, length, {}); break;
        case request_kind::discard: done = volume.discard(begin, length); break;
    }
    UTHIN_TRY(std::move(done));
    mine.answer(number, now());
    return {};
}

// VO4: whatever had completed on this volume, whoever sent it.
result<void> workload::flush(volume& volume, std::size_t number) {
    std::array<std::uint64_t, clients_per_volume> answered{};
    for (std::size_t part = 0; part < clients_per_volume; ++part) {
        answered[part] = areas_[number * clients_per_volume + part]->answered();
    }
    UTHIN_TRY(volume.flush());
    const std::uint64_t sequence = now();
    for (std::size_t part = 0; part < clients_per_volume; ++part) {
        areas_[number * clients_per_volume + part]->flushed(answered[part], sequence);
    }
    return {};
}

result<void> workload::client(area& mine, std::shared_ptr<volume> volume, std::uint64_t seed) {
    constexpr int requests = 45;
    random_generator random(seed);
    for (int i = 0; i < requests; ++i) {
        const std::uint64_t length =
            random.one_in(4) ? 1 + random.below(area_sectors) : 1 + random.below(24);
        request what;
        what.begin_sector = random.below(area_sectors - length + 1);
        what.end_sector = what.begin_sector + length;
        switch (random.below(10)) {
            case 0: what.kind = request_kind::discard; break;
            case 1: what.kind = request_kind::zero; break;
            case 2: what.kind = request_kind::write_fua; break;
            default: break;
        }
        if (what.kind == request_kind::discard) {
            what.begin_sector = 0;
            what.end_sector = area_sectors;
        }
        UTHIN_TRY(send(mine, *volume, what));
        if (random.one_in(5)) {
            UTHIN_TRY(flush(*volume, mine.volume()));
        }
    }
    return {};
}

result<void> workload::take_snapshot(pool_directory& pool, std::size_t volume) {
    snapshot_life life;
    life.volume = volume;
    for (std::size_t part = 0; part < clients_per_volume; ++part) {
        life.least[part] = areas_[volume * clients_per_volume + part]->answered();
    }
    life.begin = now();
    create_snapshots_request wanted;
    wanted.snapshots = {{volume_name(volume), snapshot_name(snapshots_.size())}};
    UTHIN_TRY(pool.create_snapshots(wanted));
    life.end = now();
    for (std::size_t part = 0; part < clients_per_volume; ++part) {
        life.most[part] = areas_[volume * clients_per_volume + part]->issued();
    }
    snapshots_.push_back(life);
    return {};
}

result<void> workload::delete_snapshot(pool_directory& pool, std::size_t number) {
    snapshots_[number].delete_begin = now();
    UTHIN_TRY(pool.remove({.name = snapshot_name(number), .if_exists = false}));
    snapshots_[number].delete_end = now();
    return {};
}

result<void> workload::administrator(pool_directory& pool) {
    constexpr std::size_t alive_max = 4;
    random_generator random(seed_ * 31);
    std::vector<std::size_t> alive;
    while (clients_running_.load() > 0) {
        alive.push_back(snapshots_.size());
        UTHIN_TRY(take_snapshot(pool, random.below(volume_count)));
        if (alive.size() > alive_max || random.one_in(3)) {
            const std::size_t which = random.below(alive.size());
            UTHIN_TRY(delete_snapshot(pool, alive[which]));
            alive.erase(alive.begin() + static_cast<std::ptrdiff_t>(which));
        }
        system_clock().sleep_for(std::chrono::milliseconds(random.below(8)));
    }
    return {};
}

std::string workload::run() {
    if (auto made = machine_.make(); !made) {
        return "setup: " + made.error().to_string();
    }
    auto opened = machine_.open_pool(open_purpose::serve);
    if (!opened) {
        return opened.error().to_string();
    }
    pool_directory& pool = **opened;
    if (auto started = pool.start(); !started) {
        return started.error().to_string();
    }
    std::vector<result<void>> outcomes(areas_.size() + 1);
    {
        std::vector<std::jthread> threads;
        clients_running_ = static_cast<int>(areas_.size());
        for (std::size_t i = 0; i < areas_.size(); ++i) {
            auto volume = pool.open_volume(volume_name(areas_[i]->volume()), false);
            if (!volume) {
                clients_running_ = 0;
                return volume.error().to_string();
            }
            threads.emplace_back([this, i, &outcomes, handle = std::move(*volume)]() mutable {
                outcomes[i] = client(*areas_[i], std::move(handle), seed_ * 100 + i);
                --clients_running_;
            });
        }
        threads.emplace_back([&] { outcomes.back() = administrator(pool); });
    }
    outcomes.push_back(pool.close());
    for (const result<void>& outcome : outcomes) {
        if (!outcome) {
            return outcome.error().to_string();
        }
    }
    return {};
}

std::string workload::snapshot_complaint(pool_directory& pool, std::size_t number,
                                         std::uint64_t operation, bool exists) const {
    const snapshot_life& life = snapshots_[number];
    const std::string name = snapshot_name(number);
    // TC3. An operation may be in flight at the cut, so `begin == operation` may have begun.
    if (exists && (life.begin > operation || life.delete_end <= operation)) {
        return name + " is there, but was " +
               (life.begin > operation ? "not taken yet" : "deleted");
    }
    if (!exists && life.end <= operation && life.delete_begin > operation) {
        return name + " was taken and is gone";
    }
    if (!exists) {
        return {};
    }
    const auto opened = pool.open_volume(name, true);
    if (!opened) {
        return opened.error().to_string();
    }
    for (std::size_t part = 0; part < clients_per_volume; ++part) {
        const area& whose = *areas_[life.volume * clients_per_volume + part];
        const auto found = read_stamps(**opened, whose);
        const std::uint64_t most = std::min(life.most[part], whose.issued_by(operation));
        if (!found || !whose.is_prefix(*found, life.least[part], most)) {
            return fmt::format("{} of volume {}, client {}: not the state after {} to {} requests",
                               name, life.volume, part, life.least[part], most);
        }
    }
    return {};
}

std::string workload::complaint(const io::crash_state& state, std::uint64_t operation,
                                std::uint64_t& snapshots_judged) const {
    machine after({}, &state);
    auto opened = after.open_pool(open_purpose::change);
    if (!opened) {
        return "does not open: " + opened.error().to_string();
    }
    pool_directory& pool = **opened;
    const auto listed = pool.list();
    if (!listed) {
        return listed.error().to_string();
    }
    std::set<std::string> names;
    for (const volume_info& one : *listed) {
        names.insert(one.name);
    }
    for (const auto& one : areas_) {
        const auto volume = pool.open_volume(volume_name(one->volume()), true);
        const auto found = volume ? read_stamps(**volume, *one) : std::nullopt;
        if (!found) {
            return volume_name(one->volume()) + ": cannot be read, or a sector nobody wrote";
        }
        if (std::string text = one->stamp_complaint(*found, operation); !text.empty()) {
            return text;
        }
        names.erase(volume_name(one->volume()));
    }
    for (std::size_t i = 0; i < snapshots_.size(); ++i) {
        const bool exists = names.erase(snapshot_name(i)) != 0;
        snapshots_judged += exists ? 1U : 0U;
        if (std::string text = snapshot_complaint(pool, i, operation, exists); !text.empty()) {
            return text;
        }
    }
    if (!names.empty()) {
        return "there is a volume that nobody made: " + *names.begin();
    }
    const auto view = thin_metadata::open_offline(*after.domain().find("metadata"), {});
    return view ? test::check_complaint(**view) : view.error().to_string();
}

// ---- cutting

struct totals {
    std::uint64_t workloads = 0;
    std::uint64_t requests = 0;
    std::uint64_t snapshots = 0;
    std::uint64_t operations = 0;
    std::uint64_t cuts = 0;
    std::uint64_t states = 0;
    std::uint64_t snapshots_judged = 0;
    std::uint64_t violations = 0;
    std::vector<std::string> told;
};

// Half of the cuts next to a flush, where promises begin.
std::set<std::size_t> cut_points(const io::crash_history& history, std::size_t wanted,
                                 random_generator& random) {
    std::vector<std::size_t> flushes;
    for (std::size_t i = 0; i < history.operations.size(); ++i) {
        if (history.operations[i].kind == io::operation_kind::flush || history.operations[i].fua) {
            flushes.push_back(i);
        }
    }
    std::set<std::size_t> points;
    const std::size_t all = history.operations.size() + 1;
    for (std::size_t i = 0; i < 4 * wanted && points.size() < std::min(wanted, all); ++i) {
        points.insert(i % 2 == 0 && !flushes.empty()
                          ? flushes[random.below(flushes.size())] + random.below(2)
                          : random.below(all));
    }
    return points;
}

void crash(std::uint64_t seed, const lies& with, std::size_t cuts, totals& sums) {
    constexpr std::size_t told_max = 10;
    workload load(seed, with);
    const auto violation = [&](std::string text) {
        ++sums.violations;
        if (sums.told.size() < told_max) {
            sums.told.push_back(fmt::format("seed {}: {}", seed, text));
        }
    };
    ++sums.workloads;
    if (std::string text = load.run(); !text.empty()) {
        violation(std::move(text));
        return;
    }
    sums.requests += load.request_count();
    sums.snapshots += load.snapshot_count();
    const io::crash_history history = load.disks().domain().history();
    sums.operations += history.operations.size();
    random_generator random(seed);
    io::power_cut cut(history);
    for (const std::size_t at : cut_points(history, cuts, random)) {
        cut.move_to(at);
        ++sums.cuts;
        for (const io::crash_choice& choice : cut.choices(
                 {.random_subsets = 16, .random_masks = 4, .choices_max = 3, .seed = seed + at})) {
            ++sums.states;
            if (std::string text =
                    load.complaint(cut.materialize(choice), at, sums.snapshots_judged);
                !text.empty()) {
                violation(fmt::format("cut at {}, {}: {}", at, to_string(choice), text));
            }
        }
    }
}

TEST(PoolThreadsCrash, ConcurrentClientsKeepWhatWasAcknowledged) {
    const auto begin = std::chrono::steady_clock::now();
    totals sums;
    const std::uint64_t workloads = 6 * test::tier_scale();
    for (std::uint64_t i = 0; i < workloads; ++i) {
        crash(test::seed() + i, {}, 150, sums);
    }
    const auto ull = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
    std::printf(
        "threaded workloads=%llu requests=%llu snapshots=%llu operations=%llu cuts=%llu "
        "states=%llu snapshots_judged=%llu seconds=%.1f violations=%llu\n",
        ull(sums.workloads), ull(sums.requests), ull(sums.snapshots), ull(sums.operations),
        ull(sums.cuts), ull(sums.states), ull(sums.snapshots_judged),
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
        ull(sums.violations));
    EXPECT_EQ(sums.violations, 0U) << ::testing::PrintToString(sums.told);
    EXPECT_GT(sums.snapshots_judged, sums.states);
}

// ---- the harness can see

TEST(PoolThreadsCrashHarness, SeesEachDeviceThatLiesAboutItsFlushes) {
    for (const lies& with : {lies{.metadata = true}, lies{.data = true}, lies{.catalogue = true}}) {
        totals sums;
        crash(test::seed(), with, 60, sums);
        EXPECT_GT(sums.violations, 0U)
            << with.metadata << with.data << with.catalogue << " of " << sums.states;
    }
}

}  // namespace
}  // namespace uthin
