#include "frontends/since_export.h"

#include <algorithm>

#include "base/result.h"

namespace uthin::frontends {

namespace {

constexpr std::string_view word = "@since-";

// Fills a range from its begin with data where it is told to, and holes between.
class extent_filler {
public:
    extent_filler(std::uint64_t begin_bytes, std::uint64_t end_bytes)
        : begin_bytes_(begin_bytes), end_bytes_(end_bytes) {}

    // Ascending, but may overlap what was added before.
    void add_data(std::uint64_t begin, std::uint64_t end) {
        begin = std::clamp(begin, begin_bytes_, end_bytes_);
        end = std::min(end, end_bytes_);
        if (begin >= end) {
            return;
        }
        add(begin, extent_kind::hole);
        add(end, extent_kind::data);
    }
    std::vector<volume_extent> finish(std::uint64_t known_until_bytes) {
        add(std::clamp(known_until_bytes, begin_bytes_, end_bytes_), extent_kind::hole);
        return std::move(extents_);
    }

private:
    void add(std::uint64_t end, extent_kind kind) {
        if (end <= begin_bytes_) {
            return;
        }
        if (!extents_.empty() && extents_.back().kind == kind) {
            extents_.back().length_bytes += end - begin_bytes_;
        } else {
            extents_.push_back({begin_bytes_, end - begin_bytes_, kind});
        }
        begin_bytes_ = end;
    }

    std::uint64_t begin_bytes_;
    const std::uint64_t end_bytes_;
    std::vector<volume_extent> extents_;
};

}  // namespace

std::vector<since_name> since_names(const std::string& name) {
    std::vector<since_name> found;
    for (std::size_t at = name.find(word); at != std::string::npos; at = name.find(word, at + 1)) {
        found.push_back({name.substr(0, at), name.substr(at + word.size())});
    }
    return found;
}

result<std::vector<volume_extent>> extents_since(
    const std::function<result<diff_reply>(const diff_request&)>& diff, diff_request sides,
    std::uint64_t offset_bytes, std::uint64_t length_bytes, std::size_t extents_max) {
    sides.offset_bytes = offset_bytes;
    sides.ranges_max = std::max<std::size_t>(extents_max / 2, 1);
    const diff_reply found = UTHIN_TRY(diff(sides));
    // The block in which a smaller A ends: what lies behind that end was never part of it.
    const std::uint64_t seam_begin = found.from_size_bytes;
    const std::uint64_t into_block = seam_begin % found.block_size_bytes;
    const std::uint64_t seam_end =
        into_block == 0 ? seam_begin : seam_begin - into_block + found.block_size_bytes;
    bool seam_added = false;
    extent_filler filler(offset_bytes, offset_bytes + length_bytes);
    for (const changed_range& range : found.ranges) {
        if (!seam_added && range.offset_bytes >= seam_begin) {
            filler.add_data(seam_begin, seam_end);
            seam_added = true;
        }
        filler.add_data(range.offset_bytes, range.offset_bytes + range.length_bytes);
    }
    const std::uint64_t known_until_bytes = found.next_offset_bytes.value_or(UINT64_MAX);
    if (!seam_added && seam_begin < known_until_bytes) {
        filler.add_data(seam_begin, seam_end);
    }
    auto extents = filler.finish(known_until_bytes);
    if (extents.size() > extents_max) {
        extents.resize(extents_max);
    }
    return extents;
}

}  // namespace uthin::frontends
