// Every pool of the corpus, made by real kernels: it opens, it is listed and it reads as it was
// recorded; neither opening nor reading writes; and after a write and a snapshot it is still valid.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/clock.h"
#include "io/fault_device.h"
#include "io/file_device.h"
#include "pool/pool_directory.h"
#include "support/corpus.h"
#include "support/image_check.h"
#include "support/matchers.h"
#include "support/paths.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/dumper.h"
#include "uthin/metadata.h"
#include "uthin/pool.h"

namespace uthin::test {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t snapshot_id = 900001;
constexpr std::uint64_t new_thin_id = 900000;
constexpr std::uint64_t our_stamp = 0xabcdef0123456789;
constexpr const char* leaky_pool = "crash-6-128k";
// No metadata block is free beside the reserve.
constexpr const char* full_metadata_pool = "out-of-metadata";
constexpr std::uint64_t read_step_bytes = 1 << 20;

// What the whole run looked at; printed at its end.
struct totals {
    std::uint64_t pools = 0;
    std::uint64_t thins = 0;
    std::uint64_t sectors_compared = 0;
    std::uint64_t sectors_of_origins = 0;  // unmapped, so the external origin's content
    std::uint64_t sectors_mixed = 0;       // the recording says only that they are not uniform
    std::uint64_t mappings_compared = 0;
    std::uint64_t refused = 0;

    void print(const char* what) const {
        std::printf(
            "corpus, %s: %llu pools, %llu thins, %llu sectors compared, %llu of external "
            "origins skipped, %llu recorded as mixed, %llu mappings as dumped, %llu pools "
            "refused to be written\n",
            what, cast(pools), cast(thins), cast(sectors_compared), cast(sectors_of_origins),
            cast(sectors_mixed), cast(mappings_compared), cast(refused));
    }

private:
    static unsigned long long cast(std::uint64_t value) { return value; }
};

std::string sha256_of(const fs::path& file) {
    return run_command("sha256sum < " + shell_quoted(file.string())).text.substr(0, 64);
}

// ---- what thin_dump and thin_ls 0.9 said

struct dumped_mapping {
    std::uint64_t data_block = 0;
    std::uint64_t time = 0;
    bool operator==(const dumped_mapping&) const = default;
};

struct dumped_device {
    device_details details;
    std::map<std::uint64_t, dumped_mapping> mappings;
};

struct dumped_pool {
    std::uint64_t transaction_id = 0;
    std::uint64_t time = 0;
    std::map<std::uint64_t, dumped_device> devices;
};

std::uint64_t attribute(const std::string& line, const std::string& name) {
    const std::size_t at = line.find(" " + name + "=\"");
    EXPECT_NE(at, std::string::npos) << name << " is not in " << line;
    return at == std::string::npos
               ? 0
               : std::strtoull(line.c_str() + at + name.size() + 3, nullptr, 10);
}

dumped_pool parse_dump(const std::string& xml) {
    dumped_pool pool;
    dumped_device* device = nullptr;
    std::istringstream lines(xml);
    for (std::string line; std::getline(lines, line);) {
        if (line.find("<superblock") != std::string::npos) {
            pool.transaction_id = attribute(line, "transaction");
            pool.time = attribute(line, "time");
        } else if (line.find("<device") != std::string::npos) {
            device = &pool.devices[attribute(line, "dev_id")];
            device->details = {
                .mapped_blocks = attribute(line, "mapped_blocks"),
                .transaction_id = attribute(line, "transaction"),
                .creation_time = static_cast<std::uint32_t>(attribute(line, "creation_time")),
                .snapshotted_time = static_cast<std::uint32_t>(attribute(line, "snap_time"))};
        } else if (line.find("<single_mapping") != std::string::npos && device != nullptr) {
            device->mappings[attribute(line, "origin_block")] = {attribute(line, "data_block"),
                                                                 attribute(line, "time")};
        } else if (line.find("<range_mapping") != std::string::npos && device != nullptr) {
            for (std::uint64_t i = 0; i < attribute(line, "length"); ++i) {
                device->mappings[attribute(line, "origin_begin") + i] = {
                    attribute(line, "data_begin") + i, attribute(line, "time")};
            }
        }
    }
    return pool;
}

std::map<std::uint64_t, device_details> parse_list(const std::string& text) {
    std::map<std::uint64_t, device_details> devices;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::uint64_t id = 0;
        std::string skipped;
        device_details details;
        if (words >> id >> details.mapped_blocks >> skipped >> skipped >> skipped >> skipped >>
            skipped >> details.transaction_id >> details.creation_time >>
            details.snapshotted_time) {
            devices[id] = details;
        }
    }
    return devices;
}

