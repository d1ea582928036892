// thin_shrink: makes the data device of a pool that is not in use smaller.
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>

#include "base/random.h"
#include "base/result.h"
#include "io/durable_file.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/dumper.h"
#include "thin_metadata/restorer.h"
#include "thin_metadata/shrink.h"
#include "thin_metadata/xml_reader.h"
#include "tools/progress_bar.h"
#include "tools/thin_devices.h"
#include "tools/thin_tool.h"

namespace uthin::tools {
namespace {

using thin_metadata::mapping_sink;
using thin_metadata::shrink_plan;

struct shrink_line {
    std::optional<std::string> input;
    std::optional<std::string> output;
    std::optional<std::string> data;
    std::optional<std::uint64_t> data_blocks;
    bool binary = false;
    bool no_copy = false;
    bool quiet = false;
};

// Sends all mappings of the input; can be called again and again.
using mapping_source = std::function<result<void>(mapping_sink& sink)>;

result<mapping_source> open_xml(const std::string& path) {
    switch (io::kind_of_file(path)) {
        case io::file_kind::absent:
            return fail(error_code::not_found, fmt::format("Couldn't find input file '{}'", path));
        case io::file_kind::regular: break;
        default:
            // It is read twice.
            return fail(error_code::invalid_argument,
                        fmt::format("Not a block device or regular file '{}'.", path));
    }
    const std::shared_ptr<std::FILE> file(std::fopen(path.c_str(), "re"), [](std::FILE* opened) {
        if (opened != nullptr) {
            std::fclose(opened);
        }
    });
    if (file == nullptr) {
        return fail(error_code::io_error, fmt::format("{}: {}", path, std::strerror(errno)), errno);
    }
    return [file](mapping_sink& sink) {
        std::rewind(file.get());
        const auto fill = [&file](std::span<char> buffer) -> result<std::size_t> {
            const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), file.get());
            if (got == 0 && std::ferror(file.get()) != 0) {
                return fail(error_code::io_error,
                            fmt::format("the input cannot be read: {}", std::strerror(errno)),
                            errno);
            }
            return got;
        };
        return thin_metadata::read_xml(fill, sink, {});
    };
}

result<mapping_source> open_image(const std::string& path) {
    const auto opened = std::make_shared<input_metadata>(UTHIN_TRY(open_metadata_view(path, {})));
    if (opened->view->superblock().held_root != 0) {
        return fail(error_code::busy,
                    fmt::format("{}: a metadata snapshot is reserved; release it first", path));
    }
    const auto report = UTHIN_TRY(thin_metadata::check_metadata(*opened->view, {}));
    if (report.fatal != 0) {
        return fail(error_code::corrupt,
                    "metadata contains errors (run thin_check for details). perhaps you need to "
                    "run thin_repair.");
    }
    return [opened](mapping_sink& sink) {
        return thin_metadata::dump_metadata(*opened->view, sink, {.shared_pieces = true});
    };
}

// The new metadata, made but not yet in its place.
class prepared_output {
public:
    prepared_output() = default;
    prepared_output(const prepared_output&) = delete;
    prepared_output& operator=(const prepared_output&) = delete;
    virtual ~prepared_output() = default;
    [[nodiscard]] virtual result<void> install() = 0;
};

class prepared_image final : public prepared_output {
public:
    static result<std::unique_ptr<prepared_output>> make(const std::string& path,
                                                         const mapping_source& source,
                                                         const shrink_plan& plan) {
        auto made = std::make_unique<prepared_image>();
        made->target_ = UTHIN_TRY(open_metadata_output(path));
        const std::uint64_t size_bytes = UTHIN_TRY(made->target_->size_bytes()) /
                                         metadata_block_size_bytes * metadata_block_size_bytes;
        made->scratch_ = UTHIN_TRY(open_scratch(size_bytes));
        thin_metadata::restorer restorer(*made->scratch_, {});
        thin_metadata::shrink_filter filter(restorer, plan);
        UTHIN_TRY(source(filter));
        return made;
    }
    result<void> install() override { return thin_metadata::install_image(*scratch_, *target_); }

private:
    std::unique_ptr<block_device> target_;
    std::unique_ptr<block_device> scratch_;
};

