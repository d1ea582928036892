#include "support/crash_vfs.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>

#include <fmt/format.h>

namespace uthin::test {

namespace {

constexpr int path_bytes_max = 512;

// sqlite3_file must come first.
struct crash_file {
    sqlite3_file base;
    io::crash_device* device;
    bool lies;
};

crash_file& of(sqlite3_file* file) {
    return *reinterpret_cast<crash_file*>(file);
}

crash_vfs& of(sqlite3_vfs* vfs) {
    return *static_cast<crash_vfs*>(vfs->pAppData);
}

std::uint64_t size_of(const crash_file& file) {
    return file.device->size_bytes().value_or(0);
}

int close_file(sqlite3_file*) {
    return SQLITE_OK;
}

int read_file(sqlite3_file* file, void* to, int amount, sqlite3_int64 offset) {
    const auto length = static_cast<std::size_t>(amount);
    const std::span<std::byte> buffer(static_cast<std::byte*>(to), length);
    const std::uint64_t size = size_of(of(file));
    const auto begin = static_cast<std::uint64_t>(offset);
    const std::uint64_t there = size > begin ? std::min<std::uint64_t>(size - begin, length) : 0;
    if (there != 0 && !of(file).device->read(begin, buffer.first(there))) {
        return SQLITE_IOERR_READ;
    }
    if (there == length) {
        return SQLITE_OK;
    }
    std::memset(buffer.data() + there, 0, length - there);
    return SQLITE_IOERR_SHORT_READ;
}

int write_file(sqlite3_file* file, const void* from, int amount, sqlite3_int64 offset) {
    const std::span<const std::byte> buffer(static_cast<const std::byte*>(from),
                                            static_cast<std::size_t>(amount));
    const auto begin = static_cast<std::uint64_t>(offset);
    if (begin + buffer.size() > size_of(of(file)) &&
        !of(file).device->resize(begin + buffer.size())) {
        return SQLITE_IOERR_WRITE;
    }
    return of(file).device->write(begin, buffer) ? SQLITE_OK : SQLITE_IOERR_WRITE;
}

int truncate_file(sqlite3_file* file, sqlite3_int64 size) {
    return of(file).device->resize(static_cast<std::uint64_t>(size)) ? SQLITE_OK
                                                                     : SQLITE_IOERR_TRUNCATE;
}

int sync_file(sqlite3_file* file, int) {
    return of(file).lies || of(file).device->flush() ? SQLITE_OK : SQLITE_IOERR_FSYNC;
}

int file_size(sqlite3_file* file, sqlite3_int64* size) {
    *size = static_cast<sqlite3_int64>(size_of(of(file)));
    return SQLITE_OK;
}

// One connection at a time, so locks are free.
int lock_file(sqlite3_file*, int) {
    return SQLITE_OK;
}

int check_reserved_lock(sqlite3_file*, int* is_reserved) {
    *is_reserved = 0;
    return SQLITE_OK;
}

int file_control(sqlite3_file*, int, void*) {
    return SQLITE_NOTFOUND;
}

// What SQLite assumes of Unix files.
int sector_size(sqlite3_file*) {
    return 4096;
}

int device_characteristics(sqlite3_file*) {
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

const sqlite3_io_methods file_methods = {1,
                                         close_file,
                                         read_file,
                                         write_file,
                                         truncate_file,
                                         sync_file,
                                         file_size,
                                         lock_file,
                                         lock_file,
                                         check_reserved_lock,
                                         file_control,
                                         sector_size,
                                         device_characteristics,
                                         nullptr,
                                         nullptr,
                                         nullptr,
                                         nullptr,
                                         nullptr,
                                         nullptr};

int open_file(sqlite3_vfs* vfs, const char* path, sqlite3_file* file, int flags, int* flags_out) {
    file->pMethods = nullptr;
    io::crash_device* device = path != nullptr ? of(vfs).find(path) : nullptr;
    if (device == nullptr) {
        return SQLITE_CANTOPEN;
    }
    of(file).device = device;
    of(file).lies = of(vfs).lies();
    file->pMethods = &file_methods;
    if (flags_out != nullptr) {
        *flags_out = flags;
    }
    return SQLITE_OK;
}

int delete_file(sqlite3_vfs* vfs, const char* path, int sync_directory) {
    io::crash_device* device = of(vfs).find(path);
    if (device == nullptr || device->size_bytes().value_or(0) == 0) {
        return SQLITE_IOERR_DELETE_NOENT;
    }
    if (!device->resize(0) || (sync_directory != 0 && !of(vfs).lies() && !device->flush())) {
        return SQLITE_IOERR_DELETE;
    }
    return SQLITE_OK;
}

int access_file(sqlite3_vfs* vfs, const char* path, int, int* answer) {
    const io::crash_device* device = of(vfs).find(path);
    *answer = device != nullptr && device->size_bytes().value_or(0) != 0 ? 1 : 0;
    return SQLITE_OK;
}

int full_pathname(sqlite3_vfs*, const char* path, int bytes, char* out) {
    sqlite3_snprintf(bytes, out, "%s", path);
    return SQLITE_OK;
}

int randomness(sqlite3_vfs*, int bytes, char* out) {
    std::memset(out, 0x5A, static_cast<std::size_t>(bytes));
    return bytes;
}

int sleep_microseconds(sqlite3_vfs*, int microseconds) {
    return microseconds;
}

int current_time(sqlite3_vfs*, double* julian_day) {
    *julian_day = 2460000.5;
    return SQLITE_OK;
}

int last_error(sqlite3_vfs*, int, char*) {
    return 0;
}

}  // namespace

crash_vfs::crash_vfs(io::crash_domain& domain, bool lies)
    : domain_(domain),
      lies_(lies),
      name_(fmt::format("crash-{}", static_cast<const void*>(this))),
      vfs_(std::make_unique<sqlite3_vfs>()) {
    vfs_->iVersion = 1;
    vfs_->szOsFile = sizeof(crash_file);
    vfs_->mxPathname = path_bytes_max;
    vfs_->zName = name_.c_str();
    vfs_->pAppData = this;
    vfs_->xOpen = open_file;
    vfs_->xDelete = delete_file;
    vfs_->xAccess = access_file;
    vfs_->xFullPathname = full_pathname;
    vfs_->xRandomness = randomness;
    vfs_->xSleep = sleep_microseconds;
    vfs_->xCurrentTime = current_time;
    vfs_->xGetLastError = last_error;
    sqlite3_vfs_register(vfs_.get(), 0);
}

crash_vfs::~crash_vfs() {
    sqlite3_vfs_unregister(vfs_.get());
}

io::crash_device* crash_vfs::find(const char* path) const {
    const std::string_view text(path);
    const std::size_t slash = text.rfind('/');
    return domain_.find(slash == std::string_view::npos ? text : text.substr(slash + 1));
}

}  // namespace uthin::test
