#include "frontends/served_pool.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstring>

#include "base/clock.h"
#include "base/out_of_memory.h"
#include "base/result.h"
#include "base/thread.h"
#include "frontends/control/api.h"
#include "frontends/control/http_server.h"
#include "frontends/serve.h"
#include "frontends/since_export.h"
#include "pool/labels.h"
#include "pool/pool_directory.h"
#include "uthin/log.h"

namespace uthin::frontends {
namespace {

constexpr std::chrono::seconds house_interval{5};
constexpr std::chrono::milliseconds house_step{100};

std::string counter(const char* name, const char* help, std::uint64_t value) {
    return fmt::format("# HELP {0} {1}\n# TYPE {0} counter\n{0} {2}\n", name, help, value);
}

std::string engine_metrics(const pool_counters& counters) {
    return counter("uthin_pool_commits_total", "Commits of the metadata.", counters.commits) +
           counter("uthin_pool_flushes_total", "Flushes of clients.", counters.flushes) +
           counter("uthin_pool_clean_flushes_total", "Flushes that needed no commit.",
                   counters.clean_flushes) +
           counter("uthin_pool_provisioned_blocks_total", "Data blocks given to volumes.",
                   counters.provisioned_blocks) +
           counter("uthin_pool_broken_blocks_total", "Shared data blocks copied before a write.",
                   counters.broken_blocks) +
           counter("uthin_pool_discards_total", "Discards of clients.",
                   counters.discarded_requests) +
           counter("uthin_pool_pieced_blocks_total",
                   "Blocks unmapped because all of their parts had been discarded.",
                   counters.pieced_blocks) +
           counter("uthin_pool_snapshots_total", "Snapshots made.", counters.snapshots) +
           counter("uthin_pool_mapping_hits_total", "Lookups served by the mapping caches.",
                   counters.mapping_hits) +
           counter("uthin_pool_mapping_misses_total", "Lookups in the metadata.",
                   counters.mapping_misses) +
           counter("uthin_pool_metadata_blocks_read_total", "Metadata blocks read.",
                   counters.metadata.blocks_read) +
           counter("uthin_pool_metadata_blocks_written_total", "Metadata blocks written.",
                   counters.metadata.blocks_written) +
           fmt::format(
               "# HELP uthin_pool_held_requests Requests that wait for space now.\n"
               "# TYPE uthin_pool_held_requests gauge\nuthin_pool_held_requests {}\n",
               counters.held_requests);
}

std::string description_of(const volume_info& volume) {
    return volume.parent.empty() ? std::string("thin volume") : "snapshot of " + volume.parent;
}

}  // namespace

struct served_pool::impl {
    served_pool_options options;
    std::unique_ptr<pool_directory> directory;
    std::unique_ptr<pool_service> service;
    std::unique_ptr<control_api> api;
    std::unique_ptr<http_server> control;
    std::atomic<bool> stopping{false};
    thread housekeeper;

