#include "thin_metadata/xml_reader.h"

#include <expat.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <string>

#include <fmt/format.h>

#include "thin_metadata/superblock.h"

namespace uthin::thin_metadata {

namespace {

constexpr int chunk_bytes = 64 << 10;
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

// The attributes of one element.
class attribute_list {
public:
    attribute_list(std::string_view element, const char** pairs) noexcept
        : element_(element), pairs_(pairs) {}

    [[nodiscard]] result<void> expect_only(std::initializer_list<std::string_view> known) const {
        for (const char** pair = pairs_; *pair != nullptr; pair += 2) {
            if (std::find(known.begin(), known.end(), std::string_view(*pair)) == known.end()) {
                return invalid(
                    fmt::format("<{}> has the unknown attribute '{}'", element_, shown(*pair)));
            }
        }
        return {};
    }
    [[nodiscard]] bool has(std::string_view name) const noexcept { return find(name) != nullptr; }
    [[nodiscard]] result<std::string_view> text(std::string_view name) const {
        const char* value = find(name);
        if (value == nullptr) {
            return invalid(fmt::format("<{}> lacks the attribute '{}'", element_, name));
        }
        return std::string_view(value);
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
    [[nodiscard]] const char* find(std::string_view name) const noexcept {
        for (const char** pair = pairs_; *pair != nullptr; pair += 2) {
            if (name == *pair) {
                return pair[1];
            }
        }
        return nullptr;
    }

    std::string_view element_;
    const char** pairs_;
};

class reader {
public:
    reader(mapping_sink& sink, const xml_read_options& options) : sink_(sink), options_(options) {}

    [[nodiscard]] result<void> read(const text_input& input);

private:
    enum class place : std::uint8_t { before, pool, shared, device, mapping, after };
    struct free_parser {
        void operator()(XML_ParserStruct* parser) const noexcept { XML_ParserFree(parser); }
    };
    // The virtual blocks of a shared piece; empty: end == 0.
    struct extent {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
    };

    static void on_start(void* self, const char* name, const char** pairs);
    static void on_end(void* self, const char* name);
    static void on_text(void* self, const char* text, int length);
    static void on_doctype(void* self, const char*, const char*, const char*, int);
    template <class Action>
    void guard(Action&& action) noexcept;

    [[nodiscard]] result<void> start(std::string_view name, const char** pairs);
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
    [[nodiscard]] error positioned(error at_fault) const;

