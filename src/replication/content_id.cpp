#include "replication/content_id.h"

#include <fmt/format.h>

#include <utility>

#include "base/result.h"
#include "pool/names.h"

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

result<volume_info> show_again(pool_service& pool, const volume_info& seen) {
    volume_info now = UTHIN_TRY(show_device_again(pool, seen));
    if (device_tag(now) != device_tag(seen)) {
        return fail(error_code::not_found,
                    fmt::format("{}: was changed meanwhile; start again", printable(seen.name)));
    }
    return now;
}

result<volume_info> show_device_again(pool_service& pool, const volume_info& seen) {
    volume_info now = UTHIN_TRY(pool.show_volume(seen.name));
    if (!is_same_device(now, seen)) {
        return fail(error_code::not_found,
                    fmt::format("{}: was deleted or renamed meanwhile, and another volume has the "
                                "name; start again",
                                printable(seen.name)));
    }
    return now;
}

result<void> make_durable(volume_data& content, const volume_info& of) {
    // ORDER: CI3. Before it is read.
    UTHIN_TRY_CTX(content.flush(),
                  fmt::format("{}: what clients wrote to it cannot be made durable; open the pool "
                              "read-only to copy what its devices have",
                              printable(of.name)));
    return {};
}

}  // namespace uthin::replication
