#include "tools/migrate_target.h"

#include <fmt/format.h>

#include "base/clock.h"
#include "base/result.h"
#include "io/durable_file.h"
#include "io/open.h"
#include "pool/names.h"
#include "pool/pool_directory.h"
#include "pool/pool_file.h"

namespace uthin::tools {

namespace {

std::unexpected<error> lengths_differ(std::uint64_t input, std::uint64_t output,
                                      const std::string& target) {
    return fail(error_code::invalid_argument,
                fmt::format("lengths differ: input({}) != output({}): {}", input, output, target));
}

class device_target final : public migrate_target {
public:
    device_target(std::unique_ptr<block_device> device, std::string made_path)
        : device_(std::move(device)), made_path_(std::move(made_path)) {
        is_blank_ = !made_path_.empty();
    }
    ~device_target() override {
        if (!made_path_.empty()) {
            (void)io::remove_file(made_path_);  // the first failure is the one to tell
        }
    }

    result<void> read(std::uint64_t offset_bytes, std::span<std::byte> buffer) override {
        return device_->read(offset_bytes, buffer);
    }
    result<void> write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) override {
        return device_->write(offset_bytes, buffer);
    }
    result<void> make_hole(std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
        return device_->capabilities().discard_zeroes
                   ? device_->discard(offset_bytes, length_bytes)
                   : device_->write_zeroes(offset_bytes, length_bytes);
    }
    result<void> flush() override { return device_->flush(); }
    result<void> keep() override {
        made_path_.clear();
        return {};
    }

private:
    std::unique_ptr<block_device> device_;
    std::string made_path_;
};

class volume_target final : public migrate_target {
public:
    volume_target(std::unique_ptr<pool_directory> directory, std::string name)
        : directory_(std::move(directory)), name_(std::move(name)) {}
    ~volume_target() override {
        volume_.reset();
        if (directory_ != nullptr && is_made_) {
            (void)directory_->remove({.name = name_});  // the first failure is the one to tell
            (void)directory_->wait_for_deletions();
        }
        if (directory_ != nullptr) {
            (void)directory_->close();
        }
    }

    // `path` is for messages.
    result<void> open(std::uint64_t size_bytes, const std::string& path) {
        auto found = directory_->show(name_);
        if (!found && found.error().code() == error_code::not_found) {
            create_volume_request request;
            request.name = name_;
            request.size_bytes = size_bytes;
            found = directory_->create_volume(request);
            is_made_ = found.has_value();
        }
        const volume_info info = UTHIN_TRY(std::move(found));
        if (info.size_bytes != size_bytes) {
            return lengths_differ(size_bytes, info.size_bytes, path);
        }
        is_blank_ = is_made_;
        volume_ = UTHIN_TRY(directory_->open_volume(name_, false));
        return {};
    }

    result<void> read(std::uint64_t offset_bytes, std::span<std::byte> buffer) override {
        return volume_->read(offset_bytes, buffer);
    }
    result<void> write(std::uint64_t offset_bytes, std::span<const std::byte> buffer) override {
        return volume_->write(offset_bytes, buffer);
    }
    result<void> make_hole(std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
        return volume_->write_zeroes(offset_bytes, length_bytes);
    }
    result<void> flush() override { return volume_->flush(); }
    result<void> keep() override {
        volume_.reset();
        is_made_ = false;
        const auto closing = std::move(directory_);
        return closing->close();
    }

private:
    std::unique_ptr<pool_directory> directory_;
    std::shared_ptr<volume> volume_;
    std::string name_;
    bool is_made_ = false;
};

}  // namespace

result<std::optional<std::uint64_t>> size_of_file_target(const std::string& path) {
    if (io::kind_of_file(path) == io::file_kind::absent) {
        return std::nullopt;
    }
    const auto device = UTHIN_TRY(
        io::open_device("file:" + path, {.read_only = true, .lock = io::lock_mode::none}));
    return UTHIN_TRY(device->size_bytes());
}

result<std::unique_ptr<migrate_target>> open_file_target(const std::string& path,
                                                         std::uint64_t size_bytes) {
    const io::file_kind kind = io::kind_of_file(path);
    if (kind != io::file_kind::absent && kind != io::file_kind::regular) {
        return fail(error_code::invalid_argument, fmt::format("Not a regular file '{}'.", path));
    }
    io::open_options options;
    if (kind == io::file_kind::absent) {
        options.create_size_bytes = size_bytes;
    }
    auto device = UTHIN_TRY(io::open_device("file:" + path, options));
    if (kind == io::file_kind::regular) {
        const std::uint64_t found = UTHIN_TRY(device->size_bytes());
        if (found > size_bytes) {
            return lengths_differ(size_bytes, found, path);
        }
        UTHIN_TRY(device->grow(size_bytes));
    }
    return std::make_unique<device_target>(std::move(device),
                                           kind == io::file_kind::absent ? path : std::string());
}

result<std::unique_ptr<migrate_target>> open_disk_target(const std::string& path,
                                                         std::uint64_t size_bytes) {
    if (io::kind_of_file(path) != io::file_kind::block_device) {
        return fail(error_code::invalid_argument, fmt::format("Not a block device '{}'.", path));
    }
    auto device = UTHIN_TRY(io::open_device("file:" + path, {}));
    const std::uint64_t found = UTHIN_TRY(device->size_bytes());
    if (found != size_bytes) {
        return lengths_differ(size_bytes, found, path);
    }
    return std::make_unique<device_target>(std::move(device), std::string());
}

result<std::unique_ptr<migrate_target>> open_volume_target(const std::string& path,
                                                           std::uint64_t size_bytes) {
    const volume_path where = UTHIN_TRY(split_volume_path(path));
    auto directory = UTHIN_TRY(
        pool_directory::open(where.directory, {.purpose = open_purpose::serve}, system_clock()));
    UTHIN_TRY(directory->start());
    auto target = std::make_unique<volume_target>(std::move(directory), where.name);
    UTHIN_TRY(target->open(size_bytes, path));
    return target;
}

bool is_volume_path(const std::string& path) {
    const auto where = split_volume_path(path);
    return where && io::kind_of_file(path) == io::file_kind::absent &&
           is_pool_directory(where->directory);
}

result<volume_source> find_volume(const std::string& path) {
    const volume_path where = UTHIN_TRY(split_volume_path(path));
    const auto directory = UTHIN_TRY(
        pool_directory::open(where.directory, {.purpose = open_purpose::inspect}, system_clock()));
    const auto found = directory->show(where.name);
    UTHIN_TRY(directory->close());
    if (!found && found.error().code() == error_code::not_found) {
        return volume_source{.directory = where.directory, .device = {}};
    }
    const volume_info info = UTHIN_TRY(found);
    if (!info.external_origin.empty()) {
        return fail(error_code::unsupported,
                    fmt::format("{}: has an external origin, its holes are not zeros; use 'uthin "
                                "export'",
                                path));
    }
    return volume_source{.directory = where.directory,
                         .device = device_id(info.dev_id),
                         .size_bytes = info.size_bytes,
                         .exists = true};
}

}  // namespace uthin::tools