    mapping_sink& sink_;
    const xml_read_options& options_;
    std::unique_ptr<XML_ParserStruct, free_parser> parser_;
    std::optional<error> failure_;
    bool failed_in_sink_ = false;
    place place_ = place::before;
    place mapping_parent_ = place::device;
    std::uint64_t data_blocks_ = 0;
    extent open_;  // of the device or shared piece that is being read
    std::string shared_name_;
    std::map<std::string, extent, std::less<>> shared_;
    std::set<std::uint32_t> devices_;
};

error reader::positioned(error at_fault) const {
    return std::move(at_fault).with_context(
        fmt::format("line {}, column {}", XML_GetCurrentLineNumber(parser_.get()),
                    XML_GetCurrentColumnNumber(parser_.get()) + 1));
}

result<void> reader::send(result<void> outcome) {
    failed_in_sink_ = !outcome;
    return outcome;
}

// The parser is C code: no exception may pass through it.
template <class Action>
void reader::guard(Action&& action) noexcept {
    if (failure_) {
        return;
    }
    try {
        result<void> outcome = action();
        if (!outcome) {
            failure_ = failed_in_sink_ ? std::move(outcome).error()
                                       : positioned(std::move(outcome).error());
        }
    } catch (const std::bad_alloc&) {
        failure_.emplace(error_code::out_of_memory, std::string());
    }
    if (failure_) {
        XML_StopParser(parser_.get(), XML_FALSE);
    }
}

void reader::on_start(void* self, const char* name, const char** pairs) {
    auto* at = static_cast<reader*>(self);
    at->guard([&] { return at->start(name, pairs); });
}

void reader::on_end(void* self, const char* /*name*/) {
    auto* at = static_cast<reader*>(self);
    at->guard([&] { return at->end(); });
}

void reader::on_text(void* self, const char* text, int length) {
    auto* at = static_cast<reader*>(self);
    at->guard([&]() -> result<void> {
        const std::string_view all(text, static_cast<std::size_t>(length));
        const std::size_t word = all.find_first_not_of(" \t\r\n");
        if (word != std::string_view::npos) {
            return invalid(fmt::format("text '{}' between elements", shown(all.substr(word))));
        }
        return {};
    });
}

void reader::on_doctype(void* self, const char*, const char*, const char*, int) {
    auto* at = static_cast<reader*>(self);
    at->guard([&] { return result<void>(invalid("a document type is not allowed here")); });
}

result<void> reader::read(const text_input& input) {
    parser_.reset(XML_ParserCreate(nullptr));
    if (parser_ == nullptr) {
        return fail(error_code::out_of_memory, "XML parser");
    }
    XML_SetUserData(parser_.get(), this);
    XML_SetElementHandler(parser_.get(), on_start, on_end);
    XML_SetCharacterDataHandler(parser_.get(), on_text);
    XML_SetStartDoctypeDeclHandler(parser_.get(), on_doctype);
    bool is_last = false;
    while (!is_last) {
        auto* buffer = static_cast<char*>(XML_GetBuffer(parser_.get(), chunk_bytes));
        if (buffer == nullptr) {
            return fail(error_code::out_of_memory, "XML parser");
        }
        const std::size_t got = UTHIN_TRY(input(std::span<char>(buffer, chunk_bytes)));
        is_last = got == 0;
        const XML_Status status =
            XML_ParseBuffer(parser_.get(), static_cast<int>(got), is_last ? XML_TRUE : XML_FALSE);
        if (failure_) {
            return std::unexpected(std::move(*failure_));
        }
        if (status != XML_STATUS_OK) {
            return std::unexpected(
                positioned(error(error_code::invalid_argument,
                                 is_last && place_ != place::after
                                     ? "the text ends before </superblock>"
                                     : XML_ErrorString(XML_GetErrorCode(parser_.get())))));
        }
    }
    return {};
}

result<void> reader::start(std::string_view name, const char** pairs) {
    const attribute_list given(name, pairs);
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
    pool.data_blocks = options_.data_blocks.value_or(pool.data_blocks);
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
        if (piece->second.begin < open_.end) {
            return invalid(
                fmt::format("<ref name=\"{}\"> begins at block {}, but the blocks "
                            "before {} were given already",
                            shown(name), piece->second.begin, open_.end));
        }
        open_.end = piece->second.end;
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
    if (count == 0 || count > UINT64_MAX - begin) {
        return invalid(fmt::format("a run of {} blocks from {}", count, begin));
    }
    if (data_begin >= data_blocks_ || count > data_blocks_ - data_begin) {
        return invalid(fmt::format("{} data blocks from {}, but the pool has {}", count, data_begin,
                                   data_blocks_));
    }
    if (begin < open_.end) {
        return invalid(
            fmt::format("block {} is out of order: the blocks before {} were given "
                        "already",
                        begin, open_.end));
    }
    if (open_.end == 0) {
        open_.begin = begin;
    }
    open_.end = begin + count;
    mapping_parent_ = std::exchange(place_, place::mapping);
    return send(sink_.run({.begin = virtual_block(begin),
                           .data_begin = data_block(data_begin),
                           .count = count,
                           .time = time}));
}

// The parser itself sees to it that tags match.
result<void> reader::end() {
    switch (place_) {
        case place::mapping: place_ = mapping_parent_; return {};
        case place::shared:
            shared_.emplace(shared_name_, open_);
            place_ = place::pool;
            return send(sink_.end_shared());
        case place::device: place_ = place::pool; return send(sink_.end_device());
        default: place_ = place::after; return send(sink_.end_pool());
    }
}

}  // namespace

result<void> read_xml(const text_input& input, mapping_sink& sink,
                      const xml_read_options& options) {
    return reader(sink, options).read(input);
}

}  // namespace uthin::thin_metadata