// The same from our dumper.
class collecting_sink final : public thin_metadata::mapping_sink {
public:
    dumped_pool found;

    [[nodiscard]] result<void> begin_pool(const thin_metadata::pool_header& header) override {
        found.transaction_id = header.transaction_id;
        found.time = header.time;
        return {};
    }
    [[nodiscard]] result<void> begin_shared(std::string_view /*name*/) override {
        return fail(error_code::unsupported, "no shared pieces were asked for");
    }
    [[nodiscard]] result<void> end_shared() override { return {}; }
    [[nodiscard]] result<void> begin_device(const thin_device_info& device) override {
        device_ = &found.devices[device.id.value()];
        device_->details = device.details;
        return {};
    }
    [[nodiscard]] result<void> run(const mapping_run& run) override {
        for (std::uint64_t i = 0; i < run.count; ++i) {
            device_->mappings[run.begin.value() + i] = {run.data_begin.value() + i, run.time};
        }
        return {};
    }
    [[nodiscard]] result<void> reference(std::string_view /*name*/) override {
        return fail(error_code::unsupported, "no shared pieces were asked for");
    }
    [[nodiscard]] result<void> end_device() override { return {}; }
    [[nodiscard]] result<void> end_pool() override { return {}; }

private:
    dumped_device* device_ = nullptr;
};

void expect_same(const dumped_pool& found, const dumped_pool& recorded, totals& seen) {
    EXPECT_EQ(found.transaction_id, recorded.transaction_id);
    EXPECT_EQ(found.time, recorded.time);
    EXPECT_EQ(found.devices.size(), recorded.devices.size());
    for (const auto& [id, device] : recorded.devices) {
        const auto at = found.devices.find(id);
        ASSERT_NE(at, found.devices.end()) << "device " << id;
        EXPECT_EQ(at->second.details, device.details) << "device " << id;
        EXPECT_TRUE(at->second.mappings == device.mappings) << "mappings of device " << id;
        seen.mappings_compared += device.mappings.size();
    }
}

// ---- what every sector must read as

// Sectors that a test wrote.
struct overwritten {
    std::uint64_t begin_sector = 0;
    std::uint64_t count = 0;
    std::uint64_t stamp = 0;
};

void fill(std::span<std::byte> bytes, std::uint64_t word) {
    for (std::size_t at = 0; at + sizeof word <= bytes.size(); at += sizeof word) {
        std::memcpy(bytes.data() + at, &word, sizeof word);
    }
}

using read_function = std::function<result<void>(std::uint64_t, std::span<std::byte>)>;
using unmapped_blocks = std::vector<bool>;  // by virtual block

struct expectation {
    const thin_map* map = nullptr;
    std::vector<overwritten> later;
    unmapped_blocks from_origin;  // empty without an external origin
    std::uint64_t block_sectors = 0;
};

// The word that fills `sector`; nothing when it is not known. Runs are passed once, in order.
std::optional<std::uint64_t> expected_word(const expectation& expected, std::uint64_t sector,
                                           std::size_t& run_index, totals& seen) {
    const std::vector<sector_run>& runs = expected.map->runs;
    while (runs[run_index].begin_sector + runs[run_index].length_sectors <= sector) {
        ++run_index;
    }
    const sector_run& run = runs[run_index];
    for (const overwritten& piece : expected.later) {
        if (sector - piece.begin_sector < piece.count) {
            ++seen.sectors_compared;
            return piece.stamp;
        }
    }
    if (run.tag == sector_run::tag_mixed) {
        ++seen.sectors_mixed;
        return std::nullopt;
    }
    const std::uint64_t block = sector / expected.block_sectors;
    if (run.tag != 0 && block < expected.from_origin.size() && expected.from_origin[block]) {
        ++seen.sectors_of_origins;
        return std::nullopt;
    }
    ++seen.sectors_compared;
    return run.tag == 0
               ? 0
               : (run.tag << 40U) | (sector + static_cast<std::uint64_t>(run.delta_sectors));
}

