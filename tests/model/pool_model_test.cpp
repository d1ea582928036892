// Random operations on several volumes and snapshots against a trivial reference in memory.
//
// Every sector that is written carries 64 words of one stamp, unique to the operation and the
// sector; the reference is a vector of stamps for each volume (0: zeros). Reads are compared sector
// by sector as they come, every volume is compared whole now and then and after each reopening.
#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/random.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/seed.h"

namespace uthin {
namespace {

using test::HasCode;
using test::IsOk;
using test::pool_rig;
using test::rig_options;

constexpr std::uint64_t sector = 512;

class model {
public:
    model(pool_rig& rig, std::uint64_t seed, std::uint64_t block_sectors)
        : rig_(rig), random_(seed), block_sectors_(block_sectors) {}

    void step();
    void reopen();
    void compare_all();
    void close_all() { open_.clear(); }
    [[nodiscard]] std::uint64_t pieced_blocks() const { return pieced_blocks_; }
    [[nodiscard]] const std::map<std::string, std::uint64_t>& done() const { return done_; }

private:
    struct content {
        std::vector<std::uint64_t> stamps;
        // Parts of blocks that were discarded: zeros, or what they were.
        std::vector<bool> discarded;
        void set(std::uint64_t at, std::uint64_t stamp) {
            stamps[at] = stamp;
            discarded[at] = false;
        }
        void resize(std::uint64_t sectors) {
            stamps.resize(sectors, 0);
            discarded.resize(sectors, false);
        }
    };
    struct piece {
        std::uint64_t begin;
        std::uint64_t count;
    };

    std::uint64_t pick() {
        auto at = volumes_.begin();
        std::advance(at, static_cast<std::ptrdiff_t>(random_.below(volumes_.size())));
        return at->first;
    }
    volume& handle(std::uint64_t id);
    piece pick_piece(const content& in);
    void write(std::uint64_t id, bool fua);
    void read(std::uint64_t id);
    void compare(std::uint64_t id, std::uint64_t begin, std::uint64_t count);
    void discard(std::uint64_t id);
    void discard_piece(std::uint64_t id, piece where);
    void discard_in_pieces(std::uint64_t id);
    void write_zeroes(std::uint64_t id);
    void snapshot();
    void remove(std::uint64_t id);
    void roll_back(std::uint64_t id);
    void create();
    void resize(std::uint64_t id);

    static constexpr std::size_t volumes_max = 10;
    static constexpr std::uint64_t size_sectors = 6000;

