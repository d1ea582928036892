// Every kind of call of a pool and of its volumes with the n-th allocation failing, for every n, on
// the caller's thread and on those of the pool.
//
// The call succeeds or says out_of_memory (or what became of the pool by it); the pool is in write
// mode or in one that says why; nothing wrong is read; closed and opened again its metadata is
// clean and no block has leaked, and no allocation has either.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <vector>

#include <fmt/format.h>

#include "base/result.h"
#include "memory/failing_allocator.h"
#include "pool/bio_prison.h"
#include "support/matchers.h"
#include "support/pool_judge.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using test::borrowed_device;
using namespace std::chrono_literals;

constexpr std::uint64_t sector = 512;
constexpr std::uint64_t block = 128 * sector;
constexpr std::uint64_t metadata_blocks = 80;
constexpr std::uint64_t data_blocks = 20;
constexpr std::uint64_t spare_blocks = 4;  // of either device, for growth
constexpr std::uint64_t volume_blocks = 6;
constexpr std::uint64_t main_id = 0;      // 0 and 1 shared, 2 and 3 its own, 4 and 5 holes
constexpr std::uint64_t snapshot_id = 1;  // of that
constexpr std::uint64_t small_id = 2;     // two blocks, not open
constexpr std::uint64_t new_id = 9;
constexpr std::byte old_byte{0x11};
constexpr std::byte new_byte{0x22};

// Bytes that are all there from the beginning: the device itself never asks for memory.
class steady_device final : public block_device {
public:
    explicit steady_device(std::vector<std::byte> content) : bytes_(std::move(content)) {}

    [[nodiscard]] const std::vector<std::byte>& content() const { return bytes_; }
    [[nodiscard]] std::string name() const override { return "steady"; }
    [[nodiscard]] result<std::uint64_t> size_bytes() const override { return bytes_.size(); }
    [[nodiscard]] device_capabilities capabilities() const override {
        return {.can_discard = true};
    }
    [[nodiscard]] result<void> read(std::uint64_t offset, std::span<std::byte> buffer) override {
        std::memcpy(buffer.data(), bytes_.data() + offset, buffer.size());
        return {};
    }
    [[nodiscard]] result<void> write(std::uint64_t offset,
                                     std::span<const std::byte> buffer) override {
        std::memcpy(bytes_.data() + offset, buffer.data(), buffer.size());
        return {};
    }
    [[nodiscard]] result<void> flush() override { return {}; }
    [[nodiscard]] result<void> discard(std::uint64_t, std::uint64_t) override { return {}; }
    [[nodiscard]] result<void> write_zeroes(std::uint64_t offset, std::uint64_t length) override {
        std::memset(bytes_.data() + offset, 0, length);
        return {};
    }

private:
    std::vector<std::byte> bytes_;
};

struct images {
    std::vector<std::byte> metadata =
        std::vector<std::byte>((metadata_blocks + spare_blocks) * metadata_block_size_bytes);
    std::vector<std::byte> data = std::vector<std::byte>((data_blocks + spare_blocks) * block);
};

struct world {
    explicit world(const images& from) : metadata(from.metadata), data(from.data) {}
    ~world() { main.reset(); }
    world(const world&) = delete;
    world& operator=(const world&) = delete;

    [[nodiscard]] result<void> open() {
        pool_options with;
        with.data_block_size_sectors = block / sector;
        with.data_blocks = data_blocks;
        with.format = true;
        with.commit_interval = 1h;
        with.error_if_no_space = true;
        engine = UTHIN_TRY(pool::open(std::move(metadata_handle), std::move(data_handle),
                                      std::move(with), system_clock()));
        return {};
    }
    [[nodiscard]] result<void> open_main() {
        main = UTHIN_TRY(engine->open_volume(device_id(main_id), volume_blocks * block));
        return {};
    }

    steady_device metadata;
    steady_device data;
    std::unique_ptr<block_device> metadata_handle = std::make_unique<borrowed_device>(metadata);
    std::unique_ptr<block_device> data_handle = std::make_unique<borrowed_device>(data);
    // Of all that a call writes.
    const std::vector<std::byte> news = std::vector<std::byte>(4 * block, new_byte);
    std::vector<std::byte> found = std::vector<std::byte>(volume_blocks * block);
    std::unique_ptr<pool> engine;
    std::shared_ptr<volume> main;
};