class prepared_xml final : public prepared_output {
public:
    static result<std::unique_ptr<prepared_output>> make(const std::string& path,
                                                         const mapping_source& source,
                                                         const shrink_plan& plan) {
        const io::file_kind kind = io::kind_of_file(path);
        // What takes the name of a link's target must find it: /dev/stdout can be a link to
        // nothing.
        const std::string resolved = io::absolute_path(path);
        const bool is_nowhere = kind == io::file_kind::absent ? std::filesystem::is_symlink(path)
                                                              : !io::is_same_file(path, resolved);
        if (is_nowhere || (kind != io::file_kind::absent && kind != io::file_kind::regular)) {
            return fail(error_code::invalid_argument,
                        fmt::format("Not a regular file '{}'.", path));
        }
        auto made = std::make_unique<prepared_xml>(resolved);
        made->claim_ = UTHIN_TRY(claim_output(path));
        text_file text(made->new_path_);
        thin_metadata::xml_writer writer(text.output(), thin_metadata::dump_dialect::v1);
        thin_metadata::shrink_filter filter(writer, plan);
        UTHIN_TRY(source(filter));
        UTHIN_TRY(text.write("\n"));
        UTHIN_TRY(text.close());
        UTHIN_TRY(flush_file(made->new_path_));
        return made;
    }
    explicit prepared_xml(std::string path)
        : path_(std::move(path)), new_path_(fmt::format("{}.{}", path_, make_uuid())) {}
    ~prepared_xml() override {
        if (!installed_) {
            (void)io::remove_file(new_path_);  // there may be none; what failed was told already
        }
    }
    result<void> install() override {
        UTHIN_TRY(io::rename_file(new_path_, path_));
        installed_ = true;
        return {};
    }

private:
    std::unique_ptr<block_device> claim_;
    std::string path_;
    std::string new_path_;
    bool installed_ = false;
};

result<std::unique_ptr<block_device>> open_data(const shrink_line& line) {
    if (line.no_copy) {
        return nullptr;
    }
    const auto of_pool = UTHIN_TRY(pool_data_url(*line.input));
    if (!line.data && !of_pool) {
        return fail(error_code::invalid_argument,
                    "no data device: give --data, or a pool directory as --input");
    }
    return open_data_device(line.data ? *line.data : *of_pool, data_access::exclusive_write);
}

result<void> shrink(const shrink_line& line) {
    UTHIN_TRY(refuse_same_file(*line.input, *line.output));
    const mapping_source source =
        UTHIN_TRY(line.binary ? open_image(*line.input) : open_xml(*line.input));
    thin_metadata::shrink_survey survey;
    UTHIN_TRY(source(survey));
    const shrink_plan plan = UTHIN_TRY(survey.plan(*line.data_blocks));
    const auto data = UTHIN_TRY(open_data(line));
    const auto output = UTHIN_TRY(line.binary ? prepared_image::make(*line.output, source, plan)
                                              : prepared_xml::make(*line.output, source, plan));
    const std::uint64_t block_bytes =
        std::uint64_t{plan.data_block_size_sectors} * sector_size_bytes;
    if (data != nullptr) {
        progress_bar progress("copying", plan.moved_blocks() * block_bytes);
        std::uint64_t done_bytes = 0;
        UTHIN_TRY(thin_metadata::move_data(*data, plan, [&](std::uint64_t bytes) {
            done_bytes += bytes;
            if (!line.quiet) {
                progress.show(done_bytes);
            }
        }));
    }
    UTHIN_TRY(output->install());
    if (!line.quiet) {
        tell(fmt::format("{} blocks {} below block {}\n", plan.moved_blocks(),
                         data != nullptr ? "moved" : "mapped anew, not copied,", plan.data_blocks));
    }
    return {};
}

}  // namespace

int thin_shrink_main(arguments given) {
    shrink_line line;
    option_table options("thin_shrink",
                         "Rewrite metadata and move data so that an inactive pool gets smaller");
    options.flag("--binary", line.binary, "Input and output are metadata, not XML");
    options.text("--data", "FILE", line.data,
                 "The pool's data device; not needed with --no-copy and for a pool directory");
    options.text("-i,--input", "FILE", line.input,
                 "The XML; with --binary a metadata device, file or pool directory");
    options.flag("--no-copy", line.no_copy, "Do not copy the data");
    options.number("--nr-blocks", "NUM", line.data_blocks,
                   "The new size of the pool in data blocks");
    options.text("-o,--output", "FILE", line.output,
                 "Where the new XML, or with --binary the new metadata, goes");
    options.flag("-q,--quiet", line.quiet, "Print no messages");
    options.require("--input");
    options.require("--output");
    options.require("--nr-blocks");
    if (const auto status = options.parse(given)) {
        return *status;
    }
    return finish("thin_shrink", shrink(line), line.quiet);
}

}  // namespace uthin::tools
