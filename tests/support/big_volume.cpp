#include "support/big_volume.h"

#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <numeric>

#include "support/tier.h"

namespace uthin::test {
namespace {

// Near the golden section of `blocks` and without a common factor: neighbours come to lie far
// apart, and every block is used once.
std::uint64_t stride_for(std::uint64_t blocks) {
    std::uint64_t stride = blocks * 618 / 1000 + 1;
    while (std::gcd(stride, blocks) != 1) {
        ++stride;
    }
    return stride;
}

}  // namespace

bool is_long_run() {
    return tier() > 0;
}

double cpu_seconds() {
    std::timespec now{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

std::uint64_t resident_bytes() {
    unsigned long long total_pages = 0;
    unsigned long long resident_pages = 0;
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    if (file == nullptr || std::fscanf(file, "%llu %llu", &total_pages, &resident_pages) != 2) {
        resident_pages = 0;
    }
    if (file != nullptr) {
        std::fclose(file);
    }
    return resident_pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

result<void> build_volume(metadata& pool, device_id id, std::uint64_t blocks, layout how) {
    const std::uint64_t run_blocks = how == layout::contiguous ? blocks : 1;
    const std::uint64_t stride = stride_for(blocks);
    std::uint64_t next = 0;
    std::uint64_t data = 0;
    return pool.build_device(id, {}, [&]() -> result<std::optional<mapping_run>> {
        if (next == blocks) {
            return std::optional<mapping_run>();
        }
        const mapping_run run{virtual_block(next), data_block(data), run_blocks, 0};
        next += run_blocks;
        data = (data + stride) % blocks;
        return run;
    });
}

work_done work_meter::done() const {
    const metadata_statistics now = pool_.statistics();
    return {now.blocks_written - begin_.blocks_written, now.blocks_read - begin_.blocks_read,
            (cpu_seconds() - begin_cpu_) * 1e3};
}

}  // namespace uthin::test
