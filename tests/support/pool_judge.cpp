#include "support/pool_judge.h"

#include <cstring>
#include <set>

#include <fmt/format.h>

#include "base/result.h"
#include "support/pool_rig.h"

namespace uthin::test {
namespace {

constexpr std::uint64_t probe_id = 77;

result<pool_state> clean_state(block_device& device) {
    const auto view = UTHIN_TRY(thin_metadata::open_offline(device, {}));
    pool_state state = UTHIN_TRY(read_state(*view, &device));
    if (std::string text = check_complaint(*view); !text.empty()) {
        return fail(error_code::corrupt, text);
    }
    state.needs_check = false;
    return state;
}

std::uint64_t used_blocks(const pool_state& state) {
    std::set<std::uint64_t> used;
    for (const auto& [id, device] : state.devices) {
        for (const auto& [at, mapping] : device.mappings) {
            used.insert(mapping.data);
        }
    }
    return used.size();
}

result<std::vector<std::byte>> content_of(pool& from, std::uint64_t id, const judge_options& how) {
    const std::uint64_t size_bytes = how.volume_blocks * how.block_bytes;
    const auto opened = UTHIN_TRY(from.open_volume(device_id(id), size_bytes));
    if (id == how.main_id) {
        return sectors_of(*opened, 0, size_bytes);
    }
    std::vector<std::byte> ends;
    for (std::uint64_t at = 0; at < size_bytes; at += how.block_bytes) {
        const std::uint64_t last = at + how.block_bytes - sector_size_bytes;
        ends.push_back(UTHIN_TRY(sectors_of(*opened, at, sector_size_bytes)).front());
        ends.push_back(UTHIN_TRY(sectors_of(*opened, last, sector_size_bytes)).front());
    }
    return ends;
}

}  // namespace

result<std::vector<std::byte>> sectors_of(volume& of, std::uint64_t offset_bytes,
                                          std::uint64_t length_bytes) {
    std::vector<std::byte> found(length_bytes);
    UTHIN_TRY(of.read(offset_bytes, found));
    std::vector<std::byte> tags;
    for (std::uint64_t at = 0; at < length_bytes; at += sector_size_bytes) {
        const std::byte* const begin = found.data() + at;
        if (std::memcmp(begin, begin + 1, sector_size_bytes - 1) != 0) {
            return fail(error_code::corrupt, fmt::format("torn sector at {}", offset_bytes + at));
        }
        tags.push_back(*begin);
    }
    return tags;
}

result<judged_pool> judge_pool(block_device& metadata_device, block_device& data_device,
                               const judge_options& how) {
    judged_pool found;
    found.metadata = UTHIN_TRY(clean_state(metadata_device));
    const auto opened =
        UTHIN_TRY(pool::open(std::make_unique<borrowed_device>(metadata_device),
                             std::make_unique<borrowed_device>(data_device), {}, system_clock()));
    const pool_status status = UTHIN_TRY(opened->status());
    if (status.data_used_blocks != used_blocks(found.metadata)) {
        return fail(error_code::corrupt, "data blocks have leaked");
    }
    if (status.mode != (status.needs_check ? pool_mode::read_only : pool_mode::write)) {
        return fail(error_code::corrupt, "opened in another mode than needs_check says");
    }
    for (const auto& [id, device] : found.metadata.devices) {
        found.data[id] = UTHIN_TRY(content_of(*opened, id, how));
    }
    if (status.needs_check) {
        UTHIN_TRY(opened->clear_needs_check());
    }
    UTHIN_TRY(opened->create_thin(device_id(probe_id)));
    UTHIN_TRY(opened->close());
    return found;
}

}  // namespace uthin::test
