// nbdkit-uthin-plugin: every volume of a pool is an NBD export.
//
// Threads   nbdkit calls config .. after_fork and cleanup, unload from its main thread, everything
//           that takes a handle from any thread. The engine's threads live from after_fork to
//           cleanup, because threads do not survive the fork of a server in the background.
//
// Source    nbdkit-plugin(3), API version 2.
#define NBDKIT_API_VERSION 2
#include <fmt/format.h>
#include <nbdkit-plugin.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "frontends/nbdkit_plugin/connection.h"
#include "frontends/nbdkit_plugin/restart.h"
#include "frontends/nbdkit_plugin/shutdown_watch.h"
#include "frontends/served_pool.h"
#include "uthin/log.h"
#include "uthin/version.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

namespace {

using uthin::result;
using uthin::frontends::connection;
using uthin::frontends::served_pool;

struct configuration {
    uthin::frontends::served_pool_options pool;
    std::string ready_line;
    int ready_descriptor = -1;
    unsigned restart_sockets = 0;
    std::vector<std::string> remove;
    bool tcp_needs_tls = false;
};

// Allocated, so that a process that forks or exits in the middle runs no destructors of it.
configuration* config = nullptr;
served_pool* served = nullptr;
uthin::frontends::shutdown_watch* watch = nullptr;

int report(const uthin::error& failure, int number) {
    nbdkit_error("%s", failure.to_string().c_str());
    nbdkit_set_error(number);
    return -1;
}

// Runs `body` (which returns result<int>); what it throws for want of memory is an error, too.
template <class Body>
int guarded(const Body& body) {
    try {
        const result<int> outcome = body();
        return outcome ? *outcome : report(outcome.error(), outcome.error().to_errno());
    } catch (const std::bad_alloc&) {
        nbdkit_error("out of memory");
        nbdkit_set_error(ENOMEM);
        return -1;
    }
}

connection& of(void* handle) {
    return *static_cast<connection*>(handle);
}

// Of a request of a client.
int done(const result<void>& outcome) {
    return outcome ? 0 : report(outcome.error(), uthin::to_io_errno(outcome.error()));
}

void forward_log(uthin::log_level level, std::string_view component, std::string_view message) {
    const std::string line = fmt::format("{}: {}", component, message);
    if (level == uthin::log_level::error || level == uthin::log_level::warning) {
        nbdkit_error("%s", line.c_str());
    } else {
        nbdkit_debug("%s", line.c_str());
    }
}

void remove_files() {
    if (config != nullptr) {
        for (const std::string& path : config->remove) {
            static_cast<void>(::remove(path.c_str()));
        }
        config->remove.clear();
    }
}

void plugin_load() {
    config = new configuration;
    uthin::set_log_sink(forward_log);
}

void plugin_unload() {
    remove_files();
    delete config;
    config = nullptr;
}

int set_path(std::string& to, const char* value) {
    char* path = nbdkit_absolute_path(value);
    if (path == nullptr) {
        return -1;
    }
    to = path;
    std::free(path);
    return 0;
}

int set_flag(bool& to, const char* value) {
    const int flag = nbdkit_parse_bool(value);
    if (flag < 0) {
        return -1;
    }
    to = flag == 1;
    return 0;
}

int plugin_config(const char* key, const char* value) {
    const std::string_view name(key);
    if (name == "pool") {
        return set_path(config->pool.directory, value);
    }
    if (name == "wait") {
        return nbdkit_parse_unsigned("wait", value, &config->pool.wait_s);
    }
    if (name == "read-only") {
        return set_flag(config->pool.read_only, value);
    }
    if (name == "tcp-needs-tls") {
        return set_flag(config->tcp_needs_tls, value);
    }
    if (name == "socket") {
        return set_path(config->pool.nbd_socket_path, value);
    }
    if (name == "ready-line") {
        config->ready_line = value;
        return 0;
    }
    if (name == "ready-descriptor") {
        return nbdkit_parse_int("ready-descriptor", value, &config->ready_descriptor);
    }
    if (name == "restart-sockets") {
        return nbdkit_parse_unsigned("restart-sockets", value, &config->restart_sockets);
    }
    if (name == "remove") {
        config->remove.emplace_back();
        return set_path(config->remove.back(), value);
    }
    nbdkit_error("unknown parameter '%s': see nbdkit-uthin-plugin(1)", key);
    return -1;
}

int plugin_config_complete() {
    if (config->pool.directory.empty()) {
        nbdkit_error("which pool? give pool=DIR");
        return -1;
    }
    return 0;
}

// Opened and closed: in a server that goes to the background this is the last chance to say on the
// terminal what is wrong, but a catalogue must not be carried across its fork.
int plugin_get_ready() {
    const int status = guarded([]() -> result<int> {
        const std::unique_ptr<served_pool> probe = UTHIN_TRY(served_pool::open(config->pool));
        return 0;
    });
    if (status != 0) {
        remove_files();
    }
    return status;
}

// Whoever waits for the line may have gone; that is no reason not to serve.
void announce() {
    if (config->ready_descriptor >= 0) {
        const std::string line = config->ready_line + "\n";
        static_cast<void>(!::write(config->ready_descriptor, line.data(), line.size()));
        ::close(config->ready_descriptor);
    }
}

// nbdkit waits for its clients' threads, which wait in send(): all is made durable here, and the
// process ends under them.
void end_without_clients() {
    nbdkit_error("clients that take no replies are left behind");
    // Before the pool is given up: whoever gets it next makes sockets of the same names.
    remove_files();
    const int status = guarded([]() -> result<int> {
        UTHIN_TRY_CTX(served->stop(), "closing the pool");
        return 0;
    });
    ::_exit(status == 0 ? 0 : 1);
}

int plugin_after_fork() {
    const int status = guarded([]() -> result<int> {
        std::unique_ptr<served_pool> pool = UTHIN_TRY(served_pool::open(config->pool));
        // Before the control socket listens: only the NBD sockets are the watch's business.
        auto new_watch = std::make_unique<uthin::frontends::shutdown_watch>();
        UTHIN_TRY(pool->start());
        UTHIN_TRY(new_watch->start(
            [engine = &pool->engine()] {
                engine->set_error_if_no_space(true);  // what waits for space fails now
            },
            end_without_clients));
        if (config->restart_sockets > 0) {
            UTHIN_TRY(uthin::frontends::arm_restart(config->restart_sockets));
        }
        watch = new_watch.release();
        served = pool.release();
        return 0;
    });
    if (status != 0) {
        remove_files();
        return status;
    }
    announce();
    return 0;
}

void plugin_cleanup() {
    if (watch != nullptr) {
        watch->stop();
        delete watch;
        watch = nullptr;
    }
    remove_files();  // as in end_without_clients()
    if (served != nullptr) {
        static_cast<void>(guarded([]() -> result<int> {
            UTHIN_TRY_CTX(served->stop(), "closing the pool");
            return 0;
        }));
        delete served;
        served = nullptr;
    }
}

// Whoever reaches the Unix socket owns it; on TCP nothing is shown without TLS.
bool peer_is_allowed(bool is_tls) {
    if (!config->tcp_needs_tls || is_tls) {
        return true;
    }
    sockaddr_storage peer{};
    socklen_t length = sizeof(peer);
    return nbdkit_peer_name(reinterpret_cast<sockaddr*>(&peer), &length) == 0 &&
           peer.ss_family == AF_UNIX;
}

int plugin_list_exports(int /*readonly*/, int is_tls, nbdkit_exports* exports) {
    if (!peer_is_allowed(is_tls != 0)) {
        nbdkit_error("TLS is required");
        return -1;
    }
    return guarded([&]() -> result<int> {
        for (const auto& entry : UTHIN_TRY(served->exports())) {
            if (nbdkit_add_export(exports, entry.name.c_str(), entry.description.c_str()) != 0) {
                return -1;
            }
        }
        return 0;
    });
}

// The only volume, if there is only one.
const char* plugin_default_export(int /*readonly*/, int is_tls) {
    if (!peer_is_allowed(is_tls != 0)) {
        return nullptr;
    }
    const result<std::vector<uthin::frontends::export_entry>> entries = served->exports();
    return entries && entries->size() == 1 ? nbdkit_strdup_intern(entries->front().name.c_str())
                                           : "";
}

void* plugin_open(int readonly) {
    if (!peer_is_allowed(nbdkit_is_tls() == 1)) {
        nbdkit_error("TLS is required");
        return nullptr;
    }
    connection* handle = nullptr;
    static_cast<void>(guarded([&]() -> result<int> {
        const char* name = nbdkit_export_name();
        if (name == nullptr) {
            return -1;
        }
        if (*name == '\0') {
            return uthin::fail(uthin::error_code::not_found,
                               "name a volume as the export: the pool does not have exactly one");
        }
        handle =
            connection::open(UTHIN_TRY(served->open_export(name, readonly != 0)), served->engine())
                .release();
        return 0;
    }));
    return handle;
}

void plugin_close(void* handle) {
    delete static_cast<connection*>(handle);
}

int64_t plugin_get_size(void* handle) {
    return static_cast<int64_t>(of(handle).size_bytes());
}

const char* plugin_export_description(void* handle) {
    return nbdkit_strdup_intern(of(handle).description().c_str());
}

int plugin_block_size(void* handle, uint32_t* minimum, uint32_t* preferred, uint32_t* maximum) {
    *minimum = 1;
    *preferred = of(handle).preferred_block_bytes();
    *maximum = 0xffffffff;
    return 0;
}

int plugin_can_write(void* handle) {
    return of(handle).writable() ? 1 : 0;
}
int plugin_yes(void*) {
    return 1;
}
int plugin_can_trim(void* handle) {
    return of(handle).can_trim() ? 1 : 0;
}
int plugin_is_rotational(void* handle) {
    return of(handle).rotational() ? 1 : 0;
}
int plugin_can_fua(void*) {
    return NBDKIT_FUA_NATIVE;
}
int plugin_can_cache(void*) {
    return NBDKIT_CACHE_EMULATE;
}

int plugin_pread(void* handle, void* buffer, uint32_t count, uint64_t offset, uint32_t) {
    return guarded([&]() -> result<int> {
        return done(of(handle).read(offset, {static_cast<std::byte*>(buffer), count}));
    });
}

int plugin_pwrite(void* handle, const void* buffer, uint32_t count, uint64_t offset,
                  uint32_t flags) {
    return guarded([&]() -> result<int> {
        return done(of(handle).write(offset, {static_cast<const std::byte*>(buffer), count},
                                     (flags & NBDKIT_FLAG_FUA) != 0));
    });
}

int plugin_flush(void* handle, uint32_t) {
    return guarded([&]() -> result<int> { return done(of(handle).flush()); });
}

int plugin_trim(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
    return guarded([&]() -> result<int> {
        return done(of(handle).trim(offset, count, (flags & NBDKIT_FLAG_FUA) != 0));
    });
}

int plugin_zero(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
    return guarded([&]() -> result<int> {
        const uthin::zero_options options = {.may_unmap = (flags & NBDKIT_FLAG_MAY_TRIM) != 0,
                                             .fua = (flags & NBDKIT_FLAG_FUA) != 0};
        if ((flags & NBDKIT_FLAG_FAST_ZERO) != 0 &&
            !UTHIN_TRY(of(handle).zeroing_is_fast(offset, count, options))) {
            nbdkit_set_error(ENOTSUP);
            return -1;
        }
        return done(of(handle).zero(offset, count, options));
    });
}

int plugin_extents(void* handle, uint32_t count, uint64_t offset, uint32_t flags,
                   nbdkit_extents* extents) {
    return guarded([&]() -> result<int> {
        const std::size_t extents_max = (flags & NBDKIT_FLAG_REQ_ONE) != 0 ? 1 : 4096;
        for (const auto& extent : UTHIN_TRY(of(handle).extents(offset, count, extents_max))) {
            const uint32_t type = extent.kind == uthin::extent_kind::data ? 0
                                  : extent.kind == uthin::extent_kind::zero
                                      ? NBDKIT_EXTENT_ZERO
                                      : NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO;
            if (nbdkit_add_extent(extents, extent.begin_bytes, extent.length_bytes, type) != 0) {
                return -1;
            }
        }
        return 0;
    });
}

nbdkit_plugin make_plugin() {
    nbdkit_plugin plugin{};
    plugin.name = "uthin";
    plugin.longname = "uthin thin pool";
    plugin.version = uthin::version_string;
    plugin.description = "every volume of a thin pool is an export";
    plugin.magic_config_key = "pool";
    plugin.config_help =
        "pool=<DIR>        (required) the directory of the pool\n"
        "wait=<SECONDS>    how long to wait for another process to let go of the pool (10)\n"
        "read-only=true    change nothing in the pool";
    plugin.load = plugin_load;
    plugin.unload = plugin_unload;
    plugin.config = plugin_config;
    plugin.config_complete = plugin_config_complete;
    plugin.get_ready = plugin_get_ready;
    plugin.after_fork = plugin_after_fork;
    plugin.cleanup = plugin_cleanup;
    plugin.list_exports = plugin_list_exports;
    plugin.default_export = plugin_default_export;
    plugin.open = plugin_open;
    plugin.close = plugin_close;
    plugin.get_size = plugin_get_size;
    plugin.export_description = plugin_export_description;
    plugin.block_size = plugin_block_size;
    plugin.can_write = plugin_can_write;
    plugin.can_flush = plugin_yes;
    plugin.can_trim = plugin_can_trim;
    plugin.can_zero = plugin_yes;
    plugin.can_fast_zero = plugin_yes;
    plugin.can_extents = plugin_yes;
    plugin.can_multi_conn = plugin_yes;
    plugin.can_fua = plugin_can_fua;
    plugin.can_cache = plugin_can_cache;
    plugin.is_rotational = plugin_is_rotational;
    plugin.pread = plugin_pread;
    plugin.pwrite = plugin_pwrite;
    plugin.flush = plugin_flush;
    plugin.trim = plugin_trim;
    plugin.zero = plugin_zero;
    plugin.extents = plugin_extents;
    return plugin;
}

nbdkit_plugin plugin = make_plugin();

}  // namespace

NBDKIT_REGISTER_PLUGIN(plugin)
