// A real file system over the lying disk: the kernel's ext4 on a volume (through NBD, nbdfuse and a
// loop device) is written to while every operation on the pool's metadata and data is recorded. The
// power is cut at each flush of either device and at places between, each device losing what it had
// not flushed, each on its own.
//
// What must hold after a cut:
//   EC1  The pool opens without a tool, and its metadata are clean.
//   EC2  e2fsck replays the journal of the volume and finds nothing else to do than what a mount
//        does as well (totals of the superblock, files that were open and unlinked); after that it
//        finds nothing at all. The same for every snapshot that is there.
//   EC3  Every file whose fsync had returned is there, with its bytes.
//
// When the kernel writes what is up to the kernel: a failure names a history that another run need
// not make.
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/random.h"
#include "base/result.h"
#include "io/crash_device.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/nbd_export.h"
#include "support/pool_rig.h"
#include "support/pool_state.h"
#include "support/seed.h"
#include "support/temporary_directory.h"
#include "support/tier.h"
#include "uthin/pool.h"

namespace uthin {
namespace {

namespace fs = std::filesystem;
using test::borrowed_device;
using test::run_command;
using namespace std::chrono_literals;

constexpr std::uint64_t block_bytes = 64ULL << 10;
constexpr std::uint64_t volume_bytes = 24ULL << 20;
constexpr std::uint64_t metadata_bytes = 1ULL << 20;
constexpr std::uint64_t data_bytes = 128ULL << 20;

// ---- the file system

// Empty when a file system on a volume can be mounted here, else what is missing.
std::string missing_here() {
    for (const char* program :
         {"nbdfuse", "fusermount3", "losetup", "mke2fs", "e2fsck", "debugfs"}) {
        if (run_command(fmt::format("PATH=$PATH:/usr/sbin command -v {}", program)).status != 0) {
            return std::string(program) + " is not installed";
        }
    }
    if (::geteuid() != 0) {
        return "mounting needs root";
    }
    return fs::exists("/dev/fuse") && fs::exists("/dev/loop-control")
               ? ""
               : "no /dev/fuse or no loop devices here";
}

// The export as a mounted file system, until the object goes away.
class mounted_ext4 {
public:
    mounted_ext4(const test::nbd_export& from, const fs::path& folder)
        : fuse_(folder / "fuse"), root_(folder / "mnt") {
        fs::create_directories(fuse_);
        fs::create_directories(root_);
        // Popen's pipe must not be kept open by what goes on.
        run(fmt::format("nbdfuse -P {0}/pid {1}/disk '{2}' > {0}/nbdfuse.log 2>&1 < /dev/null & "
                        "for i in $(seq 100); do [ ! -s {0}/pid ] || break; sleep 0.05; done; "
                        "cat {0}/pid",
                        folder.string(), fuse_.string(), from.uri()),
            process_);
        run(fmt::format("losetup --show -f {}/disk", fuse_.string()), loop_);
    }
    ~mounted_ext4() { detach(); }
    mounted_ext4(const mounted_ext4&) = delete;
    mounted_ext4& operator=(const mounted_ext4&) = delete;

    void make() { run("mke2fs -q -t ext4 -b 4096 -J size=4 -E lazy_itable_init=0 " + loop_); }
    void mount() {
        run(fmt::format("mount -t ext4 -o commit=1,discard {} {}", loop_, root_.string()));
        mounted_ = problem_.empty();
    }
    void detach() {
        if (mounted_) {
            run("umount " + root_.string());
        }
        if (!loop_.empty()) {
            run("losetup -d " + loop_);
        }
        if (!process_.empty()) {
            run(fmt::format(
                "for i in $(seq 100); do fusermount3 -u {0} && break; sleep 0.05; done; "
                "for i in $(seq 100); do [ -e /proc/{1} ] || exit 0; sleep 0.05; done; "
                "kill -KILL {1}",
                fuse_.string(), process_));
        }
        mounted_ = false;
        loop_.clear();
        process_.clear();
    }

    [[nodiscard]] const fs::path& root() const { return root_; }
    // Of the first command that failed.
    [[nodiscard]] const std::string& problem() const { return problem_; }

private:
    void run(const std::string& command) {
        std::string ignored;
        run(command, ignored);
    }
    void run(const std::string& command, std::string& word) {
        const auto done = run_command("PATH=$PATH:/usr/sbin; " + command);
        if (done.status != 0 && problem_.empty()) {
            problem_ = fmt::format("{}: status {}: {}", command, done.status, done.text);
        }
        if (done.status == 0) {
            word = done.text.substr(0, done.text.find('\n'));
        }
    }

