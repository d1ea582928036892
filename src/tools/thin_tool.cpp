#include "tools/thin_tool.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/aligned_buffer.h"
#include "base/result.h"
#include "io/durable_file.h"
#include "io/open.h"
#include "pool/pool_file.h"

namespace uthin::tools {
namespace {

constexpr std::uint64_t output_blocks_min = 10;

// The URL to open: of a pool directory, that of its metadata.
result<std::string> resolve(const std::string& path, std::string_view what) {
    if (path.find("://") != std::string::npos) {
        return path;
    }
    std::error_code ignored;
    const auto status = std::filesystem::status(path, ignored);
    if (status.type() == std::filesystem::file_type::not_found ||
        status.type() == std::filesystem::file_type::none) {
        return fail(error_code::not_found, fmt::format("Couldn't find {} file '{}'", what, path));
    }
    if (is_pool_directory(path)) {
        const pool_file pool = UTHIN_TRY(load_pool_file(path));
        return resolved_url(path, pool.metadata);
    }
    if (status.type() != std::filesystem::file_type::regular &&
        status.type() != std::filesystem::file_type::block) {
        return fail(error_code::invalid_argument,
                    fmt::format("Not a block device or regular file '{}'.", path));
    }
    return "file:" + path;
}

// The local file or disk that a path, URL or pool directory means; a URL that means none as it is.
std::string meant_file(const std::string& path) {
    std::string meant = path;
    if (is_pool_directory(path)) {
        if (const auto pool = load_pool_file(path)) {
            meant = resolved_url(path, pool->metadata);
        }
    }
    const std::string local = path_of_url(meant);
    return local.empty() ? meant : local;
}

result<void> refuse_xml(block_device& device) {
    aligned_buffer block(metadata_block_size_bytes);
    UTHIN_TRY(device.read(0, block.span()));
    for (const std::string_view start : {"<superblock", "<?xml", "?xml", "<!DOCTYPE"}) {
        if (std::memcmp(block.data(), start.data(), start.size()) == 0) {
            return fail(error_code::invalid_argument,
                        "This looks like XML.  This tool only supports the binary metadata "
                        "format.");
        }
    }
    return {};
}

}  // namespace

result<std::unique_ptr<block_device>> open_metadata_input(const std::string& path, access how) {
    const std::string url = UTHIN_TRY(resolve(path, "input"));
    io::open_options options;
    options.read_only = how != access::exclusive_write;
    options.lock = how == access::exclusive_write  ? io::lock_mode::exclusive
                   : how == access::exclusive_read ? io::lock_mode::shared
                                                   : io::lock_mode::none;
    options.claim_disk = how != access::live_read;
    auto device = io::open_device(url, options);
    // Files on systems without locks are read all the same, as the originals do.
    if (!device && device.error().code() == error_code::unsupported && options.read_only) {
        options.lock = io::lock_mode::none;
        device = io::open_device(url, options);
    }
    if (!device) {
        return std::unexpected(std::move(device).error());
    }
    if (UTHIN_TRY((*device)->size_bytes()) < metadata_block_size_bytes) {
        return fail(error_code::invalid_argument,
                    "Metadata device/file too small.  Is this binary metadata?");
    }
    UTHIN_TRY(refuse_xml(**device));
    return device;
}

result<std::unique_ptr<block_device>> open_metadata_output(const std::string& path) {
    const std::string url = UTHIN_TRY(resolve(path, "output"));
    auto device = UTHIN_TRY(io::open_device(url, {}));
    if (UTHIN_TRY(device->size_bytes()) < output_blocks_min * metadata_block_size_bytes) {
        return fail(error_code::invalid_argument, "Output file too small.");
    }
    return device;
}

result<void> refuse_same_file(const std::string& input, const std::string& output) {
    const std::string from = meant_file(input);
    const std::string to = meant_file(output);
    if (from == to || io::is_same_file(from, to)) {
        return fail(error_code::invalid_argument,
                    fmt::format("{} and {} are the same file; give another output", input, output));
    }
    return {};
}

result<std::unique_ptr<block_device>> claim_output(const std::string& path) {
    const io::file_kind kind = io::kind_of_file(path);
    if (kind != io::file_kind::regular && kind != io::file_kind::block_device) {
        return nullptr;
    }
    io::open_options options;
    options.direct = false;
    auto claimed = io::open_device("file:" + path, options);
    if (!claimed && claimed.error().code() == error_code::unsupported) {
        return nullptr;  // a system without locks
    }
    return claimed;
}

result<input_metadata> open_metadata_view(const std::string& path,
                                          const thin_metadata::offline_options& how) {
    input_metadata opened;
    opened.device = UTHIN_TRY(open_metadata_input(
        path, how.metadata_snapshot ? access::live_read : access::exclusive_read));
    opened.view = UTHIN_TRY(thin_metadata::open_offline(*opened.device, how));
    return opened;
}

text_file::~text_file() {
    if (file_ != nullptr && path_) {
        std::fclose(file_);
    }
}

result<void> text_file::failure() const {
    const int os_errno = errno;
    return fail(error_code::io_error,
                fmt::format("output error: {}: {}", path_.value_or("standard output"),
                            std::strerror(os_errno)),
                os_errno);
}

result<void> text_file::write(std::string_view text) {
    if (file_ == nullptr) {
        if (path_) {
            claim_ = UTHIN_TRY(claim_output(*path_));
        }
        file_ = path_ ? std::fopen(path_->c_str(), "we") : stdout;
        if (file_ == nullptr) {
            return failure();
        }
    }
    if (std::fwrite(text.data(), 1, text.size(), file_) != text.size()) {
        return failure();
    }
    return {};
}

result<void> text_file::close() {
    UTHIN_TRY(write(""));  // fwrite() must not be given null
    std::FILE* closing = std::exchange(file_, nullptr);
    if (std::fflush(closing) != 0) {
        auto outcome = failure();
        if (path_) {
            std::fclose(closing);
        }
        return outcome;
    }
    if (path_ && std::fclose(closing) != 0) {
        return failure();
    }
    claim_.reset();
    return {};
}

void tell(std::string_view text) {
    (void)std::fwrite(text.data(), 1, text.size(), stderr);
}

result<void> print_result(std::string_view text) {
    text_file output;
    UTHIN_TRY(output.write(text));
    return output.close();
}

int report_failure(std::string_view tool, const error& failure, bool quiet) {
    if (!quiet && failure.os_errno() != EPIPE) {
        std::string text = failure.message();
        if (failure.os_errno() != 0) {
            const std::string cause = std::strerror(failure.os_errno());
            text += text.find(cause) == std::string::npos ? ": " + cause : "";
        }
        for (char& c : text) {
            c = c == '\n' ? ' ' : c;
        }
        tell(fmt::format("{}: {}\n", tool, text));
    }
    return exit_failed;
}

}  // namespace uthin::tools
