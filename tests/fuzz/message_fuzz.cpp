// Messages to a pool, one a line: the parser and the pool agree, and what is refused changes
// nothing.
#include <optional>
#include <sstream>

#include "fuzz/pool_input.h"

namespace uthin::fuzz {
namespace {

constexpr int messages_max = 12;

void run(std::span<const std::byte> input) {
    std::istringstream lines(text_of(input));
    std::optional<pool_input> pool;
    int left = messages_max;
    for (std::string text; left != 0 && std::getline(lines, text); --left) {
        const auto parsed = parse_target_message(text);
        // Making a pool costs more than a thousand messages that nobody understands.
        if (!parsed && left != messages_max) {
            continue;
        }
        if (!pool) {
            pool.emplace();
        }
        const std::string before = pool->appearance();
        const auto sent = pool->service().message(text);
        require(parsed || !sent, "what cannot be parsed is not done");
        require(sent || pool->appearance() == before, "what is refused changes nothing");
    }
}

std::vector<bytes> seeds() {
    std::vector<bytes> made;
    for (const char* text :
         {"create_thin 9\ncreate_snap 10 9\ndelete 9\n", "CREATE_thin 0x9\ncreate_thin +5\n",
          "set_transaction_id 0 1\nset_transaction_id 4 5\n",
          "reserve_metadata_snap\nrelease_metadata_snap\nrelease_metadata_snap\n",
          "create_thin 16777215\ncreate_thin 16777216\ncreate_snap 1 2 3\n"}) {
        made.push_back(bytes_of(text));
    }
    return made;
}

const registration made({"message", run, seeds, mutated_text, 60});

}  // namespace
}  // namespace uthin::fuzz
