// uthin-test-pools: makes pools for a real kernel to read, and reads what a real kernel wrote.
//
//   uthin-test-pools make DIR        makes DIR/NAME/{metadata,data} for each pool, with DIR/NAME/
//                                    tID.raw = what thin ID must read as, known without reading it
//                                    back; prints a line "NAME BLOCK_SECTORS ID:SECTORS..." for
//                                    each
//   uthin-test-pools read METADATA DATA ID SECTORS > CONTENT
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "base/result.h"
#include "io/file_device.h"
#include "uthin/pool.h"

namespace uthin::test {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kibibyte = 1024;
constexpr std::uint64_t mebibyte = 1024 * kibibyte;

result<void> write_sparse(const fs::path& path, std::span<const std::byte> content) {
    const auto file = UTHIN_TRY(
        io::file_device::open(path, {.direct = false, .create_size_bytes = content.size()}));
    constexpr std::size_t piece_bytes = 4096;
    for (std::size_t at = 0; at < content.size(); at += piece_bytes) {
        const auto piece = content.subspan(at, std::min(piece_bytes, content.size() - at));
        if (std::ranges::any_of(piece, [](std::byte b) { return b != std::byte{0}; })) {
            UTHIN_TRY(file->write(at, piece));
        }
    }
    return {};
}

// A pool in files, and beside it in memory what each of its thins reads as.
class modelled_pool {
public:
    modelled_pool(fs::path folder, std::uint64_t seed)
        : folder_(std::move(folder)), random_(seed) {}

    result<void> make(std::uint32_t block_sectors, std::uint64_t metadata_bytes,
                      std::uint64_t data_bytes) {
        block_bytes_ = std::uint64_t{block_sectors} * sector_size_bytes;
        fs::create_directories(folder_);
        pool_options options;
        options.format = true;
        options.data_block_size_sectors = block_sectors;
        options.error_if_no_space = true;
        auto metadata = UTHIN_TRY(
            io::file_device::open(folder_ / "metadata", {.create_size_bytes = metadata_bytes}));
        auto data =
            UTHIN_TRY(io::file_device::open(folder_ / "data", {.create_size_bytes = data_bytes}));
        pool_ =
            UTHIN_TRY(pool::open(std::move(metadata), std::move(data), options, system_clock()));
        return pool_->start();
    }