    void keep_house() {
        auto next = system_clock().monotonic();
        while (!stopping.load()) {
            if (system_clock().monotonic() >= next) {
                if_memory_allows([this] {
                    if (const auto dropped = directory->drop_expired(); !dropped) {
                        log(log_level::warning, "serve", dropped.error().to_string());
                    }
                });
                next = system_clock().monotonic() + house_interval;
            }
            system_clock().sleep_for(house_step);
        }
    }
};

served_pool::served_pool(std::unique_ptr<impl> state) : impl_(std::move(state)) {
}

result<std::unique_ptr<served_pool>> served_pool::open(const served_pool_options& options) {
    auto state = std::make_unique<impl>();
    state->options = options;
    directory_options wanted;
    wanted.purpose = options.read_only ? open_purpose::inspect : open_purpose::serve;
    wanted.wait = std::chrono::seconds(options.wait_s);
    state->directory = UTHIN_TRY(pool_directory::open(options.directory, wanted, system_clock()));
    return std::unique_ptr<served_pool>(new served_pool(std::move(state)));
}

result<void> served_pool::start() {
    UTHIN_TRY(impl_->directory->start());
    impl_->service = make_pool_service(*impl_->directory);
    impl_->api = std::make_unique<control_api>(
        *impl_->service,
        control_api_options{.nbd_socket_path = impl_->options.nbd_socket_path,
                            .more_metrics = [engine = &impl_->directory->engine()] {
                                return engine_metrics(engine->counters());
                            }});
    descriptor listening = UTHIN_TRY(listen_unix(control_socket(impl_->options.directory)));
    impl_->control = UTHIN_TRY(http_server::start(
        std::move(listening),
        [api = impl_->api.get()](const http_request& request) { return api->handle(request); }));
    return impl_->housekeeper.start([state = impl_.get()] { state->keep_house(); });
}

result<void> served_pool::stop() {
    impl_->stopping.store(true);
    impl_->housekeeper.join();
    if (impl_->control) {
        ::unlink(control_socket(impl_->options.directory).c_str());
        impl_->api->stop();
        impl_->control.reset();
    }
    impl_->service.reset();
    return impl_->directory->close();
}

served_pool::~served_pool() {
    impl_->stopping.store(true);  // when start() or what follows it failed
}

result<std::vector<export_entry>> served_pool::exports() {
    std::vector<export_entry> entries;
    for (const volume_info& volume : UTHIN_TRY(impl_->directory->list())) {
        entries.push_back({volume.name, description_of(volume)});
    }
    return entries;
}

result<opened_export> served_pool::open_export(const std::string& name, bool read_only) {
    if (name.starts_with(transfer_export_prefix)) {
        opened_export opened;
        opened.content = UTHIN_TRY(
            impl_->directory->open_transfer(name.substr(std::strlen(transfer_export_prefix))));
        opened.size_bytes = opened.content->size_bytes();
        opened.writable = !read_only;
        opened.description = "transfer";
        return opened;
    }
    auto shown = impl_->directory->show(name);
    if (!shown && shown.error().code() == error_code::not_found) {
        if (auto since = UTHIN_TRY(open_since(name))) {
            return std::move(*since);
        }
    }
    const volume_info volume = UTHIN_TRY(std::move(shown));
    opened_export opened;
    opened.writable =
        !read_only && !is_marked_read_only(volume.labels) && !impl_->options.read_only;
    opened.content = UTHIN_TRY(impl_->directory->open_volume(name, !opened.writable));
    opened.size_bytes = opened.content->size_bytes();
    opened.description = description_of(volume);
    return opened;
}

result<std::optional<opened_export>> served_pool::open_since(const std::string& name) {
    pool_directory* const directory = impl_->directory.get();
    for (const since_name& names : since_names(name)) {
        if (!directory->show(names.to) || !directory->show(names.from)) {
            continue;
        }
        // Asked once now, so that a pair without a difference is refused and not half copied.
        diff_request sides{.from = names.from, .to = names.to, .ranges_max = 1};
        const diff_reply first = UTHIN_TRY(directory->diff(sides));
        // Whoever gets the names later is not meant.
        sides.from_device = first.from_device;
        sides.to_device = first.to_device;
        opened_export opened;
        opened.content = UTHIN_TRY(directory->open_volume(names.to, true));
        opened.size_bytes = opened.content->size_bytes();
        opened.description = "what changed since " + names.from;
        opened.extents = [directory, sides](std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                            std::size_t extents_max) {
            const auto diff = [&](const diff_request& request) { return directory->diff(request); };
            return extents_since(diff, sides, offset_bytes, length_bytes, extents_max);
        };
        return opened;
    }
    return std::nullopt;
}

uthin::pool& served_pool::engine() noexcept {
    return impl_->directory->engine();
}

}  // namespace uthin::frontends
