// pool create, adopt, release, status, grow, trim, check, set, metadata-snapshot; and message.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "base/clock.h"
#include "base/result.h"
#include "frontends/control/codec.h"
#include "pool/pool_directory.h"
#include "tools/uthin_command.h"

namespace uthin::tools {

namespace {

std::string reserved_text(const pool_report& report) {
    const std::uint64_t promised = report.data_promised_blocks;
    const std::uint64_t free = report.data_blocks - report.data_used_blocks;
    std::string text = fmt::format("{} for volumes that have not used it yet",
                                   readable_size(promised * report.block_size_bytes));
    if (promised > free) {
        text += fmt::format("; {} of it are NOT FREE: grow the pool, or reserve less",
                            readable_size((promised - free) * report.block_size_bytes));
    }
    return text;
}

std::string held_text(const pool_report& report) {
    if (!report.metadata_snapshot_block) {
        return "none";
    }
    std::string text = fmt::format("block {}", *report.metadata_snapshot_block);
    if (report.metadata_snapshot_expires_unix_seconds != 0) {
        const std::int64_t left =
            report.metadata_snapshot_expires_unix_seconds - system_clock().unix_seconds();
        text += fmt::format(", of {}, for {} s", printable(report.metadata_snapshot_owner),
                            std::max<std::int64_t>(left, 0));
    }
    return text;
}

void print_report(const command_line& line, const pool_report& report) {
    if (line.json) {
        print_json(frontends::encode(report));
        return;
    }
    const auto used = [](std::uint64_t used_blocks, std::uint64_t blocks,
                         std::uint64_t block_bytes) {
        return fmt::format(
            "{} of {} used ({} of {} blocks of {})", readable_size(used_blocks * block_bytes),
            readable_size(blocks * block_bytes), used_blocks, blocks, readable_size(block_bytes));
    };
    const auto row = [](std::string_view name, const std::string& value) {
        print_line(fmt::format("{:<18} {}", name, value));
    };
    row("pool", fmt::format("{} ({}{})", printable(report.directory), report.uuid,
                            report.adopted ? ", adopted" : ""));
    row("mode", report.mode + (report.mode_cause.empty() ? "" : ": ") +
                    printable(report.mode_cause) + (report.needs_check ? ", needs_check" : ""));
    row("served", report.served ? "yes" : "no");
    row("data", used(report.data_used_blocks, report.data_blocks, report.block_size_bytes));
    if (report.data_promised_blocks != 0) {
        row("reserved", reserved_text(report));
    }
    row("metadata",
        used(report.metadata_used_blocks, report.metadata_blocks, metadata_block_size_bytes));
    row("volumes",
        fmt::format("{}, {} virtual{}", report.volume_count, readable_size(report.virtual_bytes),
                    report.deletions_running == 0
                        ? std::string()
                        : fmt::format(", {} being deleted", report.deletions_running)));
    row("transaction id", std::to_string(report.transaction_id));
    row("metadata snapshot", held_text(report));
    if (report.overcommit_percent != 0) {
        row("overcommit", fmt::format("at most {}%", report.overcommit_percent));
    }
    row("low water", fmt::format("{} blocks", report.low_water_blocks));
    row("no space", report.no_space);
    row("discard",
        report.discard +
            (report.discard_rate_bytes_per_s == 0
                 ? std::string()
                 : fmt::format(", at most {}/s", readable_size(report.discard_rate_bytes_per_s))));
    row("zeroing", report.zeroing ? "on" : "off");
    row("cache", report.cache);
    row("metadata device", printable(report.metadata_url));
    row("data device", printable(report.data_url));
}

int show_pool(const command_line& line, const std::string& directory) {
    return with_pool(line, directory, session_kind::inspect,
                     [&](pool_service& pool) -> result<void> {
                         print_report(line, UTHIN_TRY(pool.status()));
                         return {};
                     });
}

struct create_arguments {
    create_pool_request request;
    std::uint64_t metadata_size_bytes = 0;
    std::string cache = "none";
    bool skip_zeroing = false;
    bool no_passdown = false;
    bool ignore_discard = false;
    bool if_not_exists = false;
};

int create_pool(const command_line& line, create_arguments& given) {
    create_pool_request& request = given.request;
    if (given.metadata_size_bytes != 0) {
        request.metadata_size_bytes = given.metadata_size_bytes;
    }
    if (request.data_size_bytes == 0 && request.data_url.empty()) {
        return report_usage("pool create: no size; give --data-size, or --data URL");
    }
    request.features.zero_new_blocks = !given.skip_zeroing;
    request.features.discard = given.ignore_discard ? discard_mode::ignore
                               : given.no_passdown  ? discard_mode::no_passdown
                                                    : discard_mode::passdown;
    const auto cache = parse_data_cache(given.cache);
    if (!cache) {
        return report_usage("pool create: " + cache.error().message());
    }
    request.features.cache = *cache;
    request.wait = line.wait;
    if (given.if_not_exists && load_pool_file(request.directory)) {
        return show_pool(line, request.directory);
    }
    const auto made = pool_directory::create(request, system_clock());
    if (!made) {
        return report_failure(made.error(), request.directory);
    }
    if (!line.json) {
        print_line(fmt::format("created {}", printable(request.directory)));
        return exit_ok;
    }
    return show_pool(line, request.directory);
}

void add_create(CLI::App& pool, command_line& line) {
    CLI::App* command = pool.add_subcommand("create", "make a pool in a directory");
    const auto given = std::make_shared<create_arguments>();
    create_pool_request& request = given->request;
    command->add_option("DIR", request.directory, "directory to make")->required();
    command->add_option("--data-size", request.data_size_bytes, "size of the data")
        ->transform(as_size());
    command->add_option("--block-size", request.block_size_bytes, "64K to 1G, default 64K")
        ->transform(as_size());
    command->add_option("--metadata-size", given->metadata_size_bytes, "size of the metadata")
        ->transform(as_size());
    command->add_option("--data", request.data_url,
                        "file, block device or URL instead of DIR/data");
    command->add_option("--metadata", request.metadata_url,
                        "file, block device or URL instead of DIR/metadata");
    command->add_option("--low-water", request.low_water, "event when free: N% or blocks");
    command->add_flag("--skip-block-zeroing", given->skip_zeroing, "new blocks keep old bytes");
    command->add_flag("--error-if-no-space", request.features.error_if_no_space,
                      "a full pool fails writes at once");
    command->add_flag("--no-discard-passdown", given->no_passdown,
                      "discards do not reach the data device");
    command->add_flag("--ignore-discard", given->ignore_discard, "discards do nothing");
    command->add_option("--cache", given->cache,
                        "of the data: none (default), or writeback through the page cache");
    command->add_flag("--read-only", request.features.read_only, "opened read-only from now on");
    command->add_flag("--if-not-exists", given->if_not_exists, "a pool that is there is fine");
    command->callback(
        [&line, given] { line.action = [&line, given] { return create_pool(line, *given); }; });
}

void add_adopt(CLI::App& pool, command_line& line) {
    CLI::App* command =
        pool.add_subcommand("adopt", "take over metadata and data made by the kernel or LVM");
    const auto request = std::make_shared<adopt_pool_request>();
    command->add_option("DIR", request->directory, "directory to make")->required();
    command->add_option("--metadata", request->metadata_url, "file, block device or URL");
    command->add_option("--data", request->data_url, "file, block device or URL");
    command->add_flag("--read-only", request->read_only, "never write to the devices");
    command->add_flag("--rebuild-catalog", request->rebuild_catalogue,
                      "the catalogue is lost: start an empty one");
    command->callback([&line, request] {
        line.action = [&line, request] {
            request->wait = line.wait;
            const auto adopted = pool_directory::adopt(*request, system_clock());
            if (!adopted) {
                return report_failure(adopted.error(), request->directory);
            }
            if (!line.json) {
                print_line(fmt::format("adopted {}", printable(request->directory)));
                return exit_ok;
            }
            return show_pool(line, request->directory);
        };
    });
}

int release_pool(const command_line& line, const std::string& directory) {
    return with_pool(line, directory, session_kind::work, [&](pool_service& pool) -> result<void> {
        const release_reply reply = UTHIN_TRY(pool.release());
        if (line.json) {
            print_json(frontends::encode(reply));
            return {};
        }
        print_line(fmt::format("{}: {}", printable(reply.pool.name), reply.pool.table));
        for (const table_line& volume : reply.volumes) {
            print_line(fmt::format("{}: {}", printable(volume.name), volume.table));
        }
        return {};
    });
}

int check_pool(const command_line& line, const std::string& directory, bool repair) {
    bool clean = false;
    const int status = with_pool(
        line, directory, repair ? session_kind::work : session_kind::reading,
        [&](pool_service& pool) -> result<void> {
            const check_reply reply = UTHIN_TRY(pool.check({.repair = repair}));
            clean = reply.clean;
            if (line.json) {
                print_json(frontends::encode(reply));
                return {};
            }
            for (const std::string& finding : reply.findings) {
                print_line(finding);
            }
            print_line(fmt::format(
                "{}: {} devices, {} mappings, {} data and {} metadata blocks in use; {} fatal, {} "
                "repairable, {} cosmetic{}{}{}",
                reply.clean ? "clean" : "damaged", reply.devices, reply.mapped_blocks,
                reply.data_blocks_used, reply.metadata_blocks_used, reply.fatal, reply.repairable,
                reply.cosmetic, reply.leaks_mended ? "; leaks mended" : "",
                reply.repaired ? "; needs_check cleared" : "",
                reply.needs_check ? "; needs_check is set" : ""));
            return {};
        });
    return status == exit_ok && !clean ? exit_failed : status;
}

int set_pool(const command_line& line, const std::string& directory,
             const std::vector<std::string>& pairs) {
    std::map<std::string, std::string> settings;
    for (const std::string& pair : pairs) {
        const std::size_t equals = pair.find('=');
        if (equals == std::string::npos || equals == 0) {
            return report_usage(
                fmt::format("pool set: '{}' is no setting; write KEY=VALUE", printable(pair)));
        }
        settings[pair.substr(0, equals)] = pair.substr(equals + 1);
    }
    return with_pool(line, directory, session_kind::change,
                     [&](pool_service& pool) -> result<void> {
                         print_report(line, UTHIN_TRY(pool.set(settings)));
                         return {};
                     });
}

int metadata_snapshot(const command_line& line, const std::string& directory,
                      const metadata_snapshot_request& request) {
    const auto kind = request.action == metadata_snapshot_action::show ? session_kind::inspect
                                                                       : session_kind::change;
    return with_pool(line, directory, kind, [&](pool_service& pool) -> result<void> {
        const metadata_snapshot_reply reply = UTHIN_TRY(pool.metadata_snapshot(request));
        if (line.json) {
            print_json(frontends::encode(reply));
        } else {
            print_line(reply.block ? std::to_string(*reply.block) : "-");
        }
        return {};
    });
}

void add_status(CLI::App& pool, command_line& line) {
    CLI::App* command = pool.add_subcommand("status", "space, mode and settings");
    const auto directory = std::make_shared<std::string>();
    const auto shown = std::make_shared<kernel_flags>();
    command->add_option("DIR", *directory, "the pool")->required();
    add_kernel_flags(*command, *shown);
    command->callback([&line, directory, shown] {
        line.action = [&line, directory, shown] {
            if (!shown->any()) {
                return show_pool(line, *directory);
            }
            return with_pool(line, *directory, session_kind::inspect,
                             [&](pool_service& service) -> result<void> {
                                 print_kernel_lines(line, *shown,
                                                    UTHIN_TRY(service.kernel_lines()));
                                 return {};
                             });
        };
    });
}

void add_grow(CLI::App& pool, command_line& line) {
    CLI::App* command =
        pool.add_subcommand("grow", "more data or metadata; without sizes: all the devices have");
    struct grow_arguments {
        std::string directory;
        std::uint64_t data_bytes = 0;
        std::uint64_t metadata_bytes = 0;
    };
    const auto given = std::make_shared<grow_arguments>();
    command->add_option("DIR", given->directory, "the pool")->required();
    CLI::Option* data = command->add_option("--data-size", given->data_bytes, "size afterwards")
                            ->transform(as_size());
    CLI::Option* metadata =
        command->add_option("--metadata-size", given->metadata_bytes, "size afterwards")
            ->transform(as_size());
    command->callback([&line, given, data, metadata] {
        grow_request request;
        if (data->count() != 0) {
            request.data_size_bytes = given->data_bytes;
        }
        if (metadata->count() != 0) {
            request.metadata_size_bytes = given->metadata_bytes;
        }
        line.action = [&line, given, request] {
            return with_pool(line, given->directory, session_kind::change,
                             [&](pool_service& service) -> result<void> {
                                 print_report(line, UTHIN_TRY(service.grow(request)));
                                 return {};
                             });
        };
    });
}

void add_trim(CLI::App& pool, command_line& line) {
    CLI::App* command =
        pool.add_subcommand("trim", "tell the data device which of its blocks are free");
    const auto directory = std::make_shared<std::string>();
    command->add_option("DIR", *directory, "the pool")->required();
    command->callback([&line, directory] {
        line.action = [&line, directory] {
            return with_pool(line, *directory, session_kind::change,
                             [&](pool_service& service) -> result<void> {
                                 const std::uint64_t bytes = UTHIN_TRY(service.trim());
                                 if (line.json) {
                                     print_json({{"discarded", bytes}});
                                 } else {
                                     print_line("discarded " + readable_size(bytes));
                                 }
                                 return {};
                             });
        };
    });
}

void add_message(CLI::App& app, command_line& line) {
    CLI::App* command = app.add_subcommand("message", "a message in the kernel's grammar");
    const auto directory = std::make_shared<std::string>();
    const auto words = std::make_shared<std::vector<std::string>>();
    command->add_option("DIR", *directory, "the pool")->required();
    command->add_option("MESSAGE", *words, "such as 'create_thin 0'")->required();
    command->callback([&line, directory, words] {
        line.action = [&line, directory, words] {
            return with_pool(line, *directory, session_kind::change,
                             [&](pool_service& pool) -> result<void> {
                                 UTHIN_TRY(pool.message(fmt::format("{}", fmt::join(*words, " "))));
                                 if (line.json) {
                                     print_json(nlohmann::json::object());
                                 }
                                 return {};
                             });
        };
    });
}

void add_metadata_snapshot(CLI::App& pool, command_line& line) {
    CLI::App* command = pool.add_subcommand("metadata-snapshot",
                                            "freeze the metadata for tools such as thin_dump -m");
    struct arguments {
        std::string directory;
        std::string verb;
        std::string lease;
        std::string owner;
    };
    const auto given = std::make_shared<arguments>();
    command->add_option("DIR", given->directory, "the pool")->required();
    command->add_option("ACTION", given->verb, "reserve, renew, release or show")
        ->required()
        ->check(CLI::IsMember({"reserve", "renew", "release", "show"}));
    command->add_option("--lease", given->lease,
                        "release it after this time, such as 60s, unless it is renewed");
    command->add_option("--owner", given->owner, "whose lease it is");
    command->callback([&line, given] {
        metadata_snapshot_request request;
        request.action = given->verb == "reserve"   ? metadata_snapshot_action::reserve
                         : given->verb == "renew"   ? metadata_snapshot_action::renew
                         : given->verb == "release" ? metadata_snapshot_action::release
                                                    : metadata_snapshot_action::show;
        request.owner = given->owner;
        if (!given->lease.empty()) {
            const auto lease = parse_duration(given->lease);
            if (!lease) {
                throw CLI::ValidationError("--lease", lease.error().message());
            }
            // A part of a second is a second.
            request.lease_s =
                static_cast<std::uint64_t>(std::chrono::ceil<std::chrono::seconds>(*lease).count());
        }
        line.action = [&line, given, request] {
            return metadata_snapshot(line, given->directory, request);
        };
    });
}

}  // namespace

void add_pool_commands(CLI::App& app, command_line& line) {
    CLI::App* pool = app.add_subcommand("pool", "make, look at and change pools");
    pool->require_subcommand(1);
    add_create(*pool, line);
    add_adopt(*pool, line);
    add_status(*pool, line);
    add_grow(*pool, line);
    add_trim(*pool, line);
    add_events(*pool, line);
    const auto directory = std::make_shared<std::string>();
    CLI::App* release =
        pool->add_subcommand("release", "finish everything and tell how the kernel takes over");
    release->add_option("DIR", *directory, "the pool")->required();
    release->callback([&line, directory] {
        line.action = [&line, directory] { return release_pool(line, *directory); };
    });
    CLI::App* check = pool->add_subcommand("check", "check all metadata, also while it is served");
    const auto repair = std::make_shared<bool>(false);
    check->add_option("DIR", *directory, "the pool")->required();
    check->add_flag("--repair", *repair,
                    "mend leaks; clear needs_check when nothing else is wrong");
    check->callback([&line, directory, repair] {
        line.action = [&line, directory, repair] { return check_pool(line, *directory, *repair); };
    });
    CLI::App* set = pool->add_subcommand("set", "change settings");
    const auto pairs = std::make_shared<std::vector<std::string>>();
    set->add_option("DIR", *directory, "the pool")->required();
    set->add_option("KEY=VALUE", *pairs,
                    "low-water, no-space, no-space-timeout, discard, discard-rate, overcommit, "
                    "cache, zeroing, read-only")
        ->required();
    set->callback([&line, directory, pairs] {
        line.action = [&line, directory, pairs] { return set_pool(line, *directory, *pairs); };
    });
    add_metadata_snapshot(*pool, line);
    add_message(app, line);
}

}  // namespace uthin::tools