    result<void> create(std::uint64_t id, std::uint64_t size_bytes) {
        UTHIN_TRY(pool_->create_thin(device_id(id)));
        contents_[id].resize(size_bytes);
        return {};
    }
    result<void> snapshot(std::uint64_t id, std::uint64_t origin) {
        const snapshot_request request{device_id(origin), device_id(id)};
        UTHIN_TRY(pool_->create_snapshots(std::span(&request, 1)));
        contents_[id] = contents_.at(origin);
        return {};
    }
    result<void> remove(std::uint64_t id) {
        volumes_.erase(id);
        contents_.erase(id);
        return pool_->delete_thin(device_id(id));
    }
    result<void> rollback(std::uint64_t id, std::uint64_t to, std::uint64_t graveyard) {
        UTHIN_TRY(pool_->rollback(device_id(id), device_id(to), device_id(graveyard)));
        contents_[id] = contents_.at(to);
        UTHIN_TRY(pool_->delete_in_background(device_id(graveyard)));
        return pool_->wait_for_deletion(device_id(graveyard));
    }
    result<void> write(std::uint64_t id, std::uint64_t offset_bytes, std::uint64_t length_bytes) {
        volume& to = *UTHIN_TRY(volume_of(id));
        const auto piece = std::span(contents_.at(id)).subspan(offset_bytes, length_bytes);
        std::vector<std::byte> content(length_bytes);
        for (std::byte& byte : content) {
            byte = static_cast<std::byte>(random_.next());
        }
        UTHIN_TRY(to.write(offset_bytes, content));
        std::ranges::copy(content, piece.begin());
        return {};
    }
    // `count` writes at any position, of any length up to two blocks.
    result<void> write_anywhere(std::uint64_t id, std::uint64_t count) {
        const std::uint64_t size_bytes = contents_.at(id).size();
        for (std::uint64_t i = 0; i < count; ++i) {
            const std::uint64_t offset = random_.below(size_bytes - 1);
            const std::uint64_t length = 1 + random_.below(2 * block_bytes_);
            UTHIN_TRY(write(id, offset, std::min(length, size_bytes - offset)));
        }
        return {};
    }
    result<void> discard(std::uint64_t id, std::uint64_t offset_bytes, std::uint64_t length_bytes) {
        volume& to = *UTHIN_TRY(volume_of(id));
        UTHIN_TRY(to.discard(offset_bytes, length_bytes));
        const std::uint64_t begin = (offset_bytes + block_bytes_ - 1) / block_bytes_ * block_bytes_;
        const std::uint64_t end = (offset_bytes + length_bytes) / block_bytes_ * block_bytes_;
        if (begin < end) {
            std::ranges::fill(std::span(contents_.at(id)).subspan(begin, end - begin),
                              std::byte{0});
        }
        UTHIN_TRY(note_emptied(id, offset_bytes));
        return length_bytes == 0 ? result<void>()
                                 : note_emptied(id, offset_bytes + length_bytes - 1);
    }
    // A block that was discarded in pieces reads as zeros once the last piece is gone.
    result<void> note_emptied(std::uint64_t id, std::uint64_t offset_bytes) {
        const auto block = std::span(contents_.at(id))
                               .subspan(offset_bytes / block_bytes_ * block_bytes_, block_bytes_);
        std::vector<std::byte> found(block_bytes_);
        UTHIN_TRY(UTHIN_TRY(volume_of(id))
                      ->read(offset_bytes / block_bytes_ * block_bytes_, std::span(found)));
        if (std::ranges::all_of(found, [](std::byte byte) { return byte == std::byte{0}; })) {
            std::ranges::fill(block, std::byte{0});
        }
        return {};
    }
    result<void> write_zeroes(std::uint64_t id, std::uint64_t offset_bytes,
                              std::uint64_t length_bytes, bool may_unmap) {
        volume& to = *UTHIN_TRY(volume_of(id));
        UTHIN_TRY(to.write_zeroes(offset_bytes, length_bytes, {.may_unmap = may_unmap}));
        std::ranges::fill(std::span(contents_.at(id)).subspan(offset_bytes, length_bytes),
                          std::byte{0});
        return {};
    }
    result<void> grow(std::uint64_t metadata_bytes, std::uint64_t data_bytes) {
        fs::resize_file(folder_ / "metadata", metadata_bytes);
        fs::resize_file(folder_ / "data", data_bytes);
        UTHIN_TRY(pool_->grow_metadata());
        return pool_->grow_data();
    }

    // Closes the pool and stores what its thins must read as.
    result<void> finish() {
        volumes_.clear();
        UTHIN_TRY(pool_->close());
        fmt::print("{} {}", folder_.filename().string(), block_bytes_ / sector_size_bytes);
        for (const auto& [id, content] : contents_) {
            UTHIN_TRY(write_sparse(folder_ / fmt::format("t{}.raw", id), content));
            fmt::print(" {}:{}", id, content.size() / sector_size_bytes);
        }
        fmt::print("\n");
        return {};
    }

    [[nodiscard]] pool& engine() { return *pool_; }
    [[nodiscard]] random_generator& random() { return random_; }
    [[nodiscard]] std::uint64_t block_bytes() const { return block_bytes_; }

private:
    result<volume*> volume_of(std::uint64_t id) {
        std::shared_ptr<volume>& open = volumes_[id];
        if (!open) {
            open = UTHIN_TRY(pool_->open_volume(device_id(id), contents_.at(id).size()));
        }
        return open.get();
    }