// `size_bytes` of the thin, from its begin.
void expect_reads(const expectation& expected, std::uint64_t size_bytes, const read_function& read,
                  totals& seen) {
    std::vector<std::byte> buffer(read_step_bytes);
    std::array<std::byte, sector_size_bytes> wanted{};
    std::size_t run_index = 0;
    for (std::uint64_t at = 0; at < size_bytes; at += buffer.size()) {
        const std::span<std::byte> piece =
            std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), size_bytes - at));
        ASSERT_OK(read(at, piece));
        for (std::size_t i = 0; i < piece.size(); i += sector_size_bytes) {
            const std::uint64_t sector = (at + i) / sector_size_bytes;
            if (const auto word = expected_word(expected, sector, run_index, seen)) {
                fill(wanted, *word);
                ASSERT_EQ(std::memcmp(wanted.data(), piece.data() + i, wanted.size()), 0)
                    << "thin " << expected.map->device_id << " sector " << sector;
            }
        }
    }
}

// ---- the tests

std::unique_ptr<io::file_device> open_file(const fs::path& path, bool read_only) {
    auto device = io::file_device::open(
        path, {.read_only = read_only,
               .lock = read_only ? io::lock_mode::shared : io::lock_mode::exclusive});
    EXPECT_THAT(device, IsOk());
    return device ? std::move(*device) : nullptr;
}

// Owns the device under a fault_device, for parties that take a unique_ptr.
class counted_device final : public block_device {
public:
    counted_device(std::unique_ptr<block_device> below, io::fault_plan& plan)
        : below_(std::move(below)), counting_(*below_, plan) {}

    [[nodiscard]] std::string name() const override { return counting_.name(); }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override {
        return counting_.size_bytes();
    }
    [[nodiscard]] device_capabilities capabilities() const override {
        return counting_.capabilities();
    }
    [[nodiscard]] result<void> read(std::uint64_t at, std::span<std::byte> buffer) override {
        return counting_.read(at, buffer);
    }
    [[nodiscard]] result<void> write(std::uint64_t at, std::span<const std::byte> buffer) override {
        return counting_.write(at, buffer);
    }
    [[nodiscard]] result<void> flush() override { return counting_.flush(); }
    [[nodiscard]] result<void> discard(std::uint64_t at, std::uint64_t length) override {
        return counting_.discard(at, length);
    }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t at, std::uint64_t length) override {
        return counting_.write_zeroes(at, length);
    }
    [[nodiscard]] result<void> run(std::span<const io_op> ops) override {
        return counting_.run(ops);
    }
    [[nodiscard]] result<void> grow(std::uint64_t size) override { return counting_.grow(size); }

private:
    std::unique_ptr<block_device> below_;
    io::fault_device counting_;
};