result<images> make_base() {
    world made{images()};
    UTHIN_TRY(made.open());
    UTHIN_TRY(made.engine->create_thin(device_id(main_id)));
    UTHIN_TRY(made.engine->create_thin(device_id(small_id)));
    UTHIN_TRY(made.open_main());
    const std::vector<std::byte> old(2 * block, old_byte);
    UTHIN_TRY(made.main->write(0, old));
    const snapshot_request one{device_id(main_id), device_id(snapshot_id)};
    UTHIN_TRY(made.engine->create_snapshots({&one, 1}));
    UTHIN_TRY(made.main->write(2 * block, old));
    auto small = UTHIN_TRY(made.engine->open_volume(device_id(small_id), 2 * block));
    UTHIN_TRY(small->write(0, old));
    small.reset();
    made.main.reset();
    UTHIN_TRY(made.engine->close());
    return images{made.metadata.content(), made.data.content()};
}

using action = std::function<result<void>(world&)>;

enum class start_at : std::uint8_t { devices, pool, volume, threads };

struct scenario {
    const char* name;
    action act;
    start_at from = start_at::volume;  // what is open when it begins
    bool closes = false;
};

std::span<const std::byte> some(const world& in, std::uint64_t length) {
    return std::span(in.news).first(length);
}

result<void> write_and_flush(world& in) {
    UTHIN_TRY(in.main->write(block + sector, some(in, 3 * block)));
    return in.main->flush();
}

void add_pool_calls(std::vector<scenario>& all) {
    all.push_back({"open", [](world& in) { return in.open(); }, start_at::devices});
    all.push_back({"open_volume", [](world& in) { return in.open_main(); }, start_at::pool});
    all.push_back(
        {"snapshots of two volumes at one instant", [](world& in) -> result<void> {
             const auto small = UTHIN_TRY(in.engine->open_volume(device_id(small_id), 2 * block));
             const std::array both{snapshot_request{device_id(main_id), device_id(new_id)},
                                   snapshot_request{device_id(small_id), device_id(new_id + 1)}};
             return in.engine->create_snapshots(both);
         }});
    all.push_back(
        {"create_thin", [](world& in) { return in.engine->create_thin(device_id(new_id)); }});
    all.push_back({"snapshot and commit", [](world& in) -> result<void> {
                       UTHIN_TRY(in.main->write(4 * block, some(in, sector)));
                       const snapshot_request one{device_id(main_id), device_id(new_id)};
                       UTHIN_TRY(in.engine->create_snapshots({&one, 1}));
                       return in.engine->commit();
                   }});
    all.push_back(
        {"delete_thin", [](world& in) { return in.engine->delete_thin(device_id(small_id)); }});
    all.push_back({"delete_in_background", [](world& in) -> result<void> {
                       UTHIN_TRY(in.engine->delete_in_background(device_id(small_id)));
                       return in.engine->wait_for_deletion(device_id(small_id));
                   }});
    all.push_back({"rollback", [](world& in) {
                       return in.engine->rollback(device_id(main_id), device_id(snapshot_id),
                                                  device_id(new_id));
                   }});
    all.push_back({"metadata snapshot", [](world& in) -> result<void> {
                       UTHIN_TRY(in.engine->reserve_metadata_snap());
                       return in.engine->release_metadata_snap();
                   }});
    all.push_back({"status", [](world& in) -> result<void> {
                       UTHIN_TRY(in.engine->status(true));
                       return {};
                   }});
    all.push_back({"growing", [](world& in) -> result<void> {
                       UTHIN_TRY(in.engine->grow_data());
                       return in.engine->grow_metadata();
                   }});
    all.push_back({"trim", [](world& in) -> result<void> {
                       UTHIN_TRY(in.engine->trim());
                       return {};
                   }});
    all.push_back({"a view while blocks are freed", [](world& in) -> result<void> {
                       const auto view = UTHIN_TRY(in.engine->create_view());
                       UTHIN_TRY(in.main->discard(0, 4 * block));
                       UTHIN_TRY(in.engine->commit());
                       UTHIN_TRY(in.main->write(0, some(in, block)));
                       return in.engine->commit();
                   }});
    all.push_back({"repair_leaks", [](world& in) { return in.engine->repair_leaks(); }});
    scenario close{"close", [](world& in) -> result<void> {
                       UTHIN_TRY(in.main->write(4 * block, some(in, block)));
                       return in.engine->close();
                   }};
    close.closes = true;
    all.push_back(close);
}

