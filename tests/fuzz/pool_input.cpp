#include "fuzz/pool_input.h"

#include <filesystem>
#include <fstream>

#include <fmt/format.h>

#include "io/memory_device.h"
#include "support/pool_rig.h"
#include "support/round_trip.h"
#include "support/temporary_directory.h"

namespace uthin::fuzz {

namespace {

constexpr const char* pool_uuid = "6e0bb2a6-3a0d-4d4e-9f3c-00000000f022";
constexpr std::uint64_t metadata_blocks = 256;
constexpr std::uint64_t data_bytes = 64ULL << 16;

const std::string& folder() {
    static const auto made = test::temporary_directory::in_memory();
    static const std::string path = made.path();
    return path;
}

std::string catalogue_path() {
    return folder() + "/catalog.db";
}

std::unique_ptr<pool_directory> opened(block_device& metadata, block_device& data) {
    directory_parts parts;
    parts.directory = folder();
    parts.file.uuid = pool_uuid;
    parts.file.error_if_no_space = true;
    parts.devices.metadata = std::make_unique<test::borrowed_device>(metadata);
    parts.devices.data = std::make_unique<test::borrowed_device>(data);
    parts.names = require_ok(catalogue::open(catalogue_path(), pool_uuid, {}), "the catalogue");
    directory_options options;
    options.open_origin = [](const std::string&, bool) -> result<std::unique_ptr<block_device>> {
        return any_origin();
    };
    options.pool.metadata_cache_bytes = 1U << 20;
    options.pool.mapping_cache_entries = 64;
    return require_ok(pool_directory::assemble(std::move(parts), options, system_clock()),
                      "the pool of a target");
}

struct pool_images {
    io::sparse_image metadata;
    io::sparse_image data;
    std::string catalogue;
};

void fill(pool_directory& pool) {
    create_volume_request request;
    request.name = "vol";
    request.size_bytes = 1U << 20;
    require_ok(pool.create_volume(request), "a volume");
    {
        const auto volume = require_ok(pool.open_volume("vol", false), "opening the volume");
        const bytes piece(4096, std::byte{0x55});
        for (const std::uint64_t at : {0U, 4096U, 65536U, 983040U}) {
            require_ok(volume->write(at, piece, true), "writing to the volume");
        }
    }
    create_snapshots_request snapshots;
    snapshots.snapshots = {{"vol", "vol@1"}};
    require_ok(pool.create_snapshots(snapshots), "a snapshot");
    request.name = "other";
    require_ok(pool.create_volume(request), "another volume");
}

pool_images make_images() {
    io::image_device metadata("metadata",
                              io::sparse_image(metadata_blocks * metadata_block_size_bytes));
    io::image_device data("data", io::sparse_image(data_bytes));
    auto formatted =
        require_ok(pool::open(std::make_unique<test::borrowed_device>(metadata),
                              std::make_unique<test::borrowed_device>(data),
                              {.format = true, .data_block_size_sectors = 128}, system_clock()),
                   "formatting the pool of a target");
    require_ok(formatted->close(), "closing the formatted pool");
    formatted.reset();
    std::filesystem::remove(catalogue_path());
    require_ok(catalogue::create(catalogue_path(), pool_uuid, {}), "making the catalogue");
    const auto pool = opened(metadata, data);
    fill(*pool);
    require_ok(pool->close(), "closing the pool");
    std::ifstream file(catalogue_path(), std::ios::binary);
    return {metadata.image(), data.image(), {std::istreambuf_iterator<char>(file), {}}};
}

const pool_images& images() {
    static const pool_images made = make_images();
    return made;
}

void put_catalogue() {
    std::filesystem::remove(catalogue_path() + "-journal");
    std::ofstream file(catalogue_path(), std::ios::binary | std::ios::trunc);
    file << images().catalogue;
    require(file.flush().good(), "the catalogue's file is written");
}

}  // namespace

std::unique_ptr<block_device> any_origin() {
    return std::make_unique<io::memory_device>(1U << 20, "origin");
}

pool_input::pool_input() : metadata_("metadata", images().metadata), data_("data", images().data) {
    put_catalogue();
    pool_ = opened(metadata_, data_);
    service_ = make_pool_service(*pool_);
}

pool_input::~pool_input() {
    service_.reset();
    const auto closed = pool_->close();
    require(closed.has_value(), "the pool can be closed");
    pool_.reset();
    require(require_ok(test::is_accepted(metadata_), "the pool is checked"),
            "the pool's metadata is sound");
}

std::string pool_input::appearance() {
    std::string text;
    for (const volume_info& volume : require_ok(service_->list_volumes(), "the list of volumes")) {
        text += fmt::format("{} {} {} {} {} {} {} {} {} {}\n", volume.name, volume.uuid,
                            volume.dev_id, volume.size_bytes, volume.mapped_bytes,
                            volume.reserved_bytes, volume.limit_bytes, volume.parent,
                            volume.creation_time, volume.labels.size());
        for (const auto& [key, value] : volume.labels) {
            text += fmt::format("  {}={}\n", key, value);
        }
    }
    for (const transfer_info& transfer :
         require_ok(service_->list_transfers(), "the list of transfers")) {
        text += fmt::format("transfer {} {} {} {}\n", transfer.id, transfer.name,
                            transfer.size_bytes, transfer.notes.size());
    }
    return text +
           fmt::format("used {}\n", require_ok(service_->status(), "the pool").data_used_blocks);
}

bytes pool_input::content(const std::string& name) {
    const auto volume = require_ok(pool_->open_volume(name, true), "opening a volume");
    bytes all(volume->size_bytes());
    require_ok(volume->read(0, all), "reading a volume");
    return all;
}

}  // namespace uthin::fuzz
