// read, write, import, export: bulk data between a volume and files or pipes.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include "base/aligned_buffer.h"
#include "base/result.h"
#include "base/zero.h"
#include "frontends/control/codec.h"
#include "io/durable_file.h"
#include "io/open.h"
#include "pool/pool_file.h"
#include "tools/progress_bar.h"
#include "tools/uthin_command.h"

namespace uthin::tools {

namespace {

constexpr std::uint64_t chunk_bytes_min = 1ULL << 20;
constexpr std::uint64_t zero_test_bytes = 64ULL << 10;

std::size_t chunk_bytes(const volume_data& volume) {
    return static_cast<std::size_t>(std::max(volume.preferred_bytes(), chunk_bytes_min));
}

// Calls `run(begin, end, zero)` for the longest runs of zero and nonzero pieces of `bytes`.
template <class Run>
result<void> for_each_run(std::span<const std::byte> bytes, const Run& run) {
    std::size_t begin = 0;
    while (begin < bytes.size()) {
        const auto piece_at = [&](std::size_t at) {
            return bytes.subspan(at, std::min<std::size_t>(zero_test_bytes, bytes.size() - at));
        };
        const bool zero = is_zero(piece_at(begin));
        std::size_t end = begin + piece_at(begin).size();
        while (end < bytes.size() && is_zero(piece_at(end)) == zero) {
            end += piece_at(end).size();
        }
        UTHIN_TRY(run(begin, end, zero));
        begin = end;
    }
    return {};
}

struct range_arguments {
    std::string path;
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
    bool has_length = false;
};

result<void> check_range(const range_arguments& given, std::uint64_t size_bytes) {
    const bool inside =
        given.offset_bytes <= size_bytes &&
        (!given.has_length || given.length_bytes <= size_bytes - given.offset_bytes);
    if (!inside) {
        return fail(
            error_code::out_of_range,
            fmt::format("{}: has {} bytes, the range reaches beyond its end; give a smaller "
                        "--offset or --length",
                        printable(given.path), size_bytes));
    }
    return {};
}

std::unexpected<error> stream_failed(std::string_view stream) {
    return fail(error_code::io_error, fmt::format("{}: cannot be used; is the pipe open?", stream),
                errno);
}

result<void> read_to_stdout(volume_data& volume, const range_arguments& given) {
    UTHIN_TRY(check_range(given, volume.size_bytes()));
    const std::uint64_t end =
        given.has_length ? given.offset_bytes + given.length_bytes : volume.size_bytes();
    aligned_buffer buffer(chunk_bytes(volume));
    for (std::uint64_t at = given.offset_bytes; at < end;) {
        const auto count =
            static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), end - at));
        UTHIN_TRY(volume.read(at, buffer.span().first(count)));
        if (std::fwrite(buffer.data(), 1, count, stdout) != count) {
            return stream_failed("standard output");
        }
        at += count;
    }
    return std::fflush(stdout) == 0 ? result<void>{} : stream_failed("standard output");
}

result<void> write_from_stdin(volume_data& volume, const range_arguments& given) {
    UTHIN_TRY(check_range(given, volume.size_bytes()));
    aligned_buffer buffer(chunk_bytes(volume));
    std::uint64_t at = given.offset_bytes;
    while (true) {
        const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), stdin);
        if (std::ferror(stdin) != 0) {
            return stream_failed("standard input");
        }
        if (count == 0) {
            break;
        }
        if (count > volume.size_bytes() - at) {
            return fail(error_code::out_of_range,
                        fmt::format("{}: has {} bytes, the input is longer; grow it with 'uthin "
                                    "volume resize'",
                                    printable(given.path), volume.size_bytes()));
        }
        UTHIN_TRY(volume.write(at, buffer.span().first(count)));
        at += count;
    }
    return volume.flush();
}

// A file, disk or remote image with its holes, if they can be known.
struct source_image {
    std::unique_ptr<block_device> device;
    std::optional<io::data_map> map;
    std::uint64_t size_bytes = 0;

    [[nodiscard]] result<std::optional<io::byte_run>> next_data(std::uint64_t offset_bytes) const {
        if (map) {
            return map->next(offset_bytes, size_bytes);
        }
        return offset_bytes < size_bytes ? std::optional(io::byte_run{offset_bytes, size_bytes})
                                         : std::nullopt;
    }
};

result<source_image> open_source(const std::string& url) {
    source_image source;
    io::open_options options;
    options.read_only = true;
    options.lock = io::lock_mode::shared;
    source.device = UTHIN_TRY(io::open_device(url, options));
    source.size_bytes = UTHIN_TRY(source.device->size_bytes());
    const std::string path = path_of_url(url);
    if (!path.empty() && io::kind_of_file(path) == io::file_kind::regular) {
        source.map.emplace(UTHIN_TRY(io::data_map::open(path)));
    }
    return source;
}

