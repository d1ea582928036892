#include "replication/content_id.h"

namespace uthin::replication {

bool is_temporary_name(std::string_view name, std::string_view prefix) {
    constexpr std::string_view shape = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    if (!name.starts_with(prefix)) {
        return false;
    }
    name.remove_prefix(prefix.size());
    return std::ranges::equal(name, shape, [](char c, char wanted) {
        return wanted == '-'
                   ? c == '-'
                   : std::string_view("0123456789abcdef").find(c) != std::string_view::npos;
    });
}

}  // namespace uthin::replication
