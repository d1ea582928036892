// Merging a volume into its external origin, and flattening it: checks, records, life cycle. The
// work itself is pool/origin_mover.h.
#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <utility>

#include "base/result.h"
#include "io/durable_file.h"
#include "io/open.h"
#include "io/shared_device.h"
#include "pool/names.h"
#include "pool/origin_job.h"
#include "pool/pool_directory.h"
#include "uthin/log.h"

namespace uthin {

namespace {

using pool_engine::move_direction;
using pool_engine::origin_mover;

// The record of a job, in the labels of its volume: "merge", "merge copy-up grow-origin paused".
constexpr const char* job_label = "origin-job";

struct recorded_job {
    origin_job_request request;
    bool paused = false;
};

std::string_view verb_of(origin_job_kind kind) {
    return kind == origin_job_kind::merge ? "merge" : "flatten";
}

std::optional<recorded_job> job_of(const volume_record& record) {
    const auto label = record.labels.find(job_label);
    if (label == record.labels.end()) {
        return std::nullopt;
    }
    recorded_job job;
    job.request.name = record.name;
    std::istringstream words(label->second);
    for (std::string word; words >> word;) {
        if (word == "flatten") {
            job.request.kind = origin_job_kind::flatten;
        }
        job.request.copy_up = job.request.copy_up || word == "copy-up";
        job.request.grow_origin = job.request.grow_origin || word == "grow-origin";
        job.paused = job.paused || word == "paused";
    }
    return job;
}

std::map<std::string, std::string> labels_with(const volume_record& record,
                                               const std::optional<recorded_job>& job) {
    std::map<std::string, std::string> labels = record.labels;
    labels.erase(job_label);
    if (job) {
        labels[job_label] = fmt::format(
            "{}{}{}{}", verb_of(job->request.kind), job->request.copy_up ? " copy-up" : "",
            job->request.grow_origin ? " grow-origin" : "", job->paused ? " paused" : "");
    }
    return labels;
}

bool is_same_origin(const std::string& a, const std::string& b) {
    if (a == b) {
        return true;
    }
    const std::string path_a = path_of_url(a);
    const std::string path_b = path_of_url(b);
    return !path_a.empty() && !path_b.empty() && io::is_same_file(path_a, path_b);
}

// What is read is shared with other readers, what is written with nobody, where there are locks.
result<std::unique_ptr<block_device>> open_url(const std::string& url, bool writable, bool shared) {
    return io::open_device(url,
                           {.read_only = !writable,
                            .lock = shared ? io::lock_mode::shared : io::lock_mode::exclusive});
}

}  // namespace

result<std::shared_ptr<block_device>> pool_directory::origin_device(const std::string& url,
                                                                    bool writable) {
    live_origin& slot = origins_[url];
    std::shared_ptr<block_device> device = slot.device.lock();
    if (device != nullptr && (slot.writable || !writable)) {
        return device;
    }
    // Read by volumes of this pool now: their lock and an exclusive one exclude each other.
    const bool shared = !writable || device != nullptr;
    device =
        UTHIN_TRY_CTX(open_origin_ ? open_origin_(url, writable) : open_url(url, writable, shared),
                      "external origin");
    slot = {device, writable};
    return device;
}

result<std::shared_ptr<volume>> pool_directory::open_on_origin(
    const volume_record& record, std::shared_ptr<block_device> origin) {
    const device_id id = record.identity.id;
    // Read-only: a client that has it open keeps its rights.
    auto open = UTHIN_TRY(pool_->open_volume(
        id, record.size_bytes, true, std::make_unique<io::shared_device>(std::move(origin))));
    const lock_guard held(open_lock_);
    open_[id] = open;
    return open;
}

result<std::vector<volume_record>> pool_directory::neighbours(const volume_record& record) {
    std::vector<volume_record> found;
    for (volume_record& other : UTHIN_TRY(names_->volumes())) {
        const device_id id = other.identity.id;
        if (other.uuid != record.uuid && !other.external_origin.empty() &&
            is_same_origin(other.external_origin, record.external_origin) &&
            UTHIN_TRY(probe(std::span(&id, 1))).has(other.identity)) {
            found.push_back(std::move(other));
        }
    }
    return found;
}

result<void> pool_directory::refuse_moving(device_id id, std::string_view name) {
    for (const auto& [uuid, job] : jobs_) {
        if (job->running() && job->target() == id) {
            const origin_job_info info = job->info();
            return fail(error_code::busy,
                        fmt::format("{}/{}: is being worked on by 'uthin {}'; wait for its end, or "
                                    "use --pause or --abort of that command",
                                    printable(directory_), printable(name), verb_of(info.kind)));
        }
    }
    return {};
}

result<void> pool_directory::refuse_merging(const std::string& url, std::string_view name) {
    if (url.empty()) {
        return {};
    }
    for (const auto& [uuid, job] : jobs_) {
        const origin_job_info info = job->info();
        if (!job->running() || info.kind != origin_job_kind::merge) {
            continue;
        }
        const auto record = UTHIN_TRY(names_->find_uuid(uuid));
        if (record && is_same_origin(record->external_origin, url)) {
            return fail(
                error_code::busy,
                fmt::format("{}/{}: '{}' is being merged into the external origin; wait "
                            "for the end, or use 'uthin merge --pause'",
                            printable(directory_), printable(name), printable(record->name)));
        }
    }
    return {};
}

result<void> pool_directory::check_origin_job(const origin_job_request& request,
                                              const found_volume& target,
                                              std::span<const volume_record> others) {
    const std::string shown = fmt::format("{}/{}", printable(directory_), printable(request.name));
    if (target.record.external_origin.empty()) {
        return fail(error_code::invalid_argument,
                    fmt::format("{}: stands on no external origin, so there is nothing to {}; see "
                                "'uthin volume list'",
                                shown, verb_of(request.kind)));
    }
    UTHIN_TRY(refuse_moving(target.record.identity.id, request.name));
    UTHIN_TRY(refuse_merging(target.record.external_origin, request.name));
    if (request.kind == origin_job_kind::flatten || others.empty()) {
        return {};
    }
    for (const volume_record& other : others) {
        UTHIN_TRY(refuse_moving(other.identity.id, other.name));
    }
    if (!request.copy_up) {
        return fail(error_code::busy,
                    fmt::format("{}: '{}'{} the same external origin and would change; use "
                                "--copy-up, or delete or flatten it first",
                                shown, printable(others.front().name),
                                others.size() == 1
                                    ? std::string(" stands on")
                                    : fmt::format(" and {} more stand on", others.size() - 1)));
    }
    return {};
}

// The origin as it is to be written to.
result<std::shared_ptr<block_device>> pool_directory::prepare_origin(
    const origin_job_request& request, const volume_record& record) {
    const bool merging = request.kind == origin_job_kind::merge;
    auto origin = UTHIN_TRY(origin_device(record.external_origin, merging));
    if (!merging) {
        return origin;
    }
    const std::uint64_t origin_bytes = UTHIN_TRY(origin->size_bytes());
    if (origin_bytes >= record.size_bytes) {
        return origin;
    }
    if (request.grow_origin) {
        UTHIN_TRY_CTX(origin->grow(record.size_bytes), "external origin");
        return origin;
    }
    const std::uint64_t block_bytes = pool_->data_block_size_bytes();
    const std::uint64_t mapped_bytes = UTHIN_TRY(mapped_end_bytes(record.identity.id));
    const std::uint64_t origin_blocks = (origin_bytes + block_bytes - 1) / block_bytes;
    if (std::min(mapped_bytes, record.size_bytes) > origin_blocks * block_bytes) {
        return fail(error_code::out_of_range,
                    fmt::format("holds data behind the end of its external origin, which has {} "
                                "bytes; use --grow-origin",
                                origin_bytes));
    }
    return origin;
}

result<std::shared_ptr<origin_job>> pool_directory::make_origin_job(
    const origin_job_request& request) {
    const std::string shown = fmt::format("{}/{}", printable(directory_), printable(request.name));
    const found_volume target = UTHIN_TRY(must_find(request.name));
    const std::vector<volume_record> others = request.kind == origin_job_kind::merge
                                                  ? UTHIN_TRY(neighbours(target.record))
                                                  : std::vector<volume_record>();
    UTHIN_TRY(check_origin_job(request, target, others));
    UTHIN_TRY(prepare_change(request.kind == origin_job_kind::merge ? "merge a volume"
                                                                    : "flatten a volume"));
    const volume_record& record = target.record;
    const auto origin = UTHIN_TRY_CTX(prepare_origin(request, record), shown);
    auto volume = UTHIN_TRY_CTX(open_on_origin(record, origin), shown);
    std::vector<std::shared_ptr<uthin::volume>> open_others;
    for (const volume_record& other : others) {
        open_others.push_back(UTHIN_TRY_CTX(open_on_origin(other, origin), shown));
    }
    auto mover = UTHIN_TRY_CTX(
        origin_mover::begin(
            request.kind == origin_job_kind::merge ? move_direction::down : move_direction::up,
            std::move(volume), std::move(open_others), origin.get()),
        shown);
    origin_job_info info;
    info.name = record.name;
    info.kind = request.kind;
    info.state = "running";
    info.total_bytes = info.left_bytes = UTHIN_TRY_CTX(mover->bytes_left(), shown);
    UTHIN_TRY(names_->set_labels(record.uuid, labels_with(record, recorded_job{request, false})));
    const auto finish = [this, uuid = record.uuid, kind = request.kind]() -> result<void> {
        const lock_guard held(labels_lock_);
        const auto now = UTHIN_TRY(names_->find_uuid(uuid));
        if (!now) {
            return {};
        }
        const auto labels = labels_with(*now, std::nullopt);
        return kind == origin_job_kind::merge ? names_->set_labels(uuid, labels)
                                              : names_->drop_origin(uuid, labels);
    };
    auto job = std::make_shared<origin_job>(std::move(info), record.identity.id, std::move(mover),
                                            origin, finish);
    jobs_[record.uuid] = job;
    return job;
}

result<origin_job_info> pool_directory::start_origin_job(const origin_job_request& request) {
    {
        const lock_guard held(change_lock_);
        if (started_) {
            const auto job = UTHIN_TRY(make_origin_job(request));
            UTHIN_TRY(job->start());
            return job->info();
        }
    }
    return run_origin_job(request, {});
}

result<origin_job_info> pool_directory::run_origin_job(const origin_job_request& request,
                                                       const std::function<void()>& between) {
    std::shared_ptr<origin_job> job;
    {
        const lock_guard held(change_lock_);
        job = UTHIN_TRY(make_origin_job(request));
    }
    UTHIN_TRY_CTX(job->run(between),
                  fmt::format("{}/{}", printable(directory_), printable(request.name)));
    return job->info();
}

result<origin_job_info> pool_directory::show_origin_job(std::string_view name) {
    const lock_guard held(change_lock_);
    const found_volume found = UTHIN_TRY(must_find(name));
    const auto recorded = job_of(found.record);
    const auto at = jobs_.find(found.record.uuid);
    if (at == jobs_.end() && !recorded) {
        return fail(error_code::not_found,
                    fmt::format("{}/{}: is not being merged or flattened; see 'uthin merge --help'",
                                printable(directory_), printable(name)));
    }
    origin_job_info info;
    if (at != jobs_.end()) {
        info = at->second->info();
    } else {
        info.kind = recorded->request.kind;
        info.state = "stopped";
        info.left_bytes = info.total_bytes =
            found.details.mapped_blocks * pool_->data_block_size_bytes();
    }
    info.name = found.record.name;
    if (recorded && recorded->paused && info.state != "running") {
        info.state = "paused";
    }
    return info;
}

result<origin_job_info> pool_directory::stop_origin_job(std::string_view name, bool forget) {
    origin_job_info info = UTHIN_TRY(show_origin_job(name));
    const lock_guard held(change_lock_);
    const volume_record record = UTHIN_TRY(must_find(name)).record;
    if (const auto at = jobs_.find(record.uuid); at != jobs_.end()) {
        at->second->stop();
        info = at->second->info();
        if (forget) {
            jobs_.erase(at);
        }
    }
    // Read again: it may have come to its end.
    const auto now = UTHIN_TRY(names_->find_uuid(record.uuid));
    auto job = now ? job_of(*now) : std::nullopt;
    if (job) {
        job->paused = true;
        info.state = forget ? "stopped" : "paused";
        UTHIN_TRY(names_->set_labels(record.uuid, labels_with(*now, forget ? std::nullopt : job)));
    }
    return info;
}

result<void> pool_directory::resume_origin_jobs() {
    for (const volume_record& record : UTHIN_TRY(names_->volumes())) {
        const auto recorded = job_of(record);
        if (!recorded || recorded->paused) {
            continue;
        }
        auto job = make_origin_job(recorded->request);
        const result<void> begun = job ? (*job)->start() : std::unexpected(job.error());
        if (!begun) {
            log(log_level::warning, "directory", begun.error().to_string());
            origin_job_info info;
            info.name = record.name;
            info.kind = recorded->request.kind;
            jobs_[record.uuid] =
                std::make_shared<origin_job>(std::move(info), record.identity.id, begun.error());
        }
    }
    return {};
}

void pool_directory::stop_origin_jobs() {
    const lock_guard held(change_lock_);
    for (const auto& [uuid, job] : jobs_) {
        job->stop();
    }
}

}  // namespace uthin