// Gives the volume the content of the image. `blank`: the volume reads as zeros now.
result<void> copy_in(const source_image& source, volume_data& volume, bool blank,
                     progress_bar& progress) {
    aligned_buffer buffer(chunk_bytes(volume));
    const auto zero = [&](std::uint64_t begin, std::uint64_t end) -> result<void> {
        return blank || begin == end ? result<void>{} : volume.write_zeroes(begin, end - begin);
    };
    std::uint64_t at = 0;
    while (at < source.size_bytes) {
        const auto run = UTHIN_TRY(source.next_data(at));
        // Whole pieces: a hole of a file may begin anywhere.
        const std::uint64_t begin =
            run ? std::max(at, run->begin_bytes / zero_test_bytes * zero_test_bytes)
                : source.size_bytes;
        UTHIN_TRY(zero(at, begin));
        at = begin;
        const std::uint64_t end = run ? run->end_bytes : source.size_bytes;
        while (at < end) {
            const std::uint64_t to_boundary = buffer.size() - at % buffer.size();
            const auto count = static_cast<std::size_t>(std::min(to_boundary, end - at));
            const std::span<std::byte> bytes = buffer.span().first(count);
            UTHIN_TRY(source.device->read(at, bytes));
            UTHIN_TRY(for_each_run(
                bytes, [&](std::size_t first, std::size_t last, bool zeros) -> result<void> {
                    return zeros ? zero(at + first, at + last)
                                 : volume.write(at + first, bytes.subspan(first, last - first));
                }));
            at += count;
            progress.show(at);
        }
    }
    return volume.flush();
}

result<void> import_file(const command_line& line, pool_service& pool, const std::string& file,
                         const std::string& path, const std::string& name) {
    const source_image source = UTHIN_TRY(open_source(file));
    bool blank = false;
    auto found = pool.show_volume(name);
    if (!found && found.error().code() == error_code::not_found) {
        create_volume_request request;
        request.name = name;
        request.size_bytes = std::max<std::uint64_t>(
            (source.size_bytes + sector_size_bytes - 1) / sector_size_bytes * sector_size_bytes,
            sector_size_bytes);
        found = pool.create_volume(request);
        blank = true;
    }
    const volume_info volume = UTHIN_TRY(std::move(found));
    if (volume.size_bytes < source.size_bytes) {
        return fail(
            error_code::out_of_range,
            fmt::format("{}: has {} bytes, {} has {}; grow it with 'uthin volume resize'",
                        printable(path), volume.size_bytes, printable(file), source.size_bytes));
    }
    const auto data = UTHIN_TRY(pool.open_data(name, false));
    {
        progress_bar progress("importing", source.size_bytes);
        // Where nothing is mapped an external origin shows.
        blank = blank || (volume.mapped_bytes == 0 && volume.external_origin.empty());
        UTHIN_TRY(copy_in(source, *data, blank, progress));
    }
    const volume_info now = UTHIN_TRY(pool.show_volume(name));
    if (line.json) {
        print_json(frontends::encode(now));
    } else {
        print_line(fmt::format("imported {} into {}: {}, {} of it mapped", printable(file),
                               printable(path), readable_size(now.size_bytes),
                               readable_size(now.mapped_bytes)));
    }
    return {};
}

// `blank`: the target reads as zeros now.
result<void> copy_out(volume_data& volume, block_device& target, bool blank,
                      progress_bar& progress) {
    aligned_buffer buffer(chunk_bytes(volume));
    const std::uint64_t size_bytes = volume.size_bytes();
    const auto zero = [&](std::uint64_t begin, std::uint64_t end) -> result<void> {
        return blank || begin == end ? result<void>{} : target.write_zeroes(begin, end - begin);
    };
    std::uint64_t at = 0;
    while (at < size_bytes) {
        const auto extents = UTHIN_TRY(volume.extents(at, size_bytes - at));
        for (const volume_extent& extent : extents) {
            const std::uint64_t end = extent.begin_bytes + extent.length_bytes;
            if (extent.kind != extent_kind::data) {
                UTHIN_TRY(zero(at, end));
                at = end;
            }
            while (at < end) {
                const auto count =
                    static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), end - at));
                const std::span<std::byte> bytes = buffer.span().first(count);
                UTHIN_TRY(volume.read(at, bytes));
                UTHIN_TRY(for_each_run(
                    bytes, [&](std::size_t first, std::size_t last, bool zeros) -> result<void> {
                        return zeros ? zero(at + first, at + last)
                                     : target.write(at + first, bytes.subspan(first, last - first));
                    }));
                at += count;
                progress.show(at);
            }
        }
        if (extents.empty()) {
            return fail(error_code::io_error, "the volume's extents end early; try again");
        }
    }
    return target.flush();
}

