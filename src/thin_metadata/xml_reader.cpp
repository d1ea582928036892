#include "thin_metadata/xml_reader.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>
#include <map>
#include <set>
#include <string>

#include <fmt/format.h>

#include "base/out_of_memory.h"
#include "thin_metadata/superblock.h"

namespace uthin::thin_metadata {

namespace {

constexpr std::size_t shown_bytes_max = 60;

// Foreign text within a message: one line, not too long.
std::string shown(std::string_view text) {
    std::string out;
    for (const char c : text.substr(0, shown_bytes_max)) {
        out += static_cast<unsigned char>(c) < ' ' ? '?' : c;
    }
    return text.size() > shown_bytes_max ? out + "..." : out;
}

std::unexpected<error> invalid(std::string message) {
    return fail(error_code::invalid_argument, std::move(message));
}

// The attributes of one element. They nearly always come in the order in which they are asked for.
class attribute_list {
public:
    attribute_list(std::string_view element, std::span<const xml_scanner::attribute> given) noexcept
        : element_(element), given_(given) {}

    [[nodiscard]] result<void> expect_only(std::initializer_list<std::string_view> known) const {
        const auto* expected = known.begin();
        for (const auto& [name, value] : given_) {
            if (expected == known.end() || *expected != name) {
                expected = std::find(known.begin(), known.end(), name);
            }
            if (expected == known.end()) {
                return invalid(
                    fmt::format("<{}> has the unknown attribute '{}'", element_, shown(name)));
            }
            ++expected;
        }
        return {};
    }
    [[nodiscard]] bool has(std::string_view name) const noexcept { return find(name) != nullptr; }
    [[nodiscard]] result<std::string_view> text(std::string_view name) const {
        const std::string_view* const value = find(name);
        if (value == nullptr) {
            return invalid(fmt::format("<{}> lacks the attribute '{}'", element_, name));
        }
        return *value;
    }
    // Decimal digits only.
    [[nodiscard]] result<std::uint64_t> number(std::string_view name, std::uint64_t most) const {
        const std::string_view digits = UTHIN_TRY(text(name));
        std::uint64_t value = 0;
        const char* last = digits.data() + digits.size();
        const auto [end, failure] = std::from_chars(digits.data(), last, value);
        if (failure != std::errc() || end != last || value > most) {
            return invalid(fmt::format("<{}>: {}=\"{}\" is not a number from 0 to {}", element_,
                                       name, shown(digits), most));
        }
        return value;
    }
    [[nodiscard]] result<std::uint32_t> number32(std::string_view name,
                                                 std::uint32_t most = UINT32_MAX) const {
        return static_cast<std::uint32_t>(UTHIN_TRY(number(name, most)));
    }

private:
    [[nodiscard]] const std::string_view* find(std::string_view name) const noexcept {
        for (std::size_t tries = 0; tries < given_.size(); ++tries) {
            next_ = next_ < given_.size() ? next_ : 0;
            const auto& [known, value] = given_[next_++];
            if (known == name) {
                return &value;
            }
        }
        return nullptr;
    }

    std::string_view element_;
    std::span<const xml_scanner::attribute> given_;
    mutable std::size_t next_ = 0;  // where the search begins
};

class reader {
public:
    reader(const text_input& input, mapping_sink& sink, const xml_read_options& options)
        : text_(input), sink_(sink), options_(options) {}

    [[nodiscard]] result<void> read();

private:
    enum class place : std::uint8_t { before, pool, shared, device, mapping, after };
    // The virtual blocks of a shared piece; empty: end == 0.
    struct extent {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;       // at most 2^64 - 1
        bool has_very_last = false;  // the block 2^64 - 1
        [[nodiscard]] bool reaches(std::uint64_t block) const noexcept {
            return has_very_last || block < end;
        }
    };

    [[nodiscard]] result<bool> take_mapping();
    [[nodiscard]] result<void> handle(xml_scanner::token found);
    [[nodiscard]] result<void> start();
    [[nodiscard]] result<void> start_pool(const attribute_list& given);
    [[nodiscard]] result<void> start_shared(const attribute_list& given);
    [[nodiscard]] result<void> start_device(const attribute_list& given);
    [[nodiscard]] result<void> start_reference(const attribute_list& given);
    [[nodiscard]] result<void> start_single(const attribute_list& given);
    [[nodiscard]] result<void> start_range(const attribute_list& given);
    [[nodiscard]] result<void> add_run(std::uint64_t begin, std::uint64_t data_begin,
                                       std::uint64_t count, std::uint32_t time);
    [[nodiscard]] result<void> end();
    // Errors of the text get their position; those of the sink pass as they are.
    [[nodiscard]] result<void> send(result<void> outcome);