    pool_rig& rig_;
    random_generator random_;
    const std::uint64_t block_sectors_;
    std::map<std::uint64_t, content> volumes_;
    std::map<std::uint64_t, std::shared_ptr<volume>> open_;
    std::map<std::string, std::uint64_t> done_;
    std::uint64_t pieced_blocks_ = 0;
    std::uint64_t next_id_ = 0;
    std::uint64_t next_stamp_ = 1;
    std::vector<std::uint64_t> buffer_;
};

volume& model::handle(std::uint64_t id) {
    auto& slot = open_[id];
    if (slot == nullptr) {
        slot = rig_.open_volume(id, volumes_.at(id).stamps.size() * sector);
    }
    return *slot;
}

// Small and large, aligned to blocks or not, often at the end.
model::piece model::pick_piece(const content& in) {
    const std::uint64_t size = in.stamps.size();
    std::uint64_t begin = random_.below(size);
    std::uint64_t count = 1 + random_.below(random_.one_in(4) ? 4 * block_sectors_ : 24);
    if (random_.one_in(3)) {
        begin = begin / block_sectors_ * block_sectors_;
        if (random_.one_in(2)) {
            count = block_sectors_ * (1 + random_.below(3));
        }
    }
    if (random_.one_in(20)) {
        begin = size - std::min(size, count);
    }
    return {begin, std::min(count, size - begin)};
}

void model::write(std::uint64_t id, bool fua) {
    content& to = volumes_.at(id);
    const piece where = pick_piece(to);
    buffer_.resize(where.count * sector / 8);
    for (std::uint64_t i = 0; i < where.count; ++i) {
        to.set(where.begin + i, next_stamp_);
        std::fill_n(buffer_.begin() + static_cast<std::ptrdiff_t>(i * sector / 8), sector / 8,
                    next_stamp_);
        ++next_stamp_;
    }
    const auto bytes = std::as_bytes(std::span(buffer_));
    // Sometimes in two parts that meet inside a sector.
    if (random_.one_in(8)) {
        const std::size_t cut = 1 + random_.below(bytes.size() - 1);
        ASSERT_OK(handle(id).write(where.begin * sector, bytes.first(cut), fua));
        ASSERT_OK(handle(id).write(where.begin * sector + cut, bytes.subspan(cut), fua));
        return;
    }
    ASSERT_OK(handle(id).write(where.begin * sector, bytes, fua));
}

void model::compare(std::uint64_t id, std::uint64_t begin, std::uint64_t count) {
    content& expected = volumes_.at(id);
    buffer_.assign(count * sector / 8, 0xeeeeeeeeeeeeeeee);
    ASSERT_OK(handle(id).read(begin * sector, std::as_writable_bytes(std::span(buffer_))));
    for (std::uint64_t i = 0; i < count; ++i) {
        if (expected.discarded[begin + i] && buffer_[i * sector / 8] == 0) {
            expected.set(begin + i, 0);  // from now on
        }
        for (std::uint64_t word = 0; word < sector / 8; ++word) {
            ASSERT_EQ(buffer_[i * sector / 8 + word], expected.stamps[begin + i])
                << "volume " << id << " sector " << begin + i << " word " << word;
        }
    }
}

void model::read(std::uint64_t id) {
    const piece where = pick_piece(volumes_.at(id));
    compare(id, where.begin, where.count);
}

void model::compare_all() {
    for (const auto& [id, expected] : volumes_) {
        compare(id, 0, expected.stamps.size());
        if (::testing::Test::HasFatalFailure()) {
            return;
        }
    }
}

void model::discard(std::uint64_t id) {
    discard_piece(id, pick_piece(volumes_.at(id)));
}

void model::discard_piece(std::uint64_t id, piece where) {
    content& in = volumes_.at(id);
    ASSERT_OK(handle(id).discard(where.begin * sector, where.count * sector));
    const std::uint64_t begin = (where.begin + block_sectors_ - 1) / block_sectors_;
    const std::uint64_t end = (where.begin + where.count) / block_sectors_;
    for (std::uint64_t i = where.begin; i < where.begin + where.count; ++i) {
        if (i >= begin * block_sectors_ && i < end * block_sectors_) {
            in.set(i, 0);
        } else {
            in.discarded[i] = true;
        }
    }
}

// A block in pieces, in any order, some of them twice; now and then something is read or written in
// between.
void model::discard_in_pieces(std::uint64_t id) {
    const std::uint64_t size = volumes_.at(id).stamps.size();
    const std::uint64_t first = random_.below(size) / block_sectors_ * block_sectors_;
    const std::uint64_t end = std::min(first + block_sectors_, size);
    std::vector<piece> pieces;
    for (std::uint64_t at = first; at < end;) {
        const std::uint64_t count = std::min(1 + random_.below(block_sectors_ / 2), end - at);
        pieces.push_back({at, count});
        at += count;
    }
    while (!pieces.empty()) {
        const auto next =
            pieces.begin() + static_cast<std::ptrdiff_t>(random_.below(pieces.size()));
        discard_piece(id, *next);
        pieces.erase(next);
        if (random_.one_in(8)) {
            random_.one_in(2) ? read(id) : write(id, false);
        }
    }
}

void model::write_zeroes(std::uint64_t id) {
    content& in = volumes_.at(id);
    const piece where = pick_piece(in);
    const zero_options options{.may_unmap = !random_.one_in(3), .fua = random_.one_in(10)};
    ASSERT_OK(handle(id).write_zeroes(where.begin * sector, where.count * sector, options));
    for (std::uint64_t i = 0; i < where.count; ++i) {
        in.set(where.begin + i, 0);
    }
}

void model::create() {
    ASSERT_OK(rig_->create_thin(device_id(next_id_)));
    // Not a multiple of the block.
    volumes_[next_id_].resize(size_sectors - random_.below(block_sectors_));
    ++next_id_;
}

// One, or several at once, some of them of one origin.
void model::snapshot() {
    std::vector<snapshot_request> requests;
    const std::uint64_t count = random_.one_in(3) ? 1 + random_.below(3) : 1;
    for (std::uint64_t i = 0; i < count && volumes_.size() + i < volumes_max; ++i) {
        requests.push_back({device_id(pick()), device_id(next_id_++)});
    }
    if (requests.empty()) {
        return;
    }
    ASSERT_OK(rig_->create_snapshots(requests));
    std::vector<content> copies;
    for (const snapshot_request& one : requests) {
        copies.push_back(volumes_.at(one.origin.value()));
    }
    for (std::size_t i = 0; i < requests.size(); ++i) {
        volumes_[requests[i].id.value()] = std::move(copies[i]);
    }
}

void model::remove(std::uint64_t id) {
    if (volumes_.size() < 4) {
        return;
    }
    open_.erase(id);
    volumes_.erase(id);
    if (random_.one_in(2)) {
        ASSERT_OK(rig_->delete_thin(device_id(id)));
        return;
    }
    ASSERT_OK(rig_->delete_in_background(device_id(id)));
}

void model::roll_back(std::uint64_t id) {
    const std::uint64_t to = pick();
    if (to == id || volumes_.at(to).stamps.size() != volumes_.at(id).stamps.size()) {
        return;
    }
    const std::uint64_t graveyard = next_id_++;
    ASSERT_OK(rig_->rollback(device_id(id), device_id(to), device_id(graveyard)));
    volumes_.at(id) = volumes_.at(to);
    ASSERT_OK(rig_->delete_in_background(device_id(graveyard)));
}

void model::resize(std::uint64_t id) {
    content& in = volumes_.at(id);
    const std::uint64_t size = size_sectors / 2 + random_.below(size_sectors);
    ASSERT_OK(handle(id).set_size(size * sector));
    in.resize(size);
}

void model::step() {
    if (volumes_.size() < 2) {
        return create();
    }
    const std::uint64_t id = pick();
    const std::uint64_t dice = random_.below(1000);
    const auto run = [&](const char* name, const auto& operation) {
        ++done_[name];
        operation();
    };
    if (dice < 420) {
        return run("write", [&] { write(id, random_.one_in(50)); });
    }
    if (dice < 850) {
        return run("read", [&] { read(id); });
    }
    if (dice < 900) {
        return run("discard", [&] { discard(id); });
    }
    if (dice < 910) {
        return run("pieces", [&] { discard_in_pieces(id); });
    }
    if (dice < 965) {
        return run("zero", [&] { write_zeroes(id); });
    }
    if (dice < 975) {
        return run("flush", [&] { ASSERT_OK(handle(id).flush()); });
    }
    if (dice < 985) {
        return run("snapshot", [&] { snapshot(); });
    }
    if (dice < 991) {
        return run("delete", [&] { remove(id); });
    }
    if (dice < 994) {
        return run("rollback", [&] { roll_back(id); });
    }
    if (dice < 996) {
        return run("resize", [&] { resize(id); });
    }
    if (dice < 998) {
        return run("commit", [&] { ASSERT_OK(rig_->commit()); });
    }
    if (dice < 999) {
        return run("close", [&] { open_.erase(id); });
    }
    if (volumes_.size() < volumes_max) {
        run("create", [&] { create(); });
    }
}

void model::reopen() {
    pieced_blocks_ += rig_->counters().pieced_blocks;
    open_.clear();
    rig_.close();
    rig_.expect_clean();
    rig_.open();
}

void run_model(std::uint32_t block_sectors, bool threads, std::uint64_t operations,
               std::uint64_t seed) {
    rig_options with;
    with.block_size_sectors = block_sectors;
    with.data_blocks = 12000ULL * 16 / block_sectors + 400;
    with.metadata_bytes = 4 << 20;
    with.threads = threads;
    with.pool.commit_interval = std::chrono::milliseconds(20);
    with.pool.metadata_cache_bytes = 1 << 20;
    with.pool.mapping_cache_entries = 64;
    pool_rig rig(with);
    model checked(rig, seed, block_sectors);
    for (std::uint64_t i = 0; i < operations; ++i) {
        checked.step();
        ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "operation " << i;
        if (i % (operations / 8) == operations / 16) {
            checked.compare_all();
            checked.reopen();
            checked.compare_all();
            ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "after operation " << i;
        }
    }
    checked.compare_all();
    checked.reopen();
    checked.compare_all();
    checked.close_all();
    EXPECT_GT(checked.pieced_blocks(), 0U);
    std::string counts;
    for (const auto& [name, count] : checked.done()) {
        counts += fmt::format(" {}={}", name, count);
    }
    fmt::print("{} operations, {} KiB blocks, {}:{}; {} blocks unmapped piece by piece\n",
               operations, block_sectors / 2, threads ? "with a thread" : "inline", counts,
               checked.pieced_blocks());
}

TEST(PoolModel, AgreesWithTheReferenceAt64KiBBlocks) {
    run_model(128, true, 80000, test::seed());
}

TEST(PoolModel, AgreesWithTheReferenceAt64KiBBlocksWithoutAThread) {
    run_model(128, false, 60000, test::seed() + 1);
}

TEST(PoolModel, AgreesWithTheReferenceAt192KiBBlocks) {
    run_model(384, true, 60000, test::seed() + 2);
}

}  // namespace
}  // namespace uthin