result<void> export_file(const command_line& line, pool_service& pool, const std::string& path,
                         const std::string& name, const std::string& file, bool force) {
    const auto data = UTHIN_TRY(pool.open_data(name, true));
    const std::string local = path_of_url(file);
    const bool fresh = !local.empty() && io::kind_of_file(local) == io::file_kind::absent;
    if (!fresh && !local.empty() && io::kind_of_file(local) == io::file_kind::regular && !force) {
        return fail(error_code::already_exists,
                    fmt::format("{}: exists already; remove it, or use --force", printable(file)));
    }
    io::open_options options;
    if (fresh) {
        options.create_size_bytes = data->size_bytes();
    }
    const auto target = UTHIN_TRY(io::open_device(file, options));
    if (UTHIN_TRY(target->size_bytes()) < data->size_bytes()) {
        UTHIN_TRY_CTX(target->grow(data->size_bytes()), printable(file));
    }
    progress_bar progress("exporting", data->size_bytes());
    auto copied = copy_out(*data, *target, fresh, progress);
    if (!copied) {
        if (fresh) {
            (void)io::remove_file(local);  // the first failure is the one to tell
        }
        return copied;
    }
    if (line.json) {
        print_json({{"file", file}, {"size", data->size_bytes()}});
    } else {
        print_line(fmt::format("exported {} to {}: {}", printable(path), printable(file),
                               readable_size(data->size_bytes())));
    }
    return {};
}

void add_read(CLI::App& app, command_line& line) {
    CLI::App* command = app.add_subcommand("read", "a part of a volume to standard output");
    const auto given = std::make_shared<range_arguments>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    command->add_option("--offset", given->offset_bytes, "where to begin")->transform(as_size());
    CLI::Option* length =
        command->add_option("--length", given->length_bytes, "how much; default: to the end")
            ->transform(as_size());
    command->callback([&line, given, length] {
        given->has_length = length->count() != 0;
        line.action = [&line, given] {
            return with_volume(line, given->path, session_kind::reading,
                               [&](pool_service& pool, const std::string& name) -> result<void> {
                                   return read_to_stdout(*UTHIN_TRY(pool.open_data(name, true)),
                                                         *given);
                               });
        };
    });
}

void add_write(CLI::App& app, command_line& line) {
    CLI::App* command = app.add_subcommand("write", "standard input into a volume");
    const auto given = std::make_shared<range_arguments>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    command->add_option("--offset", given->offset_bytes, "where to begin")->transform(as_size());
    command->callback([&line, given] {
        line.action = [&line, given] {
            return with_volume(line, given->path, session_kind::work,
                               [&](pool_service& pool, const std::string& name) -> result<void> {
                                   return write_from_stdin(*UTHIN_TRY(pool.open_data(name, false)),
                                                           *given);
                               });
        };
    });
}

struct copy_arguments {
    std::string file;
    std::string path;
    bool force = false;
};

void add_import(CLI::App& app, command_line& line) {
    CLI::App* command =
        app.add_subcommand("import", "an image into a volume, which is made if it is missing");
    const auto given = std::make_shared<copy_arguments>();
    command->add_option("FILE", given->file, "file, block device or URL")->required();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    command->callback([&line, given] {
        line.action = [&line, given] {
            return with_volume(line, given->path, session_kind::work,
                               [&](pool_service& pool, const std::string& name) {
                                   return import_file(line, pool, given->file, given->path, name);
                               });
        };
    });
}

void add_export(CLI::App& app, command_line& line) {
    CLI::App* command = app.add_subcommand("export", "a volume into an image, with its holes");
    const auto given = std::make_shared<copy_arguments>();
    command->add_option("DIR/NAME", given->path, "the volume")->required();
    command->add_option("FILE", given->file, "file, block device or URL")->required();
    command->add_flag("--force", given->force, "overwrite a file");
    command->callback([&line, given] {
        line.action = [&line, given] {
            return with_volume(line, given->path, session_kind::reading,
                               [&](pool_service& pool, const std::string& name) {
                                   return export_file(line, pool, given->path, name, given->file,
                                                      given->force);
                               });
        };
    });
}

}  // namespace

void add_data_commands(CLI::App& app, command_line& line) {
    add_read(app, line);
    add_write(app, line);
    add_import(app, line);
    add_export(app, line);
}

}  // namespace uthin::tools