class corpus : public ::testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        auto scenario = load_corpus(GetParam());
        ASSERT_THAT(scenario, IsOk());
        scenario_ = std::move(*scenario);
        auto images = unpack_pool(scenario_);
        ASSERT_THAT(images, IsOk());
        images_ = std::move(*images);
        block_bytes_ = std::uint64_t{scenario_.block_size_sectors} * sector_size_bytes;
        auto& seen = totals_now();
        ++seen.pools;
    }
    static void TearDownTestSuite() {
        for (const auto& [what, seen] : totals_) {
            seen.print(what.c_str());
        }
        expect_images_are_clean(changed_images_);
        std::printf("corpus: %zu changed images shown to both judges\n", changed_images_.size());
        totals_.clear();
        changed_images_.clear();
        changed_folders_.clear();
    }
    static totals& totals_now() {
        std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
        return totals_[name.substr(0, name.find('/'))];
    }

    void expect_nothing_written() {
        using enum io::operation_kind;
        EXPECT_EQ(plan_.count({write, discard, write_zeroes, resize}), 0U);
        EXPECT_EQ(sha256_of(images_.metadata), scenario_.sha256.at("metadata.img"));
        EXPECT_EQ(sha256_of(images_.data), scenario_.sha256.at("data.img"));
    }

    // Judged at the end of the suite; the leaky one at once.
    void judge_later() {
        if (GetParam() != leaky_pool) {
            changed_images_.push_back(images_.metadata);
            changed_folders_.push_back(std::move(images_.directory));
            return;
        }
        const command_output oracle = run_command(
            "python3 -B " + shell_quoted(test::source_dir() + "/tests/oracle/decode.py") + " " +
            shell_quoted(images_.metadata.string()));
        EXPECT_EQ(oracle.status, 1) << oracle.text;
        EXPECT_NE(oracle.text.find("errors: 1  warnings: 0"), std::string::npos) << oracle.text;
        const std::string check = shell_quoted((thin_tools_directory() / "thin_check").string());
        const command_output lenient = run_command(check + " --ignore-non-fatal-errors " +
                                                   shell_quoted(images_.metadata.string()));
        EXPECT_EQ(lenient.status, 0) << lenient.text;
    }

    void expect_our_checker_agrees(bool leaky) {
        const auto device = open_file(images_.metadata, true);
        ASSERT_NE(device, nullptr);
        ASSERT_OK_AND_ASSIGN(const auto view, thin_metadata::open_offline(*device, {}));
        ASSERT_OK_AND_ASSIGN(const auto report, thin_metadata::check_metadata(*view, {}));
        for (const auto& finding : report.findings) {
            EXPECT_TRUE(leaky || finding.severity == thin_metadata::check_severity::cosmetic)
                << finding.text;
        }
        EXPECT_EQ(report.fatal, 0U);
        EXPECT_EQ(report.leaked_data_blocks, leaky ? 1U : 0U);
        EXPECT_EQ(report.leaked_metadata_blocks, 0U);
    }

    void expect_full_metadata(pool& opened, const std::vector<expectation>& thins);
    result<std::unique_ptr<pool>> open_pool(bool read_only) {
        pool_options options;
        options.read_only = read_only;
        options.error_if_no_space = true;
        return pool::open(
            std::make_unique<counted_device>(open_file(images_.metadata, read_only), plan_),
            std::make_unique<counted_device>(open_file(images_.data, read_only), plan_), options,
            system_clock());
    }

    // The unmapped blocks of a thin with an external origin.
    unmapped_blocks origin_blocks(metadata& pool, const thin_map& map) const {
        unmapped_blocks unmapped;
        if (!scenario_.has_external_origin) {
            return unmapped;
        }
        auto device = pool.open_device(device_id(map.device_id));
        EXPECT_THAT(device, IsOk());
        const std::uint64_t blocks =
            (map.size_sectors() + scenario_.block_size_sectors - 1) / scenario_.block_size_sectors;
        for (std::uint64_t i = 0; device && i < blocks; ++i) {
            auto found = pool.find_block(**device, virtual_block(i));
            unmapped.push_back(found && !found->has_value());
        }
        if (device) {
            pool.close_device(*device);
        }
        return unmapped;
    }
    // With the external origin that the scenario has, if any.
    result<std::shared_ptr<volume>> open_thin(pool& from, std::uint64_t id,
                                              std::uint64_t size_bytes, bool read_only = false) {
        std::unique_ptr<block_device> origin;
        if (scenario_.has_external_origin) {
            origin = open_file(images_.external_origin, true);
        }
        return from.open_volume(device_id(id), size_bytes, read_only, std::move(origin));
    }
    // As read through the metadata alone: what comes from the external origin is set apart.
    std::vector<expectation> expectations() {
        const auto device = open_file(images_.metadata, true);
        auto pool = metadata::open(*device, {.read_only = true});
        EXPECT_THAT(pool, IsOk());
        return expectations(pool ? pool->get() : nullptr);
    }
    // Null: as read through volumes that have the external origin.
    std::vector<expectation> expectations(metadata* pool) {
        std::vector<expectation> all;
        for (const thin_map& map : scenario_.thins) {
            all.push_back({&map,
                           {},
                           pool == nullptr ? unmapped_blocks() : origin_blocks(*pool, map),
                           scenario_.block_size_sectors});
        }
        return all;
    }

    corpus_scenario scenario_;
    unpacked_pool images_;
    std::uint64_t block_bytes_ = 0;
    io::fault_plan plan_;

