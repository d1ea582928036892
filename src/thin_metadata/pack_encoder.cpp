#include "thin_metadata/pack_encoder.h"

#include <array>

#include "base/endian.h"
#include "persistent_data/btree_node.h"

namespace uthin::thin_metadata {

using persistent_data::node_header_bytes;
using persistent_data::node_view;

namespace {

class instruction_writer {
public:
    explicit instruction_writer(std::vector<std::byte>& into) : into_(into) {}

    void number(std::uint64_t value, std::size_t bytes) {
        std::array<std::byte, 8> raw{};
        store_le(raw.data(), value);
        into_.insert(into_.end(), raw.begin(), raw.begin() + static_cast<std::ptrdiff_t>(bytes));
    }
    // As they are, but for longer repetitions of one word, of which bitmaps and nodes with room are
    // made: the compressor takes some bytes for each 258 of them.
    void words(std::span<const std::byte> bytes) {
        constexpr std::size_t word_bytes = sizeof(std::uint64_t);
        constexpr std::size_t repetitions_min = 4;
        std::size_t copied = 0;
        std::size_t at = 0;
        while (at + word_bytes <= bytes.size()) {
            const auto word = load_le<std::uint64_t>(bytes.data() + at);
            std::size_t times = 1;
            while (at + (times + 1) * word_bytes <= bytes.size() &&
                   load_le<std::uint64_t>(bytes.data() + at + times * word_bytes) == word) {
                ++times;
            }
            const std::size_t end = at + times * word_bytes;
            if (times >= repetitions_min) {
                literal(bytes.subspan(copied, at - copied));
                with_operand(pack_opcode::set, word);
                put_steps(0, times - 1);
                copied = end;
            }
            at = end;
        }
        literal(bytes.subspan(copied));
    }
    // The first as it is, the others by what they differ from the one before.
    void differences(std::span<const std::uint64_t> values) {
        if (values.empty()) {
            return;
        }
        with_operand(pack_opcode::set, values.front());
        for (std::size_t at = 1; at < values.size();) {
            const std::uint64_t step = values[at] - values[at - 1];
            std::size_t times = 1;
            while (at + times < values.size() &&
                   values[at + times] - values[at + times - 1] == step) {
                ++times;
            }
            put_steps(step, times);
            at += times;
        }
    }
    void shifted(std::span<const std::uint64_t> values) {
        if (values.empty()) {
            return;
        }
        std::vector<std::uint64_t> part;
        for (const std::uint64_t value : values) {
            part.push_back(value >> pack_shift_bits);
        }
        tag(pack_opcode::shifted_run, values.size() >> 8);
        number(values.size(), 1);
        differences(part);
        for (std::size_t index = 0; index < values.size(); ++index) {
            part[index] = values[index] & ((std::uint64_t{1} << pack_shift_bits) - 1);
        }
        differences(part);
    }

private:
    static constexpr std::uint64_t nibble_max = 15;

    void literal(std::span<const std::byte> bytes) {
        if (bytes.empty()) {
            return;
        }
        with_short_number(pack_opcode::literal, pack_opcode::literal_wide, bytes.size());
        into_.insert(into_.end(), bytes.begin(), bytes.end());
    }

    void tag(pack_opcode code, std::uint64_t nibble) {
        into_.push_back(static_cast<std::byte>(static_cast<std::uint64_t>(code) << 4 | nibble));
    }
    void with_operand(pack_opcode code, std::uint64_t operand) {
        const std::size_t bytes = operand < 1ULL << 8    ? 1
                                  : operand < 1ULL << 16 ? 2
                                  : operand < 1ULL << 32 ? 4
                                                         : 8;
        tag(code, bytes);
        number(operand, bytes);
    }
    void with_short_number(pack_opcode in_nibble, pack_opcode wide, std::uint64_t value) {
        if (value <= nibble_max) {
            tag(in_nibble, value);
        } else {
            with_operand(wide, value);
        }
    }
    // `times` is less than a block has numbers, so that twelve bits hold it.
    void put_steps(std::uint64_t step, std::size_t times) {
        const auto put_times = [&](pack_opcode few, pack_opcode many) {
            if (times <= nibble_max) {
                tag(few, times);
            } else {
                tag(many, times >> 8);
                number(times, 1);
            }
        };
        if (step == 0) {
            put_times(pack_opcode::repeat, pack_opcode::repeat_long);
            return;
        }
        if (times > 1) {
            put_times(pack_opcode::count, pack_opcode::count_long);
        }
        const std::uint64_t back = 0 - step;
        if (step <= back) {
            with_short_number(pack_opcode::forward, pack_opcode::forward_wide, step);
        } else {
            with_short_number(pack_opcode::backward, pack_opcode::backward_wide, back);
        }
    }

    std::vector<std::byte>& into_;
};

std::vector<std::uint64_t> numbers_in(std::span<const std::byte> bytes) {
    std::vector<std::uint64_t> numbers;
    for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
        numbers.push_back(load_le<std::uint64_t>(bytes.data() + at));
    }
    return numbers;
}

void put_node(instruction_writer& out, std::span<const std::byte> block) {
    const node_view node(persistent_data::const_block_bytes(block.data(), block.size()));
    const std::uint64_t places = node.max_entries();
    const std::uint64_t value_bytes = node.value_size_bytes();
    // The numbers are 32 bits wide, the sum is not.
    if (places > block.size() || value_bytes > block.size() ||
        node_header_bytes + places * (sizeof(std::uint64_t) + value_bytes) > block.size()) {
        out.words(block);
        return;
    }
    const auto keys = block.subspan(node_header_bytes, places * sizeof(std::uint64_t));
    const auto values = block.subspan(node_header_bytes + keys.size());
    out.words(block.first(node_header_bytes));
    out.differences(numbers_in(keys));
    if (value_bytes != sizeof(std::uint64_t)) {
        out.words(values);
        return;
    }
    const auto numbers = values.first(keys.size());
    if (node.is_leaf()) {
        out.shifted(numbers_in(numbers));
    } else {
        out.differences(numbers_in(numbers));
    }
    out.words(values.subspan(numbers.size()));
}

}  // namespace

void append_packed_block(std::vector<std::byte>& into, std::uint64_t number,
                         std::span<const std::byte> block, bool is_node) {
    instruction_writer out(into);
    out.number(number, sizeof number);
    if (is_node) {
        put_node(out, block);
    } else {
        out.words(block);
    }
}

}  // namespace uthin::thin_metadata
