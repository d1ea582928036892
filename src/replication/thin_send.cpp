#include "replication/thin_send.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/random.h"
#include "base/result.h"
#include "uthin/units.h"

namespace uthin::replication {

namespace {

constexpr std::uint64_t magic_1_1 = 0x24C4F02AAE2E4FA9;
constexpr std::uint64_t magic_1_0 = 0xCA7F00D5DE7EC7ED;
constexpr std::uint32_t optional_bit = 1U << 31;
constexpr std::size_t header_bytes = 28;
constexpr std::size_t end_bytes = 24;

enum class command : std::uint32_t { data = 0, unmap = 1, begin = 2, end = 3 };

template <class Number>
void store_be(std::byte* to, Number value) {
    for (std::size_t i = 0; i < sizeof value; ++i) {
        to[i] = static_cast<std::byte>(value >> (8 * (sizeof value - 1 - i)));
    }
}

template <class Number>
Number load_be(const std::byte* from) {
    Number value = 0;
    for (std::size_t i = 0; i < sizeof value; ++i) {
        value = static_cast<Number>(value << 8) | std::to_integer<Number>(from[i]);
    }
    return value;
}

std::unexpected<error> damaged(std::uint64_t record, std::string_view what) {
    return fail(error_code::corrupt,
                fmt::format("thin-send stream: record {} {}; send it again", record, what));
}

class thin_send_writer final : public content_writer {
public:
    explicit thin_send_writer(byte_sink& sink) : sink_(sink) {}

    result<void> begin() { return header(command::begin, 0, 0); }
    result<void> data(std::uint64_t offset_bytes, std::span<const std::byte> bytes) override {
        ++data_;
        UTHIN_TRY(header(command::data, offset_bytes, bytes.size()));
        return sink_.write(bytes);
    }
    result<void> zeros(std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
        ++unmaps_;
        return header(command::unmap, offset_bytes, length_bytes);
    }
    result<void> end() override {
        UTHIN_TRY(header(command::end, 0, end_bytes));
        std::array<std::byte, end_bytes> counts;
        store_be(counts.data(), records_);
        store_be(counts.data() + 8, data_);
        store_be(counts.data() + 16, unmaps_);
        return sink_.write(counts);
    }

private:
    result<void> header(command what, std::uint64_t offset_bytes, std::uint64_t length_bytes) {
        ++records_;
        std::array<std::byte, header_bytes> bytes;
        store_be(bytes.data(), magic_1_1);
        store_be(bytes.data() + 8, offset_bytes);
        store_be(bytes.data() + 16, length_bytes);
        store_be(bytes.data() + 24, static_cast<std::uint32_t>(what));
        return sink_.write(bytes);
    }

    byte_sink& sink_;
    std::uint64_t records_ = 0;
    std::uint64_t data_ = 0;
    std::uint64_t unmaps_ = 0;
};

class thin_send_reader final : public content_reader {
public:
    thin_send_reader(byte_source& source, const thin_send_facts& facts) : source_(source) {
        header_.to.id = make_uuid();
        header_.from = facts.from;
        header_.from_size_bytes = facts.from_size_bytes;
        header_.to_size_bytes = facts.size_bytes;
        header_.temporary = true;  // nothing lasting is known to have this content
    }

    [[nodiscard]] const stream_header& header() const noexcept override { return header_; }

    result<void> begin() {
        const record first = UTHIN_TRY(read_record());
        return first.what == command::begin && first.length_bytes == 0 ? result<void>()
                                                                       : damaged(0, "is no begin");
    }