private:
    static inline std::map<std::string, totals> totals_;
    static inline std::vector<fs::path> changed_images_;
    static inline std::vector<temporary_directory> changed_folders_;
};

std::vector<thin_device_info> listed(const dumped_pool& recorded) {
    std::vector<thin_device_info> devices;
    for (const auto& [id, device] : recorded.devices) {
        devices.push_back({device_id(id), device.details});
    }
    return devices;
}

TEST_P(corpus, MetadataIsListedAndDumpedAsRecordedAndReadingWritesNothing) {
    totals& seen = totals_now();
    ASSERT_OK_AND_ASSIGN(const std::string xml, scenario_.text("thin_dump.xml"));
    ASSERT_OK_AND_ASSIGN(const std::string list, scenario_.text("thin_ls.txt"));
    const dumped_pool recorded = parse_dump(xml);
    const auto recorded_list = parse_list(list);
    for (const bool read_only : {true, false}) {
        const auto file = open_file(images_.metadata, read_only);
        ASSERT_NE(file, nullptr);
        const auto data = open_file(images_.data, true);
        io::fault_device counted(*file, plan_);
        ASSERT_OK_AND_ASSIGN(const auto pool, metadata::open(counted, {.read_only = read_only}));
        EXPECT_EQ(pool->data_block_size_sectors(), scenario_.block_size_sectors);
        EXPECT_EQ(pool->transaction_id().value(), recorded.transaction_id);
        ASSERT_OK_AND_ASSIGN(const auto devices, pool->list_devices());
        const auto expected = listed(recorded);
        ASSERT_EQ(devices.size(), expected.size());
        ASSERT_EQ(devices.size(), recorded_list.size());
        for (std::size_t i = 0; i < devices.size(); ++i) {
            EXPECT_EQ(devices[i].id, expected[i].id);
            EXPECT_EQ(devices[i].details, expected[i].details);
            EXPECT_EQ(devices[i].details, recorded_list.at(devices[i].id.value()));
            ASSERT_OK_AND_ASSIGN(thin_device* const device, pool->open_device(devices[i].id));
            for (const auto& [block, mapping] :
                 recorded.devices.at(devices[i].id.value()).mappings) {
                ASSERT_OK_AND_ASSIGN(const auto found,
                                     pool->find_block(*device, virtual_block(block)));
                ASSERT_TRUE(found.has_value()) << block;
                ASSERT_EQ(found->block, data_block(mapping.data_block));
            }
            pool->close_device(device);
        }
        for (const thin_map& map : scenario_.thins) {
            if (!read_only) {
                break;  // every sector once; the mappings were looked up in both modes
            }
            ++seen.thins;
            const expectation thin{
                &map, {}, origin_blocks(*pool, map), scenario_.block_size_sectors};
            ASSERT_OK_AND_ASSIGN(thin_device* const device,
                                 pool->open_device(device_id(map.device_id)));
            expect_reads(
                thin, map.size_sectors() * sector_size_bytes,
                [&](std::uint64_t at, std::span<std::byte> buffer) -> result<void> {
                    while (!buffer.empty()) {
                        const auto length = std::min<std::uint64_t>(
                            buffer.size(), block_bytes_ - at % block_bytes_);
                        const auto piece = buffer.first(length);
                        auto found = pool->find_block(*device, virtual_block(at / block_bytes_));
                        if (!found) {
                            return std::unexpected(found.error());
                        }
                        std::ranges::fill(piece, std::byte{0});
                        if (found->has_value()) {
                            const std::uint64_t begin = (*found)->block.value() * block_bytes_;
                            if (auto done = data->read(begin + at % block_bytes_, piece); !done) {
                                return done;
                            }
                        }
                        at += length;
                        buffer = buffer.subspan(length);
                    }
                    return {};
                },
                seen);
            pool->close_device(device);
        }
        ASSERT_OK(pool->close());
    }
    const auto file = open_file(images_.metadata, true);
    ASSERT_OK_AND_ASSIGN(const auto view, thin_metadata::open_offline(*file, {}));
    collecting_sink sink;
    ASSERT_OK(thin_metadata::dump_metadata(*view, sink, {}));
    expect_same(sink.found, recorded, seen);
    expect_our_checker_agrees(GetParam() == leaky_pool);
    expect_nothing_written();
}

