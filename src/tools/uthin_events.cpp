// pool events.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <memory>

#include "base/clock.h"
#include "base/result.h"
#include "frontends/control/api.h"
#include "frontends/control/codec.h"
#include "tools/uthin_command.h"

namespace uthin::tools {

namespace {

struct events_arguments {
    std::string directory;
    std::uint64_t after = 0;
    std::string time = "0s";
};

void print_events(const command_line& line, const events_reply& reply) {
    if (line.json) {
        print_json(frontends::encode(reply));
        return;
    }
    if (reply.some_lost) {
        print_line("some events are lost; look at the pool's status");
    }
    for (const event_info& event : reply.events) {
        const auto time = static_cast<std::time_t>(event.unix_seconds);
        print_line(fmt::format("{}  {:%Y-%m-%d %H:%M:%S}  {:<18}  {}  {}", event.number,
                               fmt::gmtime(time), printable(event.event), printable(event.mode),
                               printable(event.text)));
    }
}

// A long poll of the server is shorter than what may be asked for here.
result<events_reply> wait_for_events(pool_service& pool, events_request request,
                                     std::chrono::nanoseconds wait) {
    const auto end = system_clock().monotonic() + wait;
    while (true) {
        const auto left = std::max(end - system_clock().monotonic(), std::chrono::nanoseconds(0));
        request.wait_s = std::min<std::uint64_t>(
            frontends::long_poll_s_max,
            static_cast<std::uint64_t>(std::chrono::ceil<std::chrono::seconds>(left).count()));
        events_reply reply = UTHIN_TRY(pool.events(request));
        if (!reply.events.empty() || reply.some_lost || request.wait_s == 0) {
            return reply;
        }
    }
}

int show_events(const command_line& line, const events_arguments& given, bool has_after) {
    const auto wait = parse_duration(given.time);
    if (!wait) {
        return report_usage(
            fmt::format("pool events: --for {}: not a duration; write 30s", printable(given.time)));
    }
    return with_session(
        line, given.directory, session_kind::inspect, [&](session& opened) -> result<void> {
            if (opened.local() != nullptr) {
                return fail(error_code::unsupported,
                            fmt::format("{}: nobody serves it, so that nothing happens to it; "
                                        "start 'uthin serve'",
                                        printable(given.directory)));
            }
            pool_service& pool = opened.service();
            events_request request{.after = given.after, .wait_s = 0};
            if (wait->count() != 0 && !has_after) {
                request.after = UTHIN_TRY(pool.events(request)).last;
            }
            print_events(line, UTHIN_TRY(wait_for_events(pool, request, *wait)));
            return {};
        });
}

}  // namespace

void add_events(CLI::App& pool, command_line& line) {
    CLI::App* command = pool.add_subcommand(
        "events", "what happened to a served pool: low space, changes of mode, timeouts");
    const auto given = std::make_shared<events_arguments>();
    command->add_option("DIR", given->directory, "the pool")->required();
    CLI::Option* after =
        command->add_option("--after", given->after, "only those after this number");
    command->add_option("--for", given->time,
                        "how long to wait for the next one, such as 30s; default 0s");
    command->callback([&line, given, after] {
        line.action = [&line, given, after] {
            return show_events(line, *given, after->count() != 0);
        };
    });
}

}  // namespace uthin::tools
