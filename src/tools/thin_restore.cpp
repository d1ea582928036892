// thin_restore: metadata from the XML of thin_dump.
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/result.h"
#include "thin_metadata/restorer.h"
#include "thin_metadata/xml_reader.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

using thin_metadata::mapping_sink;
using thin_metadata::pool_header;

struct restore_line {
    std::optional<std::string> input;
    std::optional<std::string> output;
    bool quiet = false;
    thin_metadata::restore_overrides overrides;
};

struct close_file {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};

// Reads the whole text without writing anything, so that a bad one leaves the output as it was.
class rehearsal final : public mapping_sink {
public:
    rehearsal(const thin_metadata::restore_overrides& overrides, std::uint64_t blocks)
        : overrides_(overrides), blocks_(blocks) {}
    result<void> begin_pool(const pool_header& pool) override {
        const pool_header wanted = UTHIN_TRY(thin_metadata::overridden(pool, overrides_));
        constexpr std::uint64_t data_blocks_per_block = 16320;
        needed_ += wanted.data_blocks / data_blocks_per_block;
        return {};
    }
    result<void> begin_shared(std::string_view) override { return {}; }
    result<void> end_shared() override { return {}; }
    result<void> begin_device(const thin_device_info&) override { return {}; }
    result<void> run(const mapping_run& run) override {
        mappings_ += run.count;
        return {};
    }
    result<void> reference(std::string_view) override { return {}; }
    result<void> end_device() override { return {}; }
    result<void> end_pool() override {
        constexpr std::uint64_t mappings_per_block = 252;
        const std::uint64_t needed = needed_ + mappings_ / mappings_per_block;
        if (needed > blocks_) {
            return fail(error_code::no_metadata_space,
                        fmt::format("out of metadata space: at least {} blocks are needed, the "
                                    "output has {}",
                                    needed, blocks_));
        }
        return {};
    }

private:
    const thin_metadata::restore_overrides& overrides_;
    std::uint64_t blocks_;
    // The superblock, two trees, and of each space map an index, a bitmap and an overflow tree.
    std::uint64_t needed_ = 8;
    std::uint64_t mappings_ = 0;
};

result<void> read_from(std::FILE* file, const restore_line& line, mapping_sink& sink) {
    const auto fill = [file](std::span<char> buffer) -> result<std::size_t> {
        const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), file);
        if (got == 0 && std::ferror(file) != 0) {
            return fail(error_code::io_error,
                        fmt::format("the input cannot be read: {}", std::strerror(errno)), errno);
        }
        return got;
    };
    return thin_metadata::read_xml(fill, sink, {.data_blocks = line.overrides.data_blocks});
}

result<void> restore(const restore_line& line) {
    std::error_code ignored;
    const auto status = std::filesystem::status(*line.input, ignored);
    if (!std::filesystem::exists(status)) {
        return fail(error_code::not_found,
                    fmt::format("Couldn't find input file '{}'", *line.input));
    }
    if (status.type() == std::filesystem::file_type::directory) {
        return fail(error_code::invalid_argument,
                    fmt::format("Not a block device or regular file '{}'.", *line.input));
    }
    const std::unique_ptr<std::FILE, close_file> file(std::fopen(line.input->c_str(), "re"));
    if (file == nullptr) {
        return fail(error_code::io_error, fmt::format("{}: {}", *line.input, std::strerror(errno)),
                    errno);
    }
    UTHIN_TRY(refuse_same_file(*line.input, *line.output));
    const auto device = UTHIN_TRY(open_metadata_output(*line.output));
    if (status.type() == std::filesystem::file_type::regular) {
        rehearsal attempt(line.overrides,
                          UTHIN_TRY(device->size_bytes()) / metadata_block_size_bytes);
        UTHIN_TRY(read_from(file.get(), line, attempt));
        std::rewind(file.get());
    }
    thin_metadata::restorer target(*device, line.overrides);
    return read_from(file.get(), line, target);
}

}  // namespace

int thin_restore_main(arguments given) {
    restore_line line;
    std::optional<std::uint64_t> block_size;
    option_table options("thin_restore", "Convert XML format metadata to binary");
    options.number("--data-block-size", "SECTORS", block_size, "Use this data block size",
                   UINT32_MAX);
    options.text("-i,--input", "FILE", line.input, "The XML");
    options.number("--nr-data-blocks", "NUM", line.overrides.data_blocks,
                   "Use this number of data blocks, if it is higher");
    options.text("-o,--output", "FILE", line.output, "Device or file to write the metadata to");
    options.flag("-q,--quiet", line.quiet, "Print no messages");
    options.number("--transaction-id", "NUM", line.overrides.transaction_id,
                   "Use this transaction id, if it is higher");
    options.require("--input");
    options.require("--output");
    if (const auto status = options.parse(given)) {
        return *status;
    }
    if (block_size) {
        line.overrides.data_block_size_sectors = static_cast<std::uint32_t>(*block_size);
    }
    return finish("thin_restore", restore(line), line.quiet);
}

}  // namespace uthin::tools