void add_volume_calls(std::vector<scenario>& all) {
    all.push_back({"write and flush", write_and_flush});
    all.push_back({"FUA write over all kinds of blocks", [](world& in) {
                       return in.main->write(block + sector, some(in, 4 * block - sector), true);
                   }});
    all.push_back({"overwrite", [](world& in) -> result<void> {
                       UTHIN_TRY(in.main->write(2 * block + sector, some(in, block)));
                       return in.main->flush();
                   }});
    all.push_back({"read", [](world& in) { return in.main->read(0, in.found); }});
    all.push_back({"zeroing", [](world& in) {
                       return in.main->write_zeroes(sector, 4 * block, {.fua = true});
                   }});
    all.push_back({"discard", [](world& in) -> result<void> {
                       UTHIN_TRY(in.main->discard(block, 3 * block));
                       return in.main->flush();
                   }});
    all.push_back({"discard in parts", [](world& in) -> result<void> {
                       UTHIN_TRY(in.main->discard(2 * block, 5 * sector));
                       return in.main->discard(2 * block + 5 * sector, block - 5 * sector);
                   }});
    all.push_back({"set_size", [](world& in) { return in.main->set_size(block + sector); }});
    all.push_back({"block_status", [](world& in) -> result<void> {
                       UTHIN_TRY(in.main->block_status(0, volume_blocks * block));
                       return {};
                   }});
}

// The pool's own threads: the executor and the trimmer.
void add_threaded_calls(std::vector<scenario>& all) {
    all.push_back({"start", [](world& in) { return in.engine->start(); }, start_at::volume});
    all.push_back({"write and flush (threads)", write_and_flush, start_at::threads});
    all.push_back({"discard and trim (threads)",
                   [](world& in) -> result<void> {
                       UTHIN_TRY(in.main->discard(0, 4 * block));
                       UTHIN_TRY(in.engine->commit());
                       UTHIN_TRY(in.engine->trim());
                       return {};
                   },
                   start_at::threads});
    all.push_back({"delete_in_background (threads)",
                   [](world& in) -> result<void> {
                       UTHIN_TRY(in.engine->delete_in_background(device_id(small_id)));
                       return in.engine->wait_for_deletion(device_id(small_id));
                   },
                   start_at::threads});
    scenario close{"close (threads)",
                   [](world& in) -> result<void> {
                       UTHIN_TRY(in.main->write(4 * block, some(in, block)));
                       return in.engine->close();
                   },
                   start_at::threads};
    close.closes = true;
    all.push_back(close);
}

class pool_trial final : public test::memory_trial {
public:
    pool_trial(const scenario& what, const images& base) : scenario_(what), in_(base) {}

    result<void> prepare() override {
        if (scenario_.from == start_at::devices) {
            return {};
        }
        UTHIN_TRY(in_.open());
        if (scenario_.from == start_at::threads) {
            UTHIN_TRY(in_.engine->start());
        }
        return scenario_.from == start_at::pool ? result<void>() : in_.open_main();
    }

    result<void> act() override { return scenario_.act(in_); }

    std::string judge(const result<void>& outcome, bool injected) override {
        std::string complaint = in_.engine == nullptr ? "" : judge_at_once(outcome, injected);
        in_.main.reset();
        in_.engine.reset();
        return complaint.empty() ? judge_reopened() : complaint;
    }

private:
    std::string judge_at_once(const result<void>& outcome, bool injected) {
        const pool_mode mode = in_.engine->mode();
        const std::string cause = in_.engine->mode_cause();
        if (mode != pool_mode::write &&
            (!injected || cause.find("out of memory") == std::string::npos)) {
            return fmt::format("mode {}: {}", to_string(mode), cause);
        }
        if (!outcome && mode == pool_mode::write &&
            outcome.error().code() != error_code::out_of_memory) {
            return "unexpected error: " + outcome.error().to_string();
        }
        if (scenario_.closes) {
            return {};
        }
        if (in_.main == nullptr) {
            if (auto opened = in_.open_main(); !opened) {
                return mode == pool_mode::fail ? "" : opened.error().to_string();
            }
        }
        const std::uint64_t size = std::min(in_.main->size_bytes(), volume_blocks * block);
        const auto found = test::sectors_of(*in_.main, 0, size);
        if (!found) {
            return mode == pool_mode::fail ? "" : "reading: " + found.error().to_string();
        }
        if (std::string text = wrong_sector(*found); !text.empty()) {
            return text;
        }
        if (mode == pool_mode::write) {
            if (auto usable = use(); !usable) {
                return "used afterwards: " + usable.error().to_string();
            }
        } else if (in_.engine->commit() || (in_.main->lost_changes() && in_.main->flush())) {
            return "a commit succeeds in another mode than write";
        }
        if (mode == pool_mode::read_only) {
            // Whatever becomes of it: it does not wait at a door that nobody opens.
            static_cast<void>(in_.main->write(2 * block, std::span(in_.news).first(sector)));
        }
        return {};
    }

