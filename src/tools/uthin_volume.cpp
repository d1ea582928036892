// volume create, list, show, rename, resize, set, usage, delete, rollback; snapshot create.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "base/result.h"
#include "frontends/control/codec.h"
#include "frontends/replicate.h"
#include "pool/pool_file.h"
#include "tools/uthin_command.h"

namespace uthin::tools {

namespace {

std::string time_text(std::int64_t unix_seconds) {
    // fmt throws for years that the calendar cannot hold.
    constexpr std::int64_t seconds_max = 253'402'300'799;  // the end of 9999
    if (unix_seconds <= 0 || unix_seconds > seconds_max) {
        return "-";
    }
    return fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::gmtime(static_cast<std::time_t>(unix_seconds)));
}

std::string size_or_dash(const std::optional<std::uint64_t>& size_bytes) {
    return size_bytes ? readable_size(*size_bytes) : "-";
}

void print_list(const std::vector<volume_info>& volumes) {
    std::size_t width = 4;
    for (const volume_info& volume : volumes) {
        width = std::max(width, volume.name.size());
    }
    print_line(fmt::format("{:<{}}  {:>10}  {:>10}  {:>10}  {:>8}  {:<19}  {}", "NAME", width,
                           "SIZE", "MAPPED", "EXCLUSIVE", "DEVICE", "CREATED (UTC)",
                           "SNAPSHOT OF"));
    for (const volume_info& volume : volumes) {
        print_line(fmt::format(
            "{:<{}}  {:>10}  {:>10}  {:>10}  {:>8}  {:<19}  {}", volume.name, width,
            readable_size(volume.size_bytes), readable_size(volume.mapped_bytes),
            size_or_dash(volume.exclusive_bytes), volume.dev_id,
            time_text(volume.created_unix_seconds), volume.parent.empty() ? "-" : volume.parent));
    }
}

std::string lag_text(const frontends::replica_state& replica) {
    return replica.replicated_unix_seconds == 0
               ? "nothing is there yet"
               : fmt::format("{} s behind",
                             system_clock().unix_seconds() - replica.replicated_unix_seconds);
}

void print_details(const volume_info& volume) {
    const auto row = [](std::string_view name, const std::string& value) {
        print_line(fmt::format("{:<16} {}", name, printable(value)));
    };
    row("name", volume.name);
    row("uuid", volume.uuid.empty() ? "-" : volume.uuid);
    row("device", fmt::format("{} (time {}, transaction {})", volume.dev_id, volume.creation_time,
                              volume.creation_transaction_id));
    row("size", fmt::format("{} ({} bytes)", readable_size(volume.size_bytes), volume.size_bytes));
    row("mapped",
        fmt::format("{} ({} bytes)", readable_size(volume.mapped_bytes), volume.mapped_bytes));
    row("exclusive", volume.exclusive_bytes
                         ? size_or_dash(volume.exclusive_bytes) + ", which deleting it would free"
                         : "-");
    row("shared", size_or_dash(volume.shared_bytes));
    row("reserved", volume.reserved_bytes == 0 ? "-" : readable_size(volume.reserved_bytes));
    row("limit", volume.limit_bytes == 0 ? "-" : readable_size(volume.limit_bytes));
    row("snapshot of", !volume.parent.empty()        ? volume.parent
                       : !volume.parent_uuid.empty() ? volume.parent_uuid + " (deleted)"
                                                     : "-");
    row("created (UTC)", time_text(volume.created_unix_seconds));
    row("external origin", volume.external_origin.empty() ? "-" : volume.external_origin);
    row("in use", volume.in_use ? "yes" : "no");
    for (const frontends::replica_state& replica : frontends::replicas_of(volume)) {
        row("replica", replica.target + ", " + lag_text(replica) +
                           (replica.error.empty() ? "" : "; the last round failed: ") +
                           replica.error);
    }
    for (const auto& [key, value] : volume.labels) {
        // Told above.
        if (!key.starts_with(frontends::replica_label_prefix)) {
            row("label " + key, value);
        }
    }
}

struct volume_arguments {
    std::string path;
    std::string other;
    std::uint64_t size_bytes = 0;
    std::uint64_t id = 0;
    std::string external_origin;
    std::uint64_t reserved_bytes = 0;
    std::uint64_t limit_bytes = 0;
    bool flag = false;
    bool force = false;
};

// A volume command that prints the volume afterwards.
using volume_call =
    std::function<result<volume_info>(pool_service&, const std::string&, volume_arguments&)>;

int run_and_print(const command_line& line, volume_arguments& given, session_kind kind,
                  std::string_view verb, const volume_call& call) {
    const auto parts = split_volume_path(given.path);
    return with_volume(line, given.path, kind,
                       [&](pool_service& pool, const std::string& name) -> result<void> {
                           const volume_info volume = UTHIN_TRY(call(pool, name, given));
                           print_volume(line, parts->directory, verb, volume);
                           return {};
                       });
}

void add_create(CLI::App& volume, command_line& line) {
    CLI::App* command = volume.add_subcommand("create", "a new, empty volume");
    const auto given = std::make_shared<volume_arguments>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    CLI::Option* size = command->add_option("--size", given->size_bytes,
                                            "its size; without it, that of the external origin");
    size->transform(as_size());
    CLI::Option* id = command->add_option("--id", given->id, "device id instead of the next one");
    command->add_option("--external-origin", given->external_origin,
                        "image that blocks never written read as: a path or an NBD URL");
    command->add_option("--reserve", given->reserved_bytes, "space that no other volume can take")
        ->transform(as_size());
    command->add_option("--limit", given->limit_bytes, "space that it takes at most; 0: no limit")
        ->transform(as_size());
    command->add_flag("--if-not-exists", given->flag, "the same volume may be there");
    command->callback([&line, given, id, size] {
        if (size->count() == 0 && given->external_origin.empty()) {
            throw CLI::RequiredError("--size");
        }
        const bool has_id = id->count() != 0;
        line.action = [&line, given, has_id] {
            return run_and_print(
                line, *given, session_kind::change, "created",
                [has_id](pool_service& pool, const std::string& name, volume_arguments& wanted) {
                    create_volume_request request;
                    request.name = name;
                    request.size_bytes = wanted.size_bytes;
                    // A server has another working directory.
                    request.external_origin = absolute_url(wanted.external_origin);
                    request.reserved_bytes = wanted.reserved_bytes;
                    request.limit_bytes = wanted.limit_bytes;
                    request.if_not_exists = wanted.flag;
                    if (has_id) {
                        request.dev_id = wanted.id;
                    }
                    return pool.create_volume(request);
                });
        };
    });
}

void add_list(CLI::App& volume, command_line& line) {
    CLI::App* command = volume.add_subcommand("list", "all volumes and snapshots");
    const auto directory = std::make_shared<std::string>();
    command->add_option("DIR", *directory, "the pool")->required();
    command->callback([&line, directory] {
        line.action = [&line, directory] {
            return with_pool(line, *directory, session_kind::inspect,
                             [&](pool_service& pool) -> result<void> {
                                 const auto volumes = UTHIN_TRY(pool.list_volumes());
                                 if (line.json) {
                                     print_json(frontends::encode(volumes));
                                 } else {
                                     print_list(volumes);
                                 }
                                 return {};
                             });
        };
    });
}

void add_show(CLI::App& volume, command_line& line) {
    CLI::App* command = volume.add_subcommand("show", "one volume");
    const auto given = std::make_shared<volume_arguments>();
    const auto kernel = std::make_shared<kernel_flags>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    add_kernel_flags(*command, *kernel);
    command->callback([&line, given, kernel] {
        line.action = [&line, given, kernel] {
            return with_volume(line, given->path, session_kind::inspect,
                               [&](pool_service& pool, const std::string& name) -> result<void> {
                                   if (kernel->any()) {
                                       print_kernel_lines(line, *kernel,
                                                          UTHIN_TRY(pool.kernel_lines_of(name)));
                                       return {};
                                   }
                                   const volume_info shown = UTHIN_TRY(pool.show_volume(name));
                                   if (line.json) {
                                       print_json(frontends::encode(shown));
                                   } else {
                                       print_details(shown);
                                   }
                                   return {};
                               });
        };
    });
}

void add_rename(CLI::App& volume, command_line& line) {
    CLI::App* command = volume.add_subcommand("rename", "another name");
    const auto given = std::make_shared<volume_arguments>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    command->add_option("NEW", given->other, "the new name")->required();
    command->callback([&line, given] {
        line.action = [&line, given] {
            return run_and_print(line, *given, session_kind::change, "renamed to",
                                 [](pool_service& pool, const std::string& name,
                                    volume_arguments& wanted) -> result<volume_info> {
                                     const auto parts = split_volume_path(wanted.path);
                                     return pool.rename_volume(
                                         name,
                                         UTHIN_TRY(name_in_pool(parts->directory, wanted.other)));
                                 });
        };
    });
}

void add_resize(CLI::App& volume, command_line& line) {
    CLI::App* command = volume.add_subcommand(
        "resize", "another size; what is cut off is lost, what is added reads as zeros");
    const auto given = std::make_shared<volume_arguments>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    command->add_option("--size", given->size_bytes, "the new size")
        ->required()
        ->transform(as_size());
    command->callback([&line, given] {
        line.action = [&line, given] {
            return run_and_print(
                line, *given, session_kind::change, "resized",
                [](pool_service& pool, const std::string& name, volume_arguments& wanted) {
                    return pool.resize_volume(name, wanted.size_bytes);
                });
        };
    });
}

void add_set(CLI::App& volume, command_line& line) {
    CLI::App* command = volume.add_subcommand("set", "how much space it is promised, and gets");
    const auto given = std::make_shared<volume_arguments>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    CLI::Option* reserve = command->add_option("--reserve", given->reserved_bytes,
                                               "space that no other volume can take; 0: none");
    reserve->transform(as_size());
    CLI::Option* limit = command->add_option("--limit", given->limit_bytes,
                                             "space that it takes at most; 0: no limit");
    limit->transform(as_size());
    command->callback([&line, given, reserve, limit] {
        set_volume_request request;
        if (reserve->count() != 0) {
            request.reserved_bytes = given->reserved_bytes;
        }
        if (limit->count() != 0) {
            request.limit_bytes = given->limit_bytes;
        }
        if (!request.reserved_bytes && !request.limit_bytes) {
            throw CLI::RequiredError("--reserve or --limit");
        }
        line.action = [&line, given, request] {
            return run_and_print(
                line, *given, session_kind::change, "set",
                [request](pool_service& pool, const std::string& name, volume_arguments&) {
                    set_volume_request named = request;
                    named.name = name;
                    return pool.set_volume(named);
                });
        };
    });
}

int show_usage(const command_line& line, const std::vector<std::string>& paths) {
    const auto first = split_volume_path(paths.front());
    if (!first) {
        return report_usage(first.error().message());
    }
    std::vector<std::string> names;
    for (const std::string& path : paths) {
        const auto name = name_in_pool(first->directory, path);
        if (!name) {
            return report_usage(name.error().message());
        }
        names.push_back(*name);
    }
    return with_pool(
        line, first->directory, session_kind::reading, [&](pool_service& pool) -> result<void> {
            const usage_reply reply = UTHIN_TRY(pool.usage(names));
            if (line.json) {
                print_json(frontends::encode(reply));
            } else {
                print_line(fmt::format(
                    "mapped {}; deleting {} would free {}", readable_size(reply.mapped_bytes),
                    names.size() == 1 ? "it" : "them all", readable_size(reply.freed_bytes)));
            }
            return {};
        });
}

void add_usage(CLI::App& volume, command_line& line) {
    CLI::App* command =
        volume.add_subcommand("usage", "what deleting one volume, or several, would free");
    const auto paths = std::make_shared<std::vector<std::string>>();
    command->add_option("DIR/NAME", *paths, "the volumes, of one pool")->required();
    command->callback(
        [&line, paths] { line.action = [&line, paths] { return show_usage(line, *paths); }; });
}

int delete_volume(const command_line& line, const volume_arguments& given) {
    return with_volume(line, given.path, session_kind::work,
                       [&](pool_service& pool, const std::string& name) -> result<void> {
                           const bool deleted = UTHIN_TRY(pool.delete_volume(
                               {.name = name, .if_exists = given.flag, .force = given.force}));
                           if (line.json) {
                               print_json({{"deleted", deleted}});
                           } else {
                               print_line(fmt::format("{} {}", deleted ? "deleted" : "there is no",
                                                      printable(given.path)));
                           }
                           return {};
                       });
}

void add_delete(CLI::App& volume, command_line& line) {
    CLI::App* command = volume.add_subcommand("delete", "a volume or snapshot; others stay whole");
    const auto given = std::make_shared<volume_arguments>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    command->add_flag("--if-exists", given->flag, "no such volume is fine");
    command->add_flag("--force", given->force, "also when it is held, as a base of replication");
    command->callback(
        [&line, given] { line.action = [&line, given] { return delete_volume(line, *given); }; });
}

void add_label(CLI::App& volume, command_line& line) {
    CLI::App* command = volume.add_subcommand("label", "texts that stay with a volume");
    const auto path = std::make_shared<std::string>();
    const auto words = std::make_shared<std::vector<std::string>>();
    command->add_option("DIR/NAME", *path, "the volume")->required();
    command->add_option("KEY=VALUE", *words, "KEY alone takes the label away")->required();
    command->callback([&line, path, words] {
        line.action = [&line, path, words] {
            const auto parts = split_volume_path(*path);
            return with_volume(line, *path, session_kind::change,
                               [&](pool_service& pool, const std::string& name) -> result<void> {
                                   label_request request;
                                   request.name = name;
                                   for (const std::string& word : *words) {
                                       const std::size_t equals = word.find('=');
                                       if (equals == std::string::npos) {
                                           request.remove.push_back(word);
                                       } else {
                                           request.set[word.substr(0, equals)] =
                                               word.substr(equals + 1);
                                       }
                                   }
                                   print_volume(line, parts->directory, "labelled",
                                                UTHIN_TRY(pool.label_volume(request)));
                                   return {};
                               });
        };
    });
}

void add_rollback(CLI::App& volume, command_line& line) {
    CLI::App* command = volume.add_subcommand("rollback", "back to what a snapshot holds");
    const auto given = std::make_shared<volume_arguments>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    command->add_option("--to", given->other, "the snapshot")->required();
    command->add_flag("--force", given->flag, "also in use, also to a volume that is no snapshot");
    command->callback([&line, given] {
        line.action = [&line, given] {
            return run_and_print(line, *given, session_kind::work, "rolled back",
                                 [](pool_service& pool, const std::string& name,
                                    volume_arguments& wanted) -> result<volume_info> {
                                     const auto parts = split_volume_path(wanted.path);
                                     rollback_request request;
                                     request.name = name;
                                     request.to =
                                         UTHIN_TRY(name_in_pool(parts->directory, wanted.other));
                                     request.force = wanted.flag;
                                     return pool.rollback_volume(request);
                                 });
        };
    });
}

int create_snapshots(const command_line& line, const std::vector<std::string>& words,
                     bool if_not_exists) {
    if (words.size() % 2 != 0) {
        return report_usage("snapshot create: a new name is missing; write DIR/SOURCE NEW ...");
    }
    const auto first = split_volume_path(words[0]);
    if (!first) {
        return report_usage(first.error().message());
    }
    create_snapshots_request request;
    request.if_not_exists = if_not_exists;
    for (std::size_t i = 0; i < words.size(); i += 2) {
        const auto source = split_volume_path(words[i]);
        const auto in_pool = name_in_pool(first->directory, words[i]);
        const auto name = name_in_pool(first->directory, words[i + 1]);
        if (!source || !in_pool) {
            return report_usage((source ? in_pool.error() : source.error()).message());
        }
        if (!name) {
            return report_usage(name.error().message());
        }
        request.snapshots.push_back({source->name, *name});
    }
    return with_pool(line, first->directory, session_kind::change,
                     [&](pool_service& pool) -> result<void> {
                         const auto made = UTHIN_TRY(pool.create_snapshots(request));
                         if (line.json) {
                             print_json(frontends::encode(made));
                             return {};
                         }
                         for (const volume_info& volume : made) {
                             print_volume(line, first->directory, "created", volume);
                         }
                         return {};
                     });
}

}  // namespace

void add_volume_commands(CLI::App& app, command_line& line) {
    CLI::App* volume = app.add_subcommand("volume", "make, look at and change volumes");
    volume->require_subcommand(1);
    add_create(*volume, line);
    add_list(*volume, line);
    add_show(*volume, line);
    add_rename(*volume, line);
    add_resize(*volume, line);
    add_set(*volume, line);
    add_usage(*volume, line);
    add_delete(*volume, line);
    add_rollback(*volume, line);
    add_label(*volume, line);
    CLI::App* snapshot = app.add_subcommand("snapshot", "snapshots of volumes");
    snapshot->require_subcommand(1);
    CLI::App* create = snapshot->add_subcommand("create", "all at one instant");
    const auto words = std::make_shared<std::vector<std::string>>();
    const auto if_not_exists = std::make_shared<bool>(false);
    create->add_option("DIR/SOURCE NEW", *words, "pairs of a volume and the snapshot's name")
        ->required();
    create->add_flag("--if-not-exists", *if_not_exists, "the same snapshots may be there");
    create->callback([&line, words, if_not_exists] {
        line.action = [&line, words, if_not_exists] {
            return create_snapshots(line, *words, *if_not_exists);
        };
    });
}

}  // namespace uthin::tools