    xml_scanner text_;
    mapping_sink& sink_;
    const xml_read_options& options_;
    bool failed_in_sink_ = false;
    place place_ = place::before;
    place mapping_parent_ = place::device;
    std::uint64_t data_blocks_ = 0;
    extent open_;  // of the device or shared piece that is being read
    std::string shared_name_;
    std::map<std::string, extent, std::less<>> shared_;
    std::set<std::uint32_t> devices_;
};

result<void> reader::send(result<void> outcome) {
    failed_in_sink_ = !outcome;
    return outcome;
}

// Mappings as every thin_dump writes them. False: the next element is something else.
result<bool> reader::take_mapping() {
    static constexpr std::array<std::string_view, 4> single = {
        "<single_mapping origin_block=\"", "\" data_block=\"", "\" time=\"", "\"/>"};
    static constexpr std::array<std::string_view, 5> several = {
        "<range_mapping origin_begin=\"", "\" data_begin=\"", "\" length=\"", "\" time=\"", "\"/>"};
    std::array<std::uint64_t, 4> numbers{};
    std::uint64_t count = 1;
    std::size_t length = text_.match(single, std::span(numbers).first(3));
    std::uint64_t time = numbers[2];
    if (length == 0) {
        length = text_.match(several, numbers);
        count = numbers[2];
        time = numbers[3];
    }
    if (length == 0 || time >= time_limit) {
        return false;
    }
    text_.pass(length);
    UTHIN_TRY(add_run(numbers[0], numbers[1], count, static_cast<std::uint32_t>(time)));
    place_ = mapping_parent_;
    return true;
}

result<void> reader::read() {
    while (true) {
        if (place_ == place::device || place_ == place::shared) {
            const auto taken = take_mapping();
            if (!taken) {
                return failed_in_sink_
                           ? std::unexpected(taken.error())
                           : std::unexpected(error(taken.error()).with_context(text_.position()));
            }
            if (*taken) {
                continue;
            }
        }
        const auto found = text_.next();
        if (!found) {
            const bool is_ours = found.error().code() == error_code::invalid_argument;
            return is_ours ? std::unexpected(error(found.error()).with_context(text_.position()))
                           : std::unexpected(found.error());
        }
        result<void> outcome = handle(*found);
        if (!outcome && !failed_in_sink_) {
            return std::unexpected(std::move(outcome).error().with_context(text_.position()));
        }
        if (!outcome || *found == xml_scanner::token::over) {
            return outcome;
        }
    }
}

result<void> reader::handle(xml_scanner::token found) {
    switch (found) {
        case xml_scanner::token::start: return start();
        case xml_scanner::token::end: return end();
        case xml_scanner::token::text:
            return invalid(fmt::format("text '{}' between elements", shown(text_.name())));
        case xml_scanner::token::over: break;
    }
    if (place_ != place::after) {
        return invalid("the text ends before </superblock>");
    }
    // What follows </superblock> may be an error still: only here has all of the pool been read.
    return send(sink_.end_pool());
}

result<void> reader::start() {
    const std::string_view name = text_.name();
    const attribute_list given(name, text_.attributes());
    if (place_ == place::before && name == "superblock") {
        return start_pool(given);
    }
    if (place_ == place::pool && name == "def") {
        return start_shared(given);
    }
    if (place_ == place::pool && name == "device") {
        return start_device(given);
    }
    if (place_ == place::device && name == "ref") {
        return start_reference(given);
    }
    if (place_ == place::device || place_ == place::shared) {
        if (name == "single_mapping") {
            return start_single(given);
        }
        if (name == "range_mapping") {
            return start_range(given);
        }
    }
    return invalid(fmt::format("<{}> is not expected here", shown(name)));
}

result<void> reader::start_pool(const attribute_list& given) {
    UTHIN_TRY(given.expect_only({"uuid", "time", "transaction", "flags", "version",
                                 "data_block_size", "nr_data_blocks", "metadata_snap"}));
    pool_header pool;
    // Its value is of no use: no released kernel or tool keeps one.
    (void)UTHIN_TRY(given.text("uuid"));
    pool.time = UTHIN_TRY(given.number32("time", time_limit - 1));
    pool.transaction_id = UTHIN_TRY(given.number("transaction", UINT64_MAX));
    if (given.has("flags")) {
        pool.flags = UTHIN_TRY(given.number32("flags"));
    }
    if (given.has("version")) {
        pool.version = UTHIN_TRY(given.number32("version"));
    }
    pool.data_block_size_sectors = UTHIN_TRY(given.number32("data_block_size"));
    UTHIN_TRY(check_data_block_size(pool.data_block_size_sectors));
    pool.data_blocks = UTHIN_TRY(given.number("nr_data_blocks", data_blocks_max));
    if (given.has("metadata_snap")) {
        (void)UTHIN_TRY(given.number("metadata_snap", UINT64_MAX));
    }
    pool.data_blocks = std::max(pool.data_blocks, options_.data_blocks.value_or(0));
    data_blocks_ = pool.data_blocks;
    place_ = place::pool;
    return send(sink_.begin_pool(pool));
}

result<void> reader::start_shared(const attribute_list& given) {
    UTHIN_TRY(given.expect_only({"name"}));
    const std::string_view name = UTHIN_TRY(given.text("name"));
    if (shared_.contains(name)) {
        return invalid(fmt::format("there are two <def name=\"{}\">", shown(name)));
    }
    shared_name_ = name;
    open_ = {};
    place_ = place::shared;
    return send(sink_.begin_shared(name));
}

result<void> reader::start_device(const attribute_list& given) {
    UTHIN_TRY(given.expect_only(
        {"dev_id", "mapped_blocks", "transaction", "creation_time", "snap_time"}));
    const std::uint32_t id = UTHIN_TRY(given.number32("dev_id"));
    thin_device_info device{.id = device_id(id), .details = {}};
    device.details.mapped_blocks = UTHIN_TRY(given.number("mapped_blocks", UINT64_MAX));
    device.details.transaction_id = UTHIN_TRY(given.number("transaction", UINT64_MAX));
    // Only the times of the pool and of mappings must fit into 24 bits.
    device.details.creation_time = UTHIN_TRY(given.number32("creation_time"));
    device.details.snapshotted_time = UTHIN_TRY(given.number32("snap_time"));
    if (!devices_.insert(id).second) {
        return invalid(fmt::format("there are two devices {}", id));
    }
    open_ = {};
    place_ = place::device;
    return send(sink_.begin_device(device));
}

result<void> reader::start_reference(const attribute_list& given) {
    UTHIN_TRY(given.expect_only({"name"}));
    const std::string_view name = UTHIN_TRY(given.text("name"));
    const auto piece = shared_.find(name);
    if (piece == shared_.end()) {
        return invalid(fmt::format("<ref name=\"{}\"> has no <def> before it", shown(name)));
    }
    if (piece->second.end != 0) {
        if (open_.reaches(piece->second.begin)) {
            return invalid(
                fmt::format("<ref name=\"{}\"> begins at block {}, but the blocks "
                            "before {} were given already",
                            shown(name), piece->second.begin, open_.end));
        }
        open_.end = piece->second.end;
        open_.has_very_last = piece->second.has_very_last;
    }
    mapping_parent_ = std::exchange(place_, place::mapping);
    return send(sink_.reference(name));
}

result<void> reader::start_single(const attribute_list& given) {
    UTHIN_TRY(given.expect_only({"origin_block", "data_block", "time"}));
    const std::uint64_t begin = UTHIN_TRY(given.number("origin_block", UINT64_MAX));
    const std::uint64_t data_begin = UTHIN_TRY(given.number("data_block", UINT64_MAX));
    return add_run(begin, data_begin, 1, UTHIN_TRY(given.number32("time", time_limit - 1)));
}

result<void> reader::start_range(const attribute_list& given) {
    UTHIN_TRY(given.expect_only({"origin_begin", "data_begin", "length", "time"}));
    const std::uint64_t begin = UTHIN_TRY(given.number("origin_begin", UINT64_MAX));
    const std::uint64_t data_begin = UTHIN_TRY(given.number("data_begin", UINT64_MAX));
    const std::uint64_t count = UTHIN_TRY(given.number("length", UINT64_MAX));
    return add_run(begin, data_begin, count, UTHIN_TRY(given.number32("time", time_limit - 1)));
}

result<void> reader::add_run(std::uint64_t begin, std::uint64_t data_begin, std::uint64_t count,
                             std::uint32_t time) {
    if (count == 0 || count - 1 > UINT64_MAX - begin) {
        return invalid(fmt::format("a run of {} blocks from {}", count, begin));
    }
    if (data_begin >= data_blocks_ || count > data_blocks_ - data_begin) {
        return invalid(fmt::format("{} data blocks from {}, but the pool has {}", count, data_begin,
                                   data_blocks_));
    }
    if (open_.reaches(begin)) {
        return invalid(
            fmt::format("block {} is out of order: the blocks before {} were given "
                        "already",
                        begin, open_.end));
    }
    if (open_.end == 0) {
        open_.begin = begin;
    }
    open_.has_very_last = count > UINT64_MAX - begin;
    open_.end = open_.has_very_last ? UINT64_MAX : begin + count;
    mapping_parent_ = std::exchange(place_, place::mapping);
    return send(sink_.run({.begin = virtual_block(begin),
                           .data_begin = data_block(data_begin),
                           .count = count,
                           .time = time}));
}

// The scanner sees to it that tags match.
result<void> reader::end() {
    switch (place_) {
        case place::mapping: place_ = mapping_parent_; return {};
        case place::shared:
            shared_.emplace(shared_name_, open_);
            place_ = place::pool;
            return send(sink_.end_shared());
        case place::device: place_ = place::pool; return send(sink_.end_device());
        default: place_ = place::after; return {};
    }
}

}  // namespace

result<void> read_xml(const text_input& input, mapping_sink& sink,
                      const xml_read_options& options) {
    return or_out_of_memory([&]() -> result<void> { return reader(input, sink, options).read(); });
}

}  // namespace uthin::thin_metadata