TEST_P(corpus, AHeldMetadataSnapshotReadsAsRecorded) {
    totals& seen = totals_now();
    const auto recorded = scenario_.text("thin_dump-metasnap.xml");
    const auto file = open_file(images_.metadata, true);
    ASSERT_OK_AND_ASSIGN(const auto pool, metadata::open(*file, {.read_only = true}));
    ASSERT_OK_AND_ASSIGN(const auto held, pool->metadata_snap());
    auto view = thin_metadata::open_offline(*file, {.metadata_snapshot = true});
    if (!recorded) {
        EXPECT_FALSE(held.has_value());
        EXPECT_THAT(view, HasCode(error_code::not_found));
        return;
    }
    EXPECT_TRUE(held.has_value());
    ASSERT_THAT(view, IsOk());
    collecting_sink sink;
    ASSERT_OK(thin_metadata::dump_metadata(**view, sink, {}));
    expect_same(sink.found, parse_dump(*recorded), seen);
}

TEST_P(corpus, APoolReadsEverySectorAsRecordedAndWritesNothing) {
    totals& seen = totals_now();
    const std::vector<expectation> thins = expectations(nullptr);
    for (const bool read_only : {true, false}) {
        ASSERT_OK_AND_ASSIGN(const auto opened, open_pool(read_only));
        ASSERT_OK(opened->start());
        for (const expectation& thin : thins) {
            ++seen.thins;
            const std::uint64_t size_bytes = thin.map->size_sectors() * sector_size_bytes;
            ASSERT_OK_AND_ASSIGN(const auto volume,
                                 open_thin(*opened, thin.map->device_id, size_bytes, read_only));
            expect_reads(
                thin, size_bytes,
                [&](std::uint64_t at, std::span<std::byte> buffer) {
                    return volume->read(at, buffer);
                },
                seen);
            EXPECT_OK(volume->flush());
        }
        ASSERT_OK(opened->close());
    }
    expect_nothing_written();
}

// Writes sectors [3, 8) of the block `at` is in.
overwritten written_into(std::uint64_t block, std::uint64_t block_sectors, std::uint64_t stamp) {
    return {block * block_sectors + 3, 5, stamp};
}

result<void> write(volume& to, const overwritten& piece) {
    std::vector<std::byte> content(piece.count * sector_size_bytes);
    fill(content, piece.stamp);
    return to.write(piece.begin_sector * sector_size_bytes, content);
}

// Writing is refused, deleting is not, and with the space that comes back writing works.
void corpus::expect_full_metadata(pool& opened, const std::vector<expectation>& thins) {
    ASSERT_FALSE(thins.empty());
    EXPECT_EQ(opened.mode(), pool_mode::out_of_metadata_space);
    const thin_map& first = *thins[0].map;
    {
        ASSERT_OK_AND_ASSIGN(const auto origin,
                             opened.open_volume(device_id(first.device_id),
                                                first.size_sectors() * sector_size_bytes));
        EXPECT_THAT(write(*origin, {3, 5, our_stamp}), HasCode(error_code::no_metadata_space));
    }
    EXPECT_EQ(opened.mode(), pool_mode::out_of_metadata_space);
    EXPECT_FALSE(opened.create_thin(device_id(new_thin_id)).has_value());
    ASSERT_OK_AND_ASSIGN(const auto devices, opened.list_devices());
    for (const thin_device_info& device : devices) {
        if (std::ranges::none_of(thins, [&](const expectation& thin) {
                return thin.map->device_id == device.id.value();
            })) {
            ASSERT_OK(opened.delete_thin(device.id));
        }
    }
    ASSERT_OK(opened.commit());
    EXPECT_EQ(opened.mode(), pool_mode::write);
    EXPECT_OK(opened.create_thin(device_id(new_thin_id)));
    for (const expectation& thin : thins) {
        const std::uint64_t size_bytes = thin.map->size_sectors() * sector_size_bytes;
        ASSERT_OK_AND_ASSIGN(const auto volume,
                             opened.open_volume(device_id(thin.map->device_id), size_bytes));
        expect_reads(
            thin, size_bytes,
            [&](std::uint64_t at, std::span<std::byte> buffer) { return volume->read(at, buffer); },
            totals_now());
    }
    ASSERT_OK(opened.close());
    judge_later();
}

