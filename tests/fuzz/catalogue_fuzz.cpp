// The bytes of a catalogue: what it says is read, changed, and read again.
//
// The file is written down like a metadata image (image_input.h), with pages for blocks; parameters
// decide on the changes.
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "fuzz/image_input.h"
#include "pool/catalogue.h"
#include "support/temporary_directory.h"

namespace uthin::fuzz {
namespace {

constexpr const char* pool_uuid = "6e0bb2a6-3a0d-4d4e-9f3c-00000000f022";

std::string file_path() {
    static const auto folder = test::temporary_directory::in_memory();
    return folder.path() / "catalog.db";
}

void remove_files() {
    for (const char* ending : {"", "-journal", "-wal", "-shm"}) {
        std::filesystem::remove(file_path() + ending);
    }
}

volume_record record_of(std::uint64_t id, const std::string& name) {
    volume_record record;
    record.uuid = "5d0bb2a6-3a0d-4d4e-9f3c-" + std::to_string(100'000'000'000 + id);
    record.identity = {device_id(id), 1, 2};
    record.name = name;
    record.size_bytes = 1U << 20;
    record.labels = {{"k", "v"}};
    return record;
}

bool is_told(result<std::vector<volume_record>>&& volumes, const volume_record& wanted) {
    return volumes && std::ranges::find(*volumes, wanted) != volumes->end();
}

void change(catalogue& names, decisions& choose) {
    const auto known = names.read_all();
    if (!known) {
        return;
    }
    (void)names.lease();
    (void)names.limited_volumes();
    for (const volume_record& volume : known->volumes) {
        (void)names.find_uuid(volume.uuid);
        (void)names.find_device(volume.identity.id);
    }
    volume_record made = record_of(choose.below(1000), "made");
    std::vector<intent> wanted(1);
    wanted[0].kind = intent_kind::create;
    wanted[0].volume = made;
    if (!names.begin(wanted)) {
        return;
    }
    const std::vector<intent_outcome> outcomes = {{wanted[0], choose.below(4) != 0}};
    if (!names.resolve(outcomes)) {
        return;
    }
    require(is_told(names.volumes(), made) == outcomes[0].happened,
            "a volume is there when its creation happened");
    if (outcomes[0].happened && names.rename(made.uuid, "renamed")) {
        made.name = "renamed";
        require(is_told(names.volumes(), made), "a volume has its new name");
    }
    if (!known->intents.empty()) {
        (void)names.forget(known->intents[0].number);
    }
    (void)names.set_lease(metadata_snapshot_lease{"me", 5});
}

void run(std::span<const std::byte> input) {
    const image_input image = decode_image(input);
    decisions choose(image.parameters);
    bytes content(image.device_blocks * metadata_block_size_bytes);
    image.image.read(0, content);
    remove_files();
    {
        std::ofstream file(file_path(), std::ios::binary);
        file << text_of(content);
        require(file.flush().good(), "the catalogue's file is written");
    }
    {
        const auto read =
            catalogue::open(file_path(), pool_uuid, {.read_only = true, .vfs_name = {}});
        if (read) {
            (void)(*read)->read_all();
        }
    }
    const auto names = catalogue::open(file_path(), pool_uuid, {});
    if (names) {
        change(**names, choose);
    }
}

std::vector<bytes> seeds() {
    remove_files();
    {
        const auto names =
            require_ok(catalogue::create(file_path(), pool_uuid, {}), "making a catalogue");
        std::vector<intent> intents(2);
        intents[0].kind = intent_kind::create;
        intents[0].volume = record_of(1, "vol");
        intents[1].kind = intent_kind::reap;
        intents[1].hidden = {device_id(7), 1, 1};
        require_ok(names->begin(intents), "intents");
        const std::vector<intent_outcome> outcomes = {{intents[0], true}};
        require_ok(names->resolve(outcomes), "an outcome");
        require_ok(names->set_limits(intents[0].volume.uuid, 65536, 1U << 20), "limits");
    }
    std::ifstream file(file_path(), std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(file), {}};
    image_input image;
    image.device_blocks = content.size() / metadata_block_size_bytes;
    image.image = io::sparse_image(content.size());
    image.image.write(0, std::as_bytes(std::span(content)));
    for (std::uint64_t where = 0; where < image.device_blocks; ++where) {
        image.blocks[where] = {};
    }
    image.parameters = {std::byte{9}, std::byte{1}};
    return {encode_image(image)};
}

bytes mutate(std::span<const std::byte> input, random_generator& random) {
    if (random.one_in(3)) {
        return mutated_bytes(input, random);
    }
    image_input image = decode_image(input);
    if (image.blocks.empty()) {
        return mutated_bytes(input, random);
    }
    for (std::uint64_t left = 1 + random.below(3); left != 0; --left) {
        // Headers of pages, cells behind them, or anywhere.
        auto at = image.blocks.begin();
        std::advance(at, random.below(image.blocks.size()));
        const std::uint64_t within = random.one_in(2) ? random.below(120) : random.below(4096);
        const auto byte = static_cast<std::byte>(random.below(256));
        image.image.write(at->first * metadata_block_size_bytes + within, std::span(&byte, 1));
    }
    return encode_image(image);
}

const registration made({"catalogue", run, seeds, mutate, 60});

}  // namespace
}  // namespace uthin::fuzz
