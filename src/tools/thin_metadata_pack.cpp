// thin_metadata_pack and thin_metadata_unpack: metadata small enough to be sent.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/aligned_buffer.h"
#include "base/result.h"
#include "io/durable_file.h"
#include "thin_metadata/pack.h"
#include "tools/thin_devices.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

struct pack_line {
    std::optional<std::string> input;
    std::optional<std::string> output;
    bool force = false;
    bool quiet = false;
};

struct close_file {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};
using file_handle = std::unique_ptr<std::FILE, close_file>;

std::unexpected<error> file_failure(const std::string& path) {
    const int os_errno = errno;
    return fail(error_code::io_error, fmt::format("{}: {}", path, std::strerror(os_errno)),
                os_errno);
}

// Asks before metadata is written over.
result<void> confirm(const pack_line& line) {
    const io::file_kind kind = io::kind_of_file(*line.output);
    // Reading a pipe would wait for somebody to write to it.
    if (line.force || (kind != io::file_kind::regular && kind != io::file_kind::block_device)) {
        return {};
    }
    const file_handle there(std::fopen(line.output->c_str(), "re"));
    aligned_buffer block(metadata_block_size_bytes);
    if (there == nullptr ||
        std::fread(block.data(), 1, block.size(), there.get()) != block.size() ||
        !thin_metadata::is_any_superblock(block.span())) {
        return {};
    }
    tell(
        "The destination appears to already contain metadata, are you sure? "
        "[y/n]: ");
    char answer[8] = {};
    if (std::fgets(answer, sizeof answer, stdin) == nullptr ||
        (std::strcmp(answer, "y\n") != 0 && std::strcmp(answer, "yes\n") != 0)) {
        return fail(error_code::cancelled, "Output file not overwritten");
    }
    return {};
}

// Everything has arrived, and is durable where that means something.
result<void> finish_file(std::FILE* file, const std::string& path) {
    if (std::fflush(file) != 0) {
        return file_failure(path);
    }
    return flush_file(path);
}

result<void> pack(const pack_line& line) {
    const auto device = UTHIN_TRY(open_metadata_input(*line.input, access::exclusive_read));
    UTHIN_TRY(refuse_same_file(*line.input, *line.output));
    const auto claim = UTHIN_TRY(claim_output(*line.output));
    UTHIN_TRY(confirm(line));
    file_handle file(std::fopen(line.output->c_str(), "we"));
    if (file == nullptr) {
        return file_failure(*line.output);
    }
    auto packed = thin_metadata::pack_metadata(
        *device, [&](std::span<const std::byte> bytes) -> result<void> {
            return std::fwrite(bytes.data(), 1, bytes.size(), file.get()) == bytes.size()
                       ? result<void>()
                       : file_failure(*line.output);
        });
    if (packed) {
        packed = finish_file(file.get(), *line.output);
    }
    if (!packed && io::kind_of_file(*line.output) == io::file_kind::regular) {
        // A pack that ends too early cannot be told from a whole one (PK4); an empty file can.
        file.reset(std::fopen(line.output->c_str(), "we"));
    }
    return packed;
}

result<void> unpack(const pack_line& line) {
    std::error_code ignored;
    if (!std::filesystem::exists(*line.input, ignored)) {
        return fail(error_code::not_found,
                    fmt::format("Couldn't find input file '{}'", *line.input));
    }
    const file_handle from(std::fopen(line.input->c_str(), "re"));
    if (from == nullptr) {
        return file_failure(*line.input);
    }
    if (std::filesystem::is_directory(*line.input, ignored)) {
        return fail(error_code::invalid_argument,
                    fmt::format("Not a block device or regular file '{}'.", *line.input));
    }
    UTHIN_TRY(refuse_same_file(*line.input, *line.output));
    const auto claim = UTHIN_TRY(claim_output(*line.output));
    UTHIN_TRY(confirm(line));
    file_handle to;
    const thin_metadata::unpack_target target{
        .resize = [&](std::uint64_t blocks) -> result<void> {
            const std::uint64_t bytes = blocks * metadata_block_size_bytes;
            to.reset(std::fopen(line.output->c_str(), "we"));
            if (to == nullptr ||
                (std::filesystem::is_regular_file(*line.output, ignored) &&
                 ::ftruncate(::fileno(to.get()), static_cast<off_t>(bytes)) != 0)) {
                return file_failure(*line.output);
            }
            return {};
        },
        .write = [&](std::uint64_t block, std::span<const std::byte> bytes) -> result<void> {
            const auto at = static_cast<off_t>(block * metadata_block_size_bytes);
            if (::fseeko(to.get(), at, SEEK_SET) != 0 ||
                std::fwrite(bytes.data(), 1, bytes.size(), to.get()) != bytes.size()) {
                return file_failure(*line.output);
            }
            return {};
        },
        .flush = [&]() -> result<void> { return finish_file(to.get(), *line.output); }};
    const auto read = [&](std::span<std::byte> buffer) -> result<std::size_t> {
        const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), from.get());
        return std::ferror(from.get()) != 0 ? file_failure(*line.input) : result<std::size_t>(got);
    };
    UTHIN_TRY_CTX(thin_metadata::unpack_metadata(read, target), *line.input);
    return {};
}

int run(arguments given, const char* tool, const char* about,
        result<void> (*action)(const pack_line& line)) {
    pack_line line;
    option_table options(tool, about);
    options.flag("-f,--force", line.force, "Write over metadata without asking");
    options.text("-i,--input", "FILE", line.input, "What to read");
    options.text("-o,--output", "FILE", line.output, "What to write");
    options.hidden_flag("-q,--quiet", line.quiet);
    options.require("--input");
    options.require("--output");
    if (const auto status = options.parse(given)) {
        return *status;
    }
    return finish(tool, action(line), line.quiet);
}

}  // namespace

int thin_metadata_pack_main(arguments given) {
    return run(given, "thin_metadata_pack",
               "Produces a compressed file of thin metadata, of the blocks in use only", pack);
}

int thin_metadata_unpack_main(arguments given) {
    return run(given, "thin_metadata_unpack", "Unpack a compressed file of thin metadata", unpack);
}

}  // namespace uthin::tools