TEST_P(corpus, AWriteAndASnapshotKeepThePoolValid) {
    totals& seen = totals_now();
    std::vector<expectation> thins = expectations(nullptr);
    const thin_map blank{static_cast<std::uint32_t>(new_thin_id), {{0, 2048 * 4, 0, 0}}};
    ASSERT_OK_AND_ASSIGN(auto opened, open_pool(false));
    ASSERT_OK(opened->start());
    ASSERT_OK_AND_ASSIGN(const pool_status before, opened->status());
    if (before.needs_check) {
        EXPECT_EQ(opened->mode(), pool_mode::read_only);
        EXPECT_THAT(opened->create_thin(device_id(new_thin_id)), HasCode(error_code::read_only));
        // As in the kernel: what needs no metadata is still written, in place.
        constexpr std::uint64_t mapped_blocks = 128;
        ASSERT_OK_AND_ASSIGN(const auto origin,
                             opened->open_volume(device_id(0), 2 * mapped_blocks * block_bytes_));
        EXPECT_THAT(write(*origin, written_into(mapped_blocks, scenario_.block_size_sectors, 1)),
                    HasCode(error_code::read_only));
        EXPECT_OK(write(*origin, written_into(0, scenario_.block_size_sectors, our_stamp)));
        ASSERT_OK(opened->close());
        EXPECT_EQ(sha256_of(images_.metadata), scenario_.sha256.at("metadata.img"));
        ++seen.refused;
        return;
    }
    if (before.metadata_used_blocks == before.metadata_total_blocks) {
        expect_full_metadata(*opened, thins);
        ++seen.refused;
        return;
    }
    if (thins.empty()) {
        ASSERT_OK(opened->create_thin(device_id(new_thin_id)));
        thins.push_back({&blank, {}, {}, scenario_.block_size_sectors});
    }
    expectation& target = thins[0];
    const std::uint64_t size_bytes = target.map->size_sectors() * sector_size_bytes;
    const bool is_full = before.data_used_blocks == before.data_total_blocks;
    std::shared_ptr<volume> origin;
    { ASSERT_OK_AND_ASSIGN(origin, open_thin(*opened, target.map->device_id, size_bytes)); }
    const overwritten first = written_into(0, scenario_.block_size_sectors, our_stamp);
    const auto wrote = write(*origin, first);
    if (!wrote && is_full) {
        EXPECT_THAT(wrote, HasCode(error_code::no_data_space));
    } else {
        ASSERT_OK(wrote);
        target.later.push_back(first);
    }
    const snapshot_request request{device_id(target.map->device_id), device_id(snapshot_id)};
    ASSERT_OK(opened->create_snapshots(std::span(&request, 1)));
    thin_map snapshot_map = *target.map;
    snapshot_map.device_id = static_cast<std::uint32_t>(snapshot_id);
    expectation snapshot = target;
    snapshot.map = &snapshot_map;
    const overwritten second = written_into(0, scenario_.block_size_sectors, ~our_stamp);
    if (const auto broke = write(*origin, second); !broke && is_full) {
        EXPECT_THAT(broke, HasCode(error_code::no_data_space));
    } else {
        ASSERT_OK(broke);
        target.later.insert(target.later.begin(), second);
    }
    ASSERT_OK(opened->commit());
    origin.reset();
    ASSERT_OK(opened->close());
    opened.reset();
    thins.push_back(snapshot);

    ASSERT_OK_AND_ASSIGN(opened, open_pool(false));
    for (const expectation& thin : thins) {
        ++seen.thins;
        const std::uint64_t thin_bytes = thin.map->size_sectors() * sector_size_bytes;
        ASSERT_OK_AND_ASSIGN(const auto again, open_thin(*opened, thin.map->device_id, thin_bytes));
        expect_reads(
            thin, thin_bytes,
            [&](std::uint64_t at, std::span<std::byte> buffer) { return again->read(at, buffer); },
            seen);
    }
    ASSERT_OK(opened->close());
    opened.reset();
    expect_our_checker_agrees(GetParam() == leaky_pool);
    judge_later();
}