    const fs::path folder_;
    std::unique_ptr<pool> pool_;
    std::uint64_t block_bytes_ = 0;
    random_generator random_;
    std::map<std::uint64_t, std::vector<std::byte>> contents_;
    std::map<std::uint64_t, std::shared_ptr<volume>> volumes_;
};

result<void> block_size(modelled_pool& on, std::uint32_t block_sectors) {
    UTHIN_TRY(on.make(block_sectors, 4 * mebibyte, 96 * mebibyte));
    UTHIN_TRY(on.create(0, 24 * mebibyte));
    UTHIN_TRY(on.create(1, 16 * mebibyte + 7 * sector_size_bytes));  // ends inside a block
    UTHIN_TRY(on.write_anywhere(0, 60));
    UTHIN_TRY(on.write_anywhere(1, 40));
    UTHIN_TRY(on.write(1, 16 * mebibyte, 7 * sector_size_bytes));
    UTHIN_TRY(on.snapshot(2, 0));
    return on.write_anywhere(0, 20);
}

result<void> blocks_64k(modelled_pool& on) {
    return block_size(on, 128);
}
result<void> blocks_192k(modelled_pool& on) {
    return block_size(on, 384);
}
result<void> blocks_1024k(modelled_pool& on) {
    return block_size(on, 2048);
}

result<void> snapshots_of_snapshots(modelled_pool& on) {
    UTHIN_TRY(on.make(128, 8 * mebibyte, 256 * mebibyte));
    UTHIN_TRY(on.create(0, 16 * mebibyte));
    UTHIN_TRY(on.write(0, 0, 16 * mebibyte));
    for (std::uint64_t id = 1; id <= 20; ++id) {
        UTHIN_TRY(on.snapshot(id, on.random().below(id)));
        UTHIN_TRY(on.write_anywhere(id, 8));
        UTHIN_TRY(on.write_anywhere(on.random().below(id), 4));
    }
    return {};
}

result<void> deletes_and_reuse(modelled_pool& on) {
    UTHIN_TRY(on.make(128, 4 * mebibyte, 64 * mebibyte));
    for (std::uint64_t id = 0; id < 4; ++id) {
        UTHIN_TRY(on.create(id, 16 * mebibyte));
        UTHIN_TRY(on.write(id, 0, 12 * mebibyte));
    }
    UTHIN_TRY(on.remove(1));
    UTHIN_TRY(on.snapshot(5, 2));
    UTHIN_TRY(on.remove(2));
    UTHIN_TRY(on.create(1, 20 * mebibyte));  // the id again, and the space of the first one
    UTHIN_TRY(on.write(1, 3 * mebibyte, 14 * mebibyte));
    UTHIN_TRY(on.write_anywhere(5, 10));
    return {};
}

result<void> resized(modelled_pool& on) {
    UTHIN_TRY(on.make(128, 1 * mebibyte, 16 * mebibyte));
    UTHIN_TRY(on.create(0, 64 * mebibyte));
    UTHIN_TRY(on.write(0, 0, 15 * mebibyte));
    UTHIN_TRY(on.snapshot(1, 0));
    UTHIN_TRY(on.grow(3 * mebibyte + 4096, 96 * mebibyte));
    UTHIN_TRY(on.write(0, 10 * mebibyte, 40 * mebibyte));
    UTHIN_TRY(on.grow(9 * mebibyte, 160 * mebibyte));
    UTHIN_TRY(on.write(1, 0, 60 * mebibyte));
    return {};
}

result<void> metadata_snapshot_held(modelled_pool& on) {
    UTHIN_TRY(on.make(128, 4 * mebibyte, 96 * mebibyte));
    UTHIN_TRY(on.create(0, 16 * mebibyte));
    UTHIN_TRY(on.write_anywhere(0, 40));
    UTHIN_TRY(on.create(1, 16 * mebibyte));
    UTHIN_TRY(on.write_anywhere(1, 40));
    UTHIN_TRY(on.engine().reserve_metadata_snap());
    UTHIN_TRY(on.write_anywhere(0, 40));
    UTHIN_TRY(on.snapshot(2, 0));
    UTHIN_TRY(on.remove(1));
    return on.write_anywhere(2, 10);
}

result<void> nearly_full(modelled_pool& on) {
    UTHIN_TRY(on.make(128, 2 * mebibyte, 32 * mebibyte));
    UTHIN_TRY(on.create(0, 48 * mebibyte));
    UTHIN_TRY(on.write(0, 0, 30 * mebibyte));
    UTHIN_TRY(on.snapshot(1, 0));
    const std::uint64_t block_bytes = on.block_bytes();
    for (std::uint64_t block = 0;; ++block) {  // whole blocks, so that one is written or not
        if (auto done = on.write(0, block * block_bytes, block_bytes); !done) {
            if (done.error().code() != error_code::no_data_space) {
                return done;
            }
            break;
        }
    }
    return on.write(0, 3, 1000);  // into a block that is ours alone
}

result<void> many_devices(modelled_pool& on) {
    UTHIN_TRY(on.make(128, 8 * mebibyte, 64 * mebibyte));
    for (std::uint64_t id = 0; id < 200; ++id) {
        UTHIN_TRY(on.create(id * 3, 1 * mebibyte));
        UTHIN_TRY(on.write_anywhere(id * 3, 1 + on.random().below(2)));
    }
    for (std::uint64_t id = 0; id < 100; ++id) {
        UTHIN_TRY(on.snapshot((1 << 24) - 1 - id, id * 6));
    }
    return {};
}

result<void> discards(modelled_pool& on) {
    UTHIN_TRY(on.make(128, 4 * mebibyte, 128 * mebibyte));
    UTHIN_TRY(on.create(0, 24 * mebibyte));
    UTHIN_TRY(on.write(0, 0, 24 * mebibyte));
    UTHIN_TRY(on.snapshot(1, 0));
    for (int i = 0; i < 12; ++i) {
        const std::uint64_t offset = on.random().below(20 * mebibyte);
        UTHIN_TRY(on.discard(0, offset, on.random().below(mebibyte)));
        const std::uint64_t zeroes = on.random().below(20 * mebibyte);
        UTHIN_TRY(on.write_zeroes(1, zeroes, 1 + on.random().below(mebibyte), i % 2 == 0));
        UTHIN_TRY(on.write_anywhere(0, 1));
    }
    UTHIN_TRY(on.create(2, 8 * mebibyte));
    UTHIN_TRY(on.write(2, 0, 8 * mebibyte));
    return on.discard(2, 0, 8 * mebibyte);
}

result<void> rolled_back(modelled_pool& on) {
    UTHIN_TRY(on.make(128, 4 * mebibyte, 128 * mebibyte));
    UTHIN_TRY(on.create(0, 24 * mebibyte));
    UTHIN_TRY(on.write_anywhere(0, 60));
    UTHIN_TRY(on.snapshot(1, 0));
    UTHIN_TRY(on.write_anywhere(0, 60));
    UTHIN_TRY(on.snapshot(2, 0));
    UTHIN_TRY(on.rollback(0, 1, 100));
    UTHIN_TRY(on.write_anywhere(0, 20));
    UTHIN_TRY(on.rollback(0, 2, 100));
    return on.write_anywhere(1, 20);
}

struct recipe {
    const char* name;
    result<void> (*fill)(modelled_pool&);
};
constexpr recipe recipes[] = {
    {"blocks-64k", blocks_64k},
    {"blocks-192k", blocks_192k},
    {"blocks-1024k", blocks_1024k},
    {"snapshots-of-snapshots", snapshots_of_snapshots},
    {"deletes-and-reuse", deletes_and_reuse},
    {"resized", resized},
    {"metadata-snapshot-held", metadata_snapshot_held},
    {"nearly-full", nearly_full},
    {"many-devices", many_devices},
    {"discards", discards},
    {"rolled-back", rolled_back},
};

result<void> make(const fs::path& folder) {
    std::uint64_t seed = 1;
    for (const recipe& next : recipes) {
        modelled_pool made(folder / next.name, seed++);
        UTHIN_TRY_CTX(next.fill(made), next.name);
        UTHIN_TRY_CTX(made.finish(), next.name);
    }
    return {};
}

result<void> read(const std::string& metadata, const std::string& data, std::uint64_t id,
                  std::uint64_t sectors) {
    const auto opened =
        UTHIN_TRY(pool::open(UTHIN_TRY(io::file_device::open(metadata, {})),
                             UTHIN_TRY(io::file_device::open(data, {})), {}, system_clock()));
    const std::uint64_t size_bytes = sectors * sector_size_bytes;
    const auto thin = UTHIN_TRY(opened->open_volume(device_id(id), size_bytes));
    std::vector<std::byte> buffer(mebibyte);
    for (std::uint64_t at = 0; at < size_bytes; at += buffer.size()) {
        const auto piece =
            std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), size_bytes - at));
        UTHIN_TRY(thin->read(at, piece));
        if (std::fwrite(piece.data(), 1, piece.size(), stdout) != piece.size()) {
            return fail(error_code::io_error, "stdout");
        }
    }
    return {};
}

result<void> run(const std::vector<std::string>& words) {
    if (words.size() == 2 && words[0] == "make") {
        return make(words[1]);
    }
    if (words.size() == 5 && words[0] == "read") {
        return read(words[1], words[2], std::stoull(words[3]), std::stoull(words[4]));
    }
    return fail(error_code::invalid_argument,
                "usage: make DIR | read METADATA DATA ID SECTORS > CONTENT");
}

}  // namespace
}  // namespace uthin::test

int main(int argc, char** argv) {
    const auto done = uthin::test::run({argv + 1, argv + argc});
    if (!done) {
        fmt::print(stderr, "uthin-test-pools: {}\n", done.error().to_string());
    }
    return done ? 0 : 1;
}
