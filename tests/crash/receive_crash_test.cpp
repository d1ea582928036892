// Power cuts while a stream comes in that breaks off: what the transfer is noted to have is there.
#include <cstdio>

#include <fmt/format.h>

#include "base/result.h"
#include "pool/names.h"
#include "pool/pool_directory.h"
#include "replication/receiver.h"
#include "replication/stream_writer.h"
#include "support/crash_vfs.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/seed.h"
#include "support/stream_buffers.h"

namespace uthin {
namespace {

using test::borrowed_device;
using test::pattern;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t volume_bytes = 8 * block_bytes;
constexpr const char* pool_uuid = "6f1d2c3b-0000-4000-8000-000000000008";
constexpr const char* catalogue_path = "/pool/catalog.db";

struct machine {
    machine(const io::crash_state* state, bool lying)
        : domain(state != nullptr ? std::make_unique<io::crash_domain>(*state)
                                  : std::make_unique<io::crash_domain>()),
          vfs(*domain),
          lies(lying) {}

    [[nodiscard]] result<void> make() {
        auto& metadata = domain->add_device("metadata", 128 * metadata_block_size_bytes);
        auto& data = domain->add_device("data", 2 * volume_bytes);
        domain->add_device("catalog.db", std::uint64_t{0});
        domain->add_device("catalog.db-journal", std::uint64_t{0});
        auto formatted = UTHIN_TRY(pool::open(
            std::make_unique<borrowed_device>(metadata), std::make_unique<borrowed_device>(data),
            {.format = true, .data_block_size_sectors = 128}, time));
        UTHIN_TRY(formatted->close());
        UTHIN_TRY(catalogue::create(catalogue_path, pool_uuid,
                                    {.read_only = false, .vfs_name = vfs.name()}));
        return open();
    }
    [[nodiscard]] result<void> open() {
        directory_parts parts;
        parts.directory = "/pool";
        parts.file.uuid = pool_uuid;
        parts.devices.metadata = std::make_unique<borrowed_device>(*domain->find("metadata"));
        parts.devices.data = std::make_unique<borrowed_device>(*domain->find("data"), lies);
        parts.names = UTHIN_TRY(catalogue::open(catalogue_path, pool_uuid,
                                                {.read_only = false, .vfs_name = vfs.name()}));
        directory_options options;
        options.catalogue_vfs = vfs.name();
        options.pool = {.metadata_cache_bytes = 1 << 20, .mapping_cache_entries = 256};
        pool = UTHIN_TRY(pool_directory::assemble(std::move(parts), options, time));
        service = make_pool_service(*pool);
        return {};
    }

    manual_clock time;
    std::unique_ptr<io::crash_domain> domain;
    test::crash_vfs vfs;
    const bool lies;
    std::unique_ptr<pool_directory> pool;
    std::unique_ptr<pool_service> service;
};

// A whole volume in pieces of a block, a mark behind each two.
std::vector<std::byte> stream_of(std::span<const std::byte> content) {
    test::memory_sink sink;
    replication::stream_header header;
    header.pool_uuid = "other";
    header.volume_name = "v";
    header.volume_uuid = "uuid";
    header.to = {"id-of-the-snapshot", "s"};
    header.to_size_bytes = content.size();
    header.block_size_bytes = block_bytes;
    auto writer = replication::stream_writer::begin(sink, header, false, 2 * block_bytes);
    EXPECT_OK(writer);
    for (std::uint64_t at = 0; at < content.size(); at += block_bytes) {
        EXPECT_OK(writer->data(at, content.subspan(at, block_bytes)));
    }
    EXPECT_OK(writer->end());
    return std::move(sink.bytes);
}

// Empty, or what is wrong.
std::string complaint(machine& after, std::span<const std::byte> content, std::uint64_t& noted) {
    if (auto opened = after.open(); !opened) {
        return opened.error().to_string();
    }
    const auto transfers = after.pool->list_transfers();
    if (!transfers) {
        return transfers.error().to_string();
    }
    for (const transfer_info& transfer : *transfers) {
        const std::uint64_t position = parse_decimal(transfer.notes.at("position")).value();
        noted = std::max(noted, position);
        const auto data = after.pool->open_transfer(transfer.id);
        std::vector<std::byte> found(position);
        if (!data || !(*data)->read(0, found)) {
            return "the transfer cannot be read";
        }
        if (!std::equal(found.begin(), found.end(), content.begin())) {
            return fmt::format("what was noted up to {} is not all there", position);
        }
    }
    return {};
}

struct totals {
    std::uint64_t cuts = 0;
    std::uint64_t states = 0;
    std::uint64_t noted_bytes = 0;
    std::vector<std::string> violations;
};

totals break_off_and_cut(bool lies) {
    totals sums;
    const auto content = pattern(test::seed(), volume_bytes);
    const auto stream = stream_of(content);
    machine running(nullptr, lies);
    EXPECT_OK(running.make());
    running.domain->forget_history();
    const std::span<const std::byte> sent(stream);
    test::memory_source source(sent.first(stream.size() * 3 / 4));
    replication::receive_request request;
    request.name = "v";
    request.resumable = true;
    request.broke_off = [](const std::string&) {};
    EXPECT_FALSE(replication::receive_stream(*running.service, request, source));
    running.service.reset();
    running.pool.reset();
    const io::crash_history history = running.domain->history();
    io::power_cut cut(history);
    for (std::size_t k = 0; k <= cut.operation_count() && sums.violations.size() < 5; ++k) {
        cut.move_to(k);
        ++sums.cuts;
        for (const io::crash_choice& choice : cut.choices({.random_subsets = 4,
                                              .random_masks = 1,
                                              .choices_max = 3,
                                              .seed = test::seed() + k})) {
            ++sums.states;
            const io::crash_state state = cut.materialize(choice);
            machine after(&state, false);
            if (auto text = complaint(after, content, sums.noted_bytes); !text.empty()) {
                sums.violations.push_back(fmt::format(
                    "cut at {} of {}, {}: {}", k, cut.operation_count(), to_string(choice), text));
            }
        }
    }
    return sums;
}

TEST(ReceiveCrash, ATransferHoldsWhatItIsNotedToHold) {
    const totals sums = break_off_and_cut(false);
    std::printf("receive: cuts=%llu states=%llu violations=%zu\n",
                static_cast<unsigned long long>(sums.cuts),
                static_cast<unsigned long long>(sums.states), sums.violations.size());
    EXPECT_TRUE(sums.violations.empty()) << ::testing::PrintToString(sums.violations);
    EXPECT_GE(sums.noted_bytes, 4 * block_bytes);
}

TEST(ReceiveCrashHarness, SeesDataThatIsNotFlushed) {
    EXPECT_FALSE(break_off_and_cut(true).violations.empty());
}

}  // namespace
}  // namespace uthin
