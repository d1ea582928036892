#include "support/failing_sqlite.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <atomic>

namespace uthin::test {

namespace {

// Before the system's own file, in one piece of memory that SQLite gives, at multiples of eight.
struct failing_file {
    sqlite3_file base;  // must come first
    failing_vfs* owner;
};

failing_file& of(sqlite3_file* file) {
    return *reinterpret_cast<failing_file*>(file);
}

sqlite3_file* system_file(sqlite3_file* file) {
    return reinterpret_cast<sqlite3_file*>(reinterpret_cast<failing_file*>(file) + 1);
}

failing_vfs& of(sqlite3_vfs* vfs) {
    return *static_cast<failing_vfs*>(vfs->pAppData);
}

int close_file(sqlite3_file* file) {
    return system_file(file)->pMethods->xClose(system_file(file));
}

int read_file(sqlite3_file* file, void* to, int amount, sqlite3_int64 offset) {
    if (const int failed = of(file).owner->status_of(file_access::read); failed != 0) {
        return failed;
    }
    return system_file(file)->pMethods->xRead(system_file(file), to, amount, offset);
}

int write_file(sqlite3_file* file, const void* from, int amount, sqlite3_int64 offset) {
    const sqlite3_io_methods& methods = *system_file(file)->pMethods;
    if (const int failed = of(file).owner->status_of(file_access::write); failed != 0) {
        if (of(file).owner->tears()) {
            (void)methods.xWrite(system_file(file), from, amount / 2, offset);
        }
        return failed;
    }
    return methods.xWrite(system_file(file), from, amount, offset);
}

int truncate_file(sqlite3_file* file, sqlite3_int64 size) {
    const int failed = of(file).owner->status_of(file_access::truncate);
    return failed != 0 ? failed : system_file(file)->pMethods->xTruncate(system_file(file), size);
}

// Nothing to wait for: what is lost with the power is the business of crash_vfs.
int sync_file(sqlite3_file* file, int) {
    return of(file).owner->status_of(file_access::sync);
}

int file_size(sqlite3_file* file, sqlite3_int64* size) {
    const int failed = of(file).owner->status_of(file_access::size);
    return failed != 0 ? failed : system_file(file)->pMethods->xFileSize(system_file(file), size);
}

int lock_file(sqlite3_file* file, int level) {
    const int failed = of(file).owner->status_of(file_access::lock);
    return failed != 0 ? failed : system_file(file)->pMethods->xLock(system_file(file), level);
}

int unlock_file(sqlite3_file* file, int level) {
    return system_file(file)->pMethods->xUnlock(system_file(file), level);
}

int check_reserved_lock(sqlite3_file* file, int* is_reserved) {
    return system_file(file)->pMethods->xCheckReservedLock(system_file(file), is_reserved);
}

int file_control(sqlite3_file* file, int operation, void* argument) {
    return system_file(file)->pMethods->xFileControl(system_file(file), operation, argument);
}

int sector_size(sqlite3_file* file) {
    return system_file(file)->pMethods->xSectorSize(system_file(file));
}

int device_characteristics(sqlite3_file* file) {
    return system_file(file)->pMethods->xDeviceCharacteristics(system_file(file));
}

const sqlite3_io_methods file_methods = {1,
                                         close_file,
                                         read_file,
                                         write_file,
                                         truncate_file,
                                         sync_file,
                                         file_size,
                                         lock_file,
                                         unlock_file,
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
    if (const int failed = of(vfs).status_of(file_access::open); failed != 0) {
        return failed;
    }
    of(file).owner = &of(vfs);
    const int status =
        of(vfs).system()->xOpen(of(vfs).system(), path, system_file(file), flags, flags_out);
    if (status == SQLITE_OK) {
        file->pMethods = &file_methods;
    }
    return status;
}

int delete_file(sqlite3_vfs* vfs, const char* path, int sync_directory) {
    const int failed = of(vfs).status_of(file_access::remove);
    return failed != 0 ? failed : of(vfs).system()->xDelete(of(vfs).system(), path, sync_directory);
}

int own_status(file_access kind) {
    switch (kind) {
        case file_access::open: return SQLITE_CANTOPEN;
        case file_access::read: return SQLITE_IOERR_READ;
        case file_access::write: return SQLITE_IOERR_WRITE;
        case file_access::truncate: return SQLITE_IOERR_TRUNCATE;
        case file_access::sync: return SQLITE_IOERR_FSYNC;
        case file_access::size: return SQLITE_IOERR_FSTAT;
        case file_access::lock: return SQLITE_IOERR_LOCK;
        case file_access::remove: return SQLITE_IOERR_DELETE;
    }
    return SQLITE_IOERR;
}

std::atomic<failing_statements*> watcher{nullptr};

int may_compile(void* to, int, const char*, const char*, const char*, const char*) {
    auto& statements = *static_cast<failing_statements*>(to);
    return statements.of(statement_stage::compiled).strikes() ? SQLITE_DENY : SQLITE_OK;
}

int statement_begins(unsigned, void* to, void* statement, void*) {
    if (static_cast<failing_statements*>(to)->of(statement_stage::run).strikes()) {
        sqlite3_interrupt(sqlite3_db_handle(static_cast<sqlite3_stmt*>(statement)));
    }
    return 0;
}

extern "C" int connection_opened(sqlite3* database, char**, const void*) {
    if (failing_statements* const statements = watcher) {
        sqlite3_set_authorizer(database, may_compile, statements);
        sqlite3_trace_v2(database, SQLITE_TRACE_STMT, statement_begins, statements);
    }
    return SQLITE_OK;
}

auto entry_point() {
    return reinterpret_cast<void (*)()>(connection_opened);
}

}  // namespace

void nth_fault::arm(std::uint64_t nth, bool for_ever) {
    armed_ = true;
    for_ever_ = for_ever;
    nth_ = nth;
    seen_ = 0;
    injected_ = 0;
}

bool nth_fault::strikes() noexcept {
    if (!armed_) {
        return false;
    }
    ++seen_;
    const bool now = for_ever_ ? seen_ >= nth_ : seen_ == nth_;
    injected_ += now ? 1U : 0U;
    return now;
}

failing_vfs::failing_vfs()
    : name_(fmt::format("failing-{}", static_cast<const void*>(this))),
      system_(sqlite3_vfs_find(nullptr)),
      vfs_(std::make_unique<sqlite3_vfs>(*system_)) {
    vfs_->iVersion = 1;
    vfs_->szOsFile = static_cast<int>(sizeof(failing_file)) + system_->szOsFile;
    vfs_->pNext = nullptr;
    vfs_->zName = name_.c_str();
    vfs_->pAppData = this;
    vfs_->xOpen = open_file;
    vfs_->xDelete = delete_file;
    vfs_->xAccess = [](sqlite3_vfs* vfs, const char* path, int flags, int* answer) {
        return of(vfs).system()->xAccess(of(vfs).system(), path, flags, answer);
    };
    vfs_->xFullPathname = [](sqlite3_vfs* vfs, const char* path, int bytes, char* out) {
        return of(vfs).system()->xFullPathname(of(vfs).system(), path, bytes, out);
    };
    sqlite3_vfs_register(vfs_.get(), 0);
}

failing_vfs::~failing_vfs() {
    sqlite3_vfs_unregister(vfs_.get());
}

void failing_vfs::arm(const file_fault& fault) {
    fault_ = fault;
    counter_.arm(fault.nth, fault.for_ever);
}

int failing_vfs::status_of(file_access kind) noexcept {
    if ((fault_.kinds & only(kind)) == 0 || !counter_.strikes()) {
        return 0;
    }
    return fault_.status != 0 ? fault_.status : own_status(kind);
}

failing_statements::failing_statements() {
    watcher = this;
    sqlite3_auto_extension(entry_point());
}

failing_statements::~failing_statements() {
    sqlite3_cancel_auto_extension(entry_point());
    watcher = nullptr;
}

void failing_statements::arm(statement_stage stage, std::uint64_t nth, bool for_ever) {
    disarm();
    of(stage).arm(nth, for_ever);
}

void failing_statements::disarm() noexcept {
    compiled_.disarm();
    run_.disarm();
}

std::uint64_t failing_statements::injected() const noexcept {
    return compiled_.injected() + run_.injected();
}

}  // namespace uthin::test