TEST_P(corpus, AnAdoptedPoolReadsAsRecordedThenTakesASnapshot) {
    totals& seen = totals_now();
    const std::vector<expectation> thins = expectations();
    const fs::path folder = images_.directory.path() / "pool";
    adopt_pool_request adoption;
    adoption.directory = folder;
    adoption.metadata_url = images_.metadata;
    adoption.data_url = images_.data;
    ASSERT_OK(pool_directory::adopt(adoption, system_clock()));
    ASSERT_OK_AND_ASSIGN(const std::string list, scenario_.text("thin_ls.txt"));
    const auto recorded = parse_list(list);
    for (const open_purpose purpose : {open_purpose::inspect, open_purpose::change}) {
        directory_options options;
        options.purpose = purpose;
        ASSERT_OK_AND_ASSIGN(const auto directory,
                             pool_directory::open(folder, options, system_clock()));
        ASSERT_OK_AND_ASSIGN(const auto volumes, directory->list());
        EXPECT_EQ(volumes.size(), recorded.size());
        for (const volume_info& volume : volumes) {
            EXPECT_EQ(volume.name, fmt::format("thin-{}", volume.dev_id));
            EXPECT_EQ(volume.mapped_bytes, recorded.at(volume.dev_id).mapped_blocks * block_bytes_);
        }
        for (const expectation& thin : thins) {
            ++seen.thins;
            ASSERT_OK_AND_ASSIGN(
                const auto volume,
                directory->open_volume(fmt::format("thin-{}", thin.map->device_id), true));
            expect_reads(
                thin, std::min(volume->size_bytes(), thin.map->size_sectors() * sector_size_bytes),
                [&](std::uint64_t at, std::span<std::byte> buffer) {
                    return volume->read(at, buffer);
                },
                seen);
        }
        ASSERT_OK_AND_ASSIGN(const check_reply checked, directory->check({}));
        EXPECT_EQ(checked.clean, GetParam() != leaky_pool);
        EXPECT_EQ(checked.fatal, 0U);
        ASSERT_OK(directory->close());
    }
    expect_nothing_written();

    ASSERT_OK_AND_ASSIGN(auto directory, pool_directory::open(folder, {}, system_clock()));
    const bool is_full = directory->report()->mode == "out_of_metadata_space";
    EXPECT_EQ(is_full, GetParam() == full_metadata_pool);
    const std::string name = thins.empty() ? "" : fmt::format("thin-{}", thins[0].map->device_id);
    if (is_full) {
        EXPECT_THAT(
            directory->create_snapshots({.snapshots = {{name, "copy"}}, .if_not_exists = false}),
            HasCode(error_code::read_only));
    }
    if (thins.empty() || is_full || directory->report()->needs_check) {
        ASSERT_OK(directory->close());
        ++seen.refused;
        return;
    }
    ASSERT_OK(directory->create_snapshots({.snapshots = {{name, "copy"}}, .if_not_exists = false}));
    ASSERT_OK_AND_ASSIGN(auto copy, directory->open_volume("copy", true));
    expect_reads(
        thins[0], std::min(copy->size_bytes(), thins[0].map->size_sectors() * sector_size_bytes),
        [&](std::uint64_t at, std::span<std::byte> buffer) { return copy->read(at, buffer); },
        seen);
    copy.reset();
    ASSERT_OK(directory->close());
    directory.reset();
    expect_our_checker_agrees(GetParam() == leaky_pool);
}

INSTANTIATE_TEST_SUITE_P(Kernel, corpus, ::testing::ValuesIn(corpus_names()),
                         [](const auto& scenario) {
                             std::string name = scenario.param;
                             std::ranges::replace(name, '-', '_');
                             return name;
                         });

}  // namespace
}  // namespace uthin::test