    result<stream_record> next() override {
        if (data_left_bytes_ != 0) {
            return data_piece();
        }
        const record found = UTHIN_TRY(read_record());
        if (found.what == command::end) {
            UTHIN_TRY(check_end(found));
            return stream_record{};
        }
        const std::uint64_t size_bytes = header_.to_size_bytes;
        const bool inside = found.offset_bytes <= size_bytes &&
                            found.length_bytes <= size_bytes - found.offset_bytes;
        const bool whole = found.offset_bytes % sector_size_bytes == 0 &&
                           found.length_bytes % sector_size_bytes == 0;
        if (found.what == command::begin || !inside || !whole || found.length_bytes == 0) {
            return damaged(records_ - 1, "lies where none can lie; is --size right?");
        }
        if (found.what == command::unmap) {
            ++unmaps_;
            return stream_record{record_kind::zero, found.offset_bytes, found.length_bytes, {}};
        }
        ++data_;
        offset_bytes_ = found.offset_bytes;
        data_left_bytes_ = found.length_bytes;
        return data_piece();
    }

private:
    struct record {
        command what = command::end;
        std::uint64_t offset_bytes = 0;
        std::uint64_t length_bytes = 0;
    };

    result<void> read_exactly(std::span<std::byte> buffer) {
        if (UTHIN_TRY(source_.read(buffer)) != buffer.size()) {
            return damaged(records_, "is cut off: the stream ends early");
        }
        return {};
    }
    result<record> read_record() {
        while (true) {
            std::array<std::byte, header_bytes> bytes;
            UTHIN_TRY(read_exactly(bytes));
            const auto magic = load_be<std::uint64_t>(bytes.data());
            if (magic == magic_1_0) {
                return fail(error_code::unsupported,
                            "thin-send stream: of version 1.0, in which a cut goes unnoticed; use "
                            "thin_send 1.1");
            }
            const auto what = load_be<std::uint32_t>(bytes.data() + 24);
            const bool known = (what & ~optional_bit) <= static_cast<std::uint32_t>(command::end);
            if (magic != magic_1_1 || (!known && (what & optional_bit) == 0)) {
                return damaged(records_, "is none");
            }
            ++records_;
            if (known) {
                return record{static_cast<command>(what & ~optional_bit),
                              load_be<std::uint64_t>(bytes.data() + 8),
                              load_be<std::uint64_t>(bytes.data() + 16)};
            }
        }
    }
    result<stream_record> data_piece() {
        piece_.resize(std::min<std::uint64_t>(data_left_bytes_, data_bytes_max));
        UTHIN_TRY(read_exactly(piece_));
        const stream_record found{record_kind::data, offset_bytes_, piece_.size(), piece_};
        offset_bytes_ += piece_.size();
        data_left_bytes_ -= piece_.size();
        return found;
    }
    result<void> check_end(const record& end) {
        std::array<std::byte, end_bytes> counts;
        if (end.length_bytes != counts.size()) {
            return damaged(records_ - 1, "is no end");
        }
        UTHIN_TRY(read_exactly(counts));
        if (load_be<std::uint64_t>(counts.data()) != records_ ||
            load_be<std::uint64_t>(counts.data() + 8) != data_ ||
            load_be<std::uint64_t>(counts.data() + 16) != unmaps_) {
            return damaged(records_ - 1, "counts other records than arrived");
        }
        std::byte more;
        if (UTHIN_TRY(source_.read(std::span(&more, 1))) != 0) {
            return damaged(records_, "follows the end");
        }
        return {};
    }

    byte_source& source_;
    stream_header header_;
    std::vector<std::byte> piece_;
    std::uint64_t offset_bytes_ = 0;
    std::uint64_t data_left_bytes_ = 0;
    std::uint64_t records_ = 0;
    std::uint64_t data_ = 0;
    std::uint64_t unmaps_ = 0;
};

}  // namespace

bool is_thin_send(std::span<const std::byte, 8> first_bytes) noexcept {
    const auto magic = load_be<std::uint64_t>(first_bytes.data());
    return magic == magic_1_1 || magic == magic_1_0;
}

result<std::unique_ptr<content_reader>> read_thin_send(byte_source& source,
                                                       const thin_send_facts& facts) {
    auto reader = std::make_unique<thin_send_reader>(source, facts);
    UTHIN_TRY(reader->begin());
    return reader;
}

result<std::unique_ptr<content_writer>> write_thin_send(byte_sink& sink) {
    auto writer = std::make_unique<thin_send_writer>(sink);
    UTHIN_TRY(writer->begin());
    return writer;
}

}  // namespace uthin::replication