    // Nothing that a call took is still taken: doors, cells, blocks, devices.
    result<void> use() {
        UTHIN_TRY(in_.main->write(0, std::span(in_.news).first(sector)));
        UTHIN_TRY(in_.main->flush());
        const snapshot_request one{device_id(main_id), device_id(new_id + 3)};
        UTHIN_TRY(in_.engine->create_snapshots({&one, 1}));
        in_.main.reset();
        UTHIN_TRY(in_.engine->delete_thin(device_id(main_id)));
        return in_.engine->close();
    }

    static std::string wrong_sector(const std::vector<std::byte>& found) {
        for (std::size_t at = 0; at < found.size(); ++at) {
            const bool was_mapped = at < 4 * block / sector;
            const bool legal = found[at] == new_byte || found[at] == std::byte{} ||
                               (was_mapped && found[at] == old_byte);
            if (!legal) {
                return fmt::format("sector {} holds {}", at, std::to_integer<int>(found[at]));
            }
        }
        return {};
    }

    std::string judge_reopened() {
        const auto found =
            test::judge_pool(in_.metadata, in_.data, {block, volume_blocks, main_id});
        if (!found) {
            return "reopened: " + found.error().to_string();
        }
        for (const auto& [id, content] : found->data) {
            if (std::string text = id == main_id ? wrong_sector(content) : ""; !text.empty()) {
                return "reopened: " + text;
            }
            const std::uint64_t ends = 2 * 2;  // of two blocks
            if (id == snapshot_id && std::any_of(content.begin(), content.begin() + ends,
                                                 [](std::byte one) { return one != old_byte; })) {
                return "reopened: the snapshot has changed";
            }
        }
        return {};
    }

    const scenario& scenario_;
    world in_;
};

void run_all(const char* what, const std::vector<scenario>& all) {
    auto base = make_base();
    ASSERT_OK(base);
    test::memory_totals sums;
    for (const scenario& one : all) {
        test::fail_each_allocation(
            one.name,
            [&]() -> std::unique_ptr<test::memory_trial> {
                return std::make_unique<pool_trial>(one, *base);
            },
            sums);
    }
    std::printf("%s without memory: scenarios=%zu runs=%llu violations=%llu out_of_memory=%llu\n",
                what, all.size(), static_cast<unsigned long long>(sums.runs),
                static_cast<unsigned long long>(sums.violations),
                static_cast<unsigned long long>(sums.out_of_memory));
    EXPECT_GT(sums.out_of_memory, sums.runs / 3);
}

// Whoever finds a cell taken waits for it: one that nobody gives back is waited for in vain.
TEST(PoolMemory, CellsTakenBeforeTheFailureAreGivenBack) {
    constexpr std::uint64_t first = 10;
    constexpr std::uint64_t count = 40;
    int failures = 0;
    for (bool failed = true; failed;) {
        pool_engine::bio_prison prison;
        failed = false;
        test::failing_allocator::arm(static_cast<std::uint64_t>(failures) + 1, false);
        try {
            const pool_engine::bio_prison::cells some(prison, device_id(1), virtual_block(first),
                                                      count);
        } catch (const std::bad_alloc&) {
            failed = true;
            ++failures;
        }
        test::failing_allocator::disarm();
        // From the one before on: it has as many as there are up to the first that is taken.
        const pool_engine::bio_prison::cells all(prison, device_id(1), virtual_block(first - 1),
                                                 count + 1);
        ASSERT_EQ(all.count(), count + 1) << "failure " << failures;
    }
    EXPECT_GT(failures, 20);
}

TEST(PoolMemory, EveryCallSurvivesEveryFailingAllocation) {
    std::vector<scenario> all;
    add_pool_calls(all);
    add_volume_calls(all);
    run_all("pools", all);
}

TEST(PoolMemory, ThePoolsThreadsSurviveEveryFailingAllocation) {
    std::vector<scenario> all;
    add_threaded_calls(all);
    run_all("threaded pools", all);
}

}  // namespace
}  // namespace uthin