    const fs::path fuse_;
    const fs::path root_;
    std::string process_;
    std::string loop_;
    bool mounted_ = false;
    std::string problem_;
};

// ---- what is done to it

void sync_all(const fs::path& root) {
    const int folder = ::open(root.c_str(), O_RDONLY | O_DIRECTORY);
    EXPECT_EQ(::syncfs(folder), 0);
    ::close(folder);
}

// A file whose fsync returned when the domain's sequence was `sequence`.
struct synced_file {
    std::string name;
    std::string content;
    std::uint64_t sequence = 0;
};

std::string some_bytes(random_generator& random, std::size_t count) {
    std::string bytes(count, '\0');
    for (char& byte : bytes) {
        byte = static_cast<char>('a' + random.below(26));
    }
    return bytes;
}

// Files and directories that come, change, and go; some of them are made durable.
class file_load {
public:
    file_load(fs::path root, std::uint64_t seed, std::function<std::uint64_t()> sequence)
        : root_(std::move(root)), random_(seed), sequence_(std::move(sequence)) {
        fs::create_directories(root_ / "synced");
    }
    ~file_load() { close_all(); }
    file_load(const file_load&) = delete;
    file_load& operator=(const file_load&) = delete;

    void step() {
        switch (random_.below(10)) {
            case 0:
            case 1: write(std::ios::trunc); break;
            case 2: write(std::ios::app); break;
            case 3: write(std::ios::in); break;
            case 4:
                ignore_failure([&](auto& code) { fs::rename(some_file(), some_file(), code); });
                break;
            case 5:
                ignore_failure([&](auto& code) { fs::remove_all(some_directory(), code); });
                break;
            case 6: hold_unlinked(); break;
            case 7:
                ignore_failure([&](auto& code) {
                    fs::resize_file(some_file(), random_.below(200'000), code);
                });
                break;
            case 8:
                ignore_failure(
                    [&](auto& code) { fs::create_hard_link(some_file(), some_file(), code); });
                break;
            default: make_durable(); break;
        }
    }
    void make_durable() {
        synced_file made{.name = fmt::format("file-{}", synced_.size()),
                         .content = some_bytes(random_, 1 + random_.below(30'000))};
        const int file = ::open((root_ / "synced" / made.name).c_str(), O_WRONLY | O_CREAT, 0644);
        const bool whole = ::write(file, made.content.data(), made.content.size()) ==
                           static_cast<ssize_t>(made.content.size());
        const bool durable = ::fsync(file) == 0;
        ::close(file);
        EXPECT_TRUE(whole && durable) << made.name;
        made.sequence = sequence_();
        synced_.push_back(std::move(made));
    }
    void close_all() {
        for (const int file : held_) {
            ::close(file);
        }
        held_.clear();
    }
    [[nodiscard]] std::vector<synced_file> synced() const { return synced_; }

private:
    // Failures are part of it: a name that is not there, a directory in the way.
    template <class Act>
    static void ignore_failure(Act act) {
        std::error_code ignored;
        act(ignored);
    }
    fs::path some_directory() { return root_ / fmt::format("directory-{}", random_.below(4)); }
    fs::path some_file() { return some_directory() / fmt::format("file-{}", random_.below(8)); }
    void write(std::ios::openmode mode) {
        const fs::path file = some_file();
        ignore_failure([&](auto& code) { fs::create_directories(file.parent_path(), code); });
        std::fstream stream(file, std::ios::out | std::ios::binary | mode);
        stream.seekp(static_cast<std::streamoff>(random_.below(50'000)));
        stream << some_bytes(random_, 1 + random_.below(200'000));
    }
    // Its blocks are freed when it is closed, or after a power cut.
    void hold_unlinked() {
        const fs::path file = root_ / "held";
        const int opened = ::open(file.c_str(), O_RDWR | O_CREAT, 0600);
        const std::string bytes = some_bytes(random_, 100'000);
        EXPECT_EQ(::write(opened, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
        ::unlink(file.c_str());
        held_.push_back(opened);
        if (held_.size() > 3) {
            close_all();
        }
    }

    const fs::path root_;
    random_generator random_;
    const std::function<std::uint64_t()> sequence_;
    std::vector<synced_file> synced_;
    std::vector<int> held_;
};

// ---- the machine

struct lies {
    bool metadata = false;
    bool data = false;
};

// Of the device whose id is one more than its place. Sequences of the domain.
struct snapshot_life {
    std::uint64_t created = 0;
    std::uint64_t deleting = UINT64_MAX;
};

struct recording {
    io::crash_history history;
    std::vector<synced_file> synced;
    std::vector<snapshot_life> snapshots;
    std::uint64_t client_flushes = 0;
    std::string problem;
};

result<std::unique_ptr<pool>> make_pool(io::crash_domain& domain, const lies& with) {
    auto& metadata = domain.add_device("metadata", metadata_bytes);
    auto& data = domain.add_device("data", data_bytes);
    auto made = UTHIN_TRY(pool::open(std::make_unique<borrowed_device>(metadata, with.metadata),
                                     std::make_unique<borrowed_device>(data, with.data),
                                     {.commit_interval = 100ms,
                                      .format = true,
                                      .data_block_size_sectors = block_bytes / sector_size_bytes},
                                     system_clock()));
    UTHIN_TRY(made->start());
    UTHIN_TRY(made->create_thin(device_id(0)));
    return made;
}

// Snapshots are of the volume as it lies there, mounted and busy; each second one goes again.
void change_snapshots(pool& of, io::crash_domain& domain, std::vector<snapshot_life>& lives) {
    const std::size_t number = lives.size() + 1;
    const snapshot_request wanted{.origin = device_id(0), .id = device_id(number)};
    EXPECT_OK(of.create_snapshots(std::span(&wanted, 1)));
    lives.push_back({.created = domain.sequence()});
    if (number % 2 == 0) {
        lives[number - 2].deleting = domain.sequence();
        EXPECT_OK(of.delete_thin(device_id(number - 1)));
    }
}

recording record(std::uint64_t seed, std::size_t steps, const lies& with) {
    recording made;
    io::crash_domain domain;
    auto opened = make_pool(domain, with);
    if (!opened) {
        made.problem = opened.error().to_string();
        return made;
    }
    pool& running = **opened;
    const test::temporary_directory folder;
    {
        const test::nbd_export served(running.open_volume(device_id(0), volume_bytes).value(),
                                      folder.path() / "nbd.sock");
        mounted_ext4 mounted(served, folder.path());
        mounted.make();
        mounted.mount();
        made.problem = mounted.problem();
        if (!made.problem.empty()) {
            return made;
        }
        sync_all(mounted.root());
        domain.forget_history();
        {
            file_load load(mounted.root(), seed, [&] { return domain.sequence(); });
            for (std::size_t i = 0; i < steps; ++i) {
                load.step();
                if (i % (steps / 4) == steps / 8) {
                    change_snapshots(running, domain, made.snapshots);
                }
            }
            load.make_durable();
            made.synced = load.synced();
        }
        mounted.detach();
        made.problem = mounted.problem();
        made.client_flushes = served.flushes();
    }
    EXPECT_OK(running.close());
    made.history = domain.history();
    return made;
}

// ---- judging

struct totals {
    std::uint64_t operations = 0;
    std::uint64_t flush_points = 0;
    std::uint64_t cuts = 0;
    std::uint64_t states = 0;
    std::uint64_t file_systems = 0;  // checked; the others were the same bytes as one before
    std::uint64_t snapshots = 0;     // seen
    std::uint64_t synced_files = 0;  // found again
    std::uint64_t violations = 0;
    std::vector<std::string> told;
};

class judge {
public:
    judge(const recording& run, totals& sums)
        : run_(run), sums_(sums), folder_(test::temporary_directory::in_memory()) {}

    [[nodiscard]] std::string complaint(const io::crash_state& state, std::uint64_t operation);

private:
    [[nodiscard]] std::string volume_complaint(pool& of, device_id id, std::uint64_t operation);
    [[nodiscard]] std::string fsck_complaint() const;
    [[nodiscard]] std::string synced_complaint(std::size_t count) const;
    void write_image(std::span<const std::byte> bytes) const;
    [[nodiscard]] fs::path image() const { return folder_.path() / "image"; }

    const recording& run_;
    totals& sums_;
    const test::temporary_directory folder_;
    // Contents that were good, and how many synced files they were asked for.
    std::map<std::size_t, std::size_t> good_;
};

void judge::write_image(std::span<const std::byte> bytes) const {
    const int file = ::open(image().c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    EXPECT_EQ(::ftruncate(file, static_cast<off_t>(bytes.size())), 0);
    for (std::size_t at = 0; at < bytes.size(); at += block_bytes) {
        const auto piece = bytes.subspan(at, std::min(block_bytes, bytes.size() - at));
        if (!test::all_zero(piece)) {
            EXPECT_EQ(::pwrite(file, piece.data(), piece.size(), static_cast<off_t>(at)),
                      static_cast<ssize_t>(piece.size()));
        }
    }
    ::close(file);
}

// The lines in which e2fsck says that it changed something, but for what a mount does as well.
std::string repairs_in(const std::string& text) {
    std::istringstream lines(text);
    std::string line;
    std::string last;
    std::string found;
    while (std::getline(lines, line)) {
        const bool totals_of_superblock = last.starts_with("Free blocks count wrong (") ||
                                          last.starts_with("Free inodes count wrong (");
        if ((line.find("? yes") != std::string::npos || line.find("FIXED") != std::string::npos) &&
            !totals_of_superblock) {
            found += last + " " + line + "\n";
        }
        last = line;
    }
    return found;
}

std::string judge::fsck_complaint() const {
    const std::string command = "PATH=$PATH:/usr/sbin; e2fsck ";
    const auto first = run_command(command + "-fy " + image().string());
    if (first.status != 0 && first.status != 1) {
        return fmt::format("e2fsck -fy: status {}: {}", first.status, first.text);
    }
    if (const std::string repairs = repairs_in(first.text); !repairs.empty()) {
        return "e2fsck repaired: " + repairs;
    }
    const auto second = run_command(command + "-fn " + image().string());
    return second.status == 0 ? "" : "e2fsck -fn: " + second.text;
}

std::string judge::synced_complaint(std::size_t count) const {
    const fs::path found = folder_.path() / "found";
    fs::remove_all(found);
    fs::create_directories(found);
    const auto dumped =
        run_command(fmt::format("PATH=$PATH:/usr/sbin; debugfs -R 'rdump /synced {}' {}",
                                found.string(), image().string()));
    for (std::size_t i = 0; i < count; ++i) {
        std::ifstream file(found / "synced" / run_.synced[i].name, std::ios::binary);
        const std::string content(std::istreambuf_iterator<char>(file), {});
        if (content != run_.synced[i].content) {
            return fmt::format("{} was synced at {}: {} bytes instead of {}; {}",
                               run_.synced[i].name, run_.synced[i].sequence, content.size(),
                               run_.synced[i].content.size(), dumped.text);
        }
    }
    return {};
}

std::string judge::volume_complaint(pool& of, device_id id, std::uint64_t operation) {
    const auto volume = of.open_volume(id, volume_bytes, true);
    if (!volume) {
        return volume.error().to_string();
    }
    std::vector<std::byte> bytes(volume_bytes);
    if (auto read = (*volume)->read(0, bytes); !read) {
        return read.error().to_string();
    }
    sums_.snapshots += id == device_id(0) ? 0U : 1U;
    std::size_t synced = 0;
    while (id == device_id(0) && synced < run_.synced.size() &&
           run_.synced[synced].sequence <= operation) {
        ++synced;
    }
    const std::size_t digest =
        std::hash<std::string_view>()({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    if (const auto known = good_.find(digest); known != good_.end() && known->second >= synced) {
        return {};
    }
    write_image(bytes);
    ++sums_.file_systems;
    sums_.synced_files += synced;
    std::string text = fsck_complaint();
    if (text.empty()) {
        text = synced_complaint(synced);
    }
    if (text.empty()) {
        good_[digest] = synced;
    }
    return text;
}

std::string judge::complaint(const io::crash_state& state, std::uint64_t operation) {
    {
        const auto metadata = state.open("metadata");
        const auto view = thin_metadata::open_offline(*metadata, {});
        if (std::string text = view ? test::check_complaint(**view) : view.error().to_string();
            !text.empty()) {
            return "metadata: " + text;
        }
    }
    auto opened = pool::open(state.open("metadata"), state.open("data"), {}, system_clock());
    if (!opened) {
        return "does not open: " + opened.error().to_string();
    }
    const auto devices = (*opened)->list_devices();
    if (!devices) {
        return devices.error().to_string();
    }
    std::set<std::uint64_t> there;
    for (const thin_device_info& device : *devices) {
        there.insert(device.id.value());
        if (std::string text = volume_complaint(**opened, device.id, operation); !text.empty()) {
            return fmt::format("device {}: {}", device.id.value(), text);
        }
    }
    if (!there.contains(0)) {
        return "the volume is gone";
    }
    for (std::size_t i = 0; i < run_.snapshots.size(); ++i) {
        const snapshot_life& life = run_.snapshots[i];
        if (life.created <= operation && operation < life.deleting && !there.contains(i + 1)) {
            return fmt::format("snapshot {} is gone", i + 1);
        }
    }
    return {};
}

struct judging_options {
    std::size_t flushes_max = SIZE_MAX;  // more are sampled
    std::size_t between = 0;
    std::size_t choices_max = 4;
    bool until_first_violation = false;
};

// Before each flush, when it may be in flight, after it, and between.
std::set<std::size_t> cut_points(const io::crash_history& history, const judging_options& with,
                                 random_generator& random, totals& sums) {
    std::vector<std::size_t> flushes;
    for (std::size_t i = 0; i < history.operations.size(); ++i) {
        if (history.operations[i].kind == io::operation_kind::flush || history.operations[i].fua) {
            flushes.push_back(i);
        }
    }
    while (flushes.size() > with.flushes_max) {
        flushes.erase(flushes.begin() + static_cast<std::ptrdiff_t>(random.below(flushes.size())));
    }
    sums.flush_points += flushes.size();
    std::set<std::size_t> points;
    for (const std::size_t flush : flushes) {
        points.insert({flush, flush + 1});
    }
    for (std::size_t i = 0; i < with.between; ++i) {
        points.insert(random.below(history.operations.size() + 1));
    }
    return points;
}

void crash(const recording& run, std::uint64_t seed, const judging_options& with, totals& sums) {
    constexpr std::size_t told_max = 5;
    sums.operations += run.history.operations.size();
    random_generator random(seed);
    judge judging(run, sums);
    io::power_cut cut(run.history);
    // Below, ext4 has nothing to offer: its superblock of 1 KiB lies in two sectors, and without
    // backups (there is one block group) one half of it is none.
    cut.set_atomic_unit(4096);
    for (const std::size_t at : cut_points(run.history, with, random, sums)) {
        if (with.until_first_violation && sums.violations > 0) {
            return;
        }
        cut.move_to(at);
        ++sums.cuts;
        for (const io::crash_choice& choice : cut.choices({.random_subsets = 16,
                                              .random_masks = 4,
                                              .choices_max = with.choices_max,
                                              .seed = seed + at})) {
            ++sums.states;
            if (std::string text = judging.complaint(cut.materialize(choice), at); !text.empty()) {
                ++sums.violations;
                if (sums.told.size() < told_max) {
                    sums.told.push_back(fmt::format("seed {}, cut at {}, {}: {}", seed, at,
                                                    to_string(choice), text));
                }
            }
        }
    }
}

TEST(Ext4Crash, TheFileSystemOfAVolumeIsCleanAfterACutAtEveryFlush) {
    if (const std::string missing = missing_here(); !missing.empty()) {
        GTEST_SKIP() << missing;
    }
    const auto begin = std::chrono::steady_clock::now();
    const bool long_run = test::tier() > 0;
    const recording run = record(test::seed(), long_run ? 300 : 40, {});
    ASSERT_EQ(run.problem, "");
    totals sums;
    crash(run, test::seed(),
          long_run ? judging_options{.between = 100}
                   : judging_options{.flushes_max = 12, .between = 6, .choices_max = 3},
          sums);
    const auto ull = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
    std::printf(
        "ext4 operations=%llu client_flushes=%llu flush_points=%llu cuts=%llu states=%llu "
        "file_systems=%llu snapshots=%llu synced_files=%llu seconds=%.1f violations=%llu\n",
        ull(sums.operations), ull(run.client_flushes), ull(sums.flush_points), ull(sums.cuts),
        ull(sums.states), ull(sums.file_systems), ull(sums.snapshots), ull(sums.synced_files),
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
        ull(sums.violations));
    EXPECT_EQ(sums.violations, 0U) << ::testing::PrintToString(sums.told);
    EXPECT_GE(sums.flush_points, long_run ? 100U : 12U);
    EXPECT_GT(sums.synced_files, 0U);
    EXPECT_GT(sums.snapshots, 0U);
}

// ---- the harness can see

TEST(Ext4CrashHarness, SeesEachDeviceThatLiesAboutItsFlushes) {
    if (const std::string missing = missing_here(); !missing.empty()) {
        GTEST_SKIP() << missing;
    }
    for (const lies& with : {lies{.metadata = true}, lies{.data = true}}) {
        const recording run = record(test::seed(), 24, with);
        ASSERT_EQ(run.problem, "");
        totals sums;
        crash(run, test::seed(), {.between = 6, .choices_max = 3, .until_first_violation = true},
              sums);
        EXPECT_GT(sums.violations, 0U) << with.metadata << with.data << " of " << sums.states;
    }
}

}  // namespace
}  // namespace uthin
