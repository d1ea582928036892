// Runs scenarios in the guest of the kernel lab, by the device-mapper's own ioctls. Linked
// statically.
//
//   guest-scenarios [--disks] OUT SCENARIO...
//
// writes OUT/NAME.outcome for each, and OUT/dumps/NAME.N with the blocks of dumped metadata that
// are not all zeros. Disks are loop devices over /tmp; with --disks those that the guest has are
// used.
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/scenario.h"

namespace {

class file_handle {
public:
    file_handle(const std::string& path, int flags) : fd_(::open(path.c_str(), flags, 0600)) {}
    ~file_handle() {
        if (fd_ >= 0) {
            ::close(fd_);
        }
    }
    file_handle(const file_handle&) = delete;
    file_handle& operator=(const file_handle&) = delete;
    [[nodiscard]] int get() const { return fd_; }
    [[nodiscard]] bool ok() const { return fd_ >= 0; }

private:
    const int fd_;
};

std::string node_of(const std::string& name) {
    const std::string mapped = "/dev/mapper/" + name;
    return ::access(mapped.c_str(), F_OK) == 0 ? mapped : "/dev/" + name;
}

// One call of the device-mapper with room for what it answers.
class dm_call {
public:
    explicit dm_call(const std::string& name, std::uint32_t flags = 0) : memory_(1 << 16) {
        auto& head = header();
        head.version[0] = 4;
        head.data_size = static_cast<std::uint32_t>(memory_.size());
        head.data_start = sizeof(dm_ioctl);
        head.flags = flags;
        std::snprintf(head.name, sizeof head.name, "%s", name.c_str());
    }
    [[nodiscard]] dm_ioctl& header() { return *reinterpret_cast<dm_ioctl*>(memory_.data()); }
    [[nodiscard]] char* payload() { return memory_.data() + sizeof(dm_ioctl); }
    [[nodiscard]] int run(unsigned long command) {
        static const file_handle control("/dev/mapper/control", O_RDWR);
        return ::ioctl(control.get(), command, memory_.data()) == 0 ? 0 : errno;
    }

private:
    std::vector<char> memory_;
};

class kernel_backend final : public uthin::test::scenario_backend {
public:
    kernel_backend(std::string out, std::string scenario, bool own_disks)
        : out_(std::move(out)), scenario_(std::move(scenario)), own_disks_(own_disks) {}

    int make_disk(const std::string& name, std::uint64_t size_sectors) override {
        if (own_disks_) {
            return EINVAL;
        }
        const std::string image = "/tmp/" + name + ".image";
        const std::string loop = "/dev/loop" + name.substr(name.find_first_of("0123456789"));
        const std::string link = "/dev/" + name;
        const file_handle device(loop, O_RDWR);
        if (device.ok()) {
            ::ioctl(device.get(), LOOP_CLR_FD);
        }
        ::unlink(image.c_str());
        const file_handle file(image, O_RDWR | O_CREAT | O_TRUNC);
        if (!device.ok() || !file.ok() ||
            ::ftruncate(file.get(), static_cast<off_t>(size_sectors) * 512) != 0 ||
            ::ioctl(device.get(), LOOP_SET_FD, file.get()) != 0) {
            return errno;
        }
        ::unlink(link.c_str());
        return ::symlink(loop.c_str(), link.c_str()) == 0 ? 0 : errno;
    }

    int create(const std::string& name, const std::string& table) override {
        dm_call make(name);
        if (const int refused = make.run(DM_DEV_CREATE); refused != 0) {
            return refused;
        }
        const std::uint64_t number = make.header().dev;
        int refused = load(name, table);
        if (refused == 0) {
            refused = resume(name);
        }
        if (refused != 0) {
            static_cast<void>(remove(name));
            return refused;
        }
        const std::string node = "/dev/mapper/" + name;
        ::unlink(node.c_str());
        ::mknod(node.c_str(), S_IFBLK | 0600,
                makedev((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00)));
        return 0;
    }

    int load(const std::string& name, const std::string& table) override {
        dm_call call(name);
        char* at = call.payload();
        for (std::size_t begin = 0; begin <= table.size();) {
            const std::size_t end = std::min(table.find(';', begin), table.size());
            const std::string text = table.substr(begin, end - begin);
            begin = end + 1;
            unsigned long long start = 0;
            unsigned long long length = 0;
            char type[DM_MAX_TYPE_NAME] = {};
            int used = 0;
            if (std::sscanf(text.c_str(), "%llu %llu %15s %n", &start, &length, type, &used) != 3) {
                return EINVAL;
            }
            auto* spec = reinterpret_cast<dm_target_spec*>(at);
            spec->sector_start = start;
            spec->length = length;
            std::memcpy(spec->target_type, type, sizeof type);
            const std::string words = text.substr(static_cast<std::size_t>(used));
            std::memcpy(at + sizeof *spec, words.c_str(), words.size() + 1);
            const std::size_t size = sizeof *spec + words.size() + 1;
            spec->next = static_cast<std::uint32_t>((size + 7) / 8 * 8);
            at += spec->next;
            ++call.header().target_count;
        }
        return call.run(DM_TABLE_LOAD);
    }

    int clear(const std::string& name) override { return dm_call(name).run(DM_TABLE_CLEAR); }
    int suspend(const std::string& name, bool noflush) override {
        return dm_call(name, DM_SUSPEND_FLAG | (noflush ? DM_NOFLUSH_FLAG : 0)).run(DM_DEV_SUSPEND);
    }
    int resume(const std::string& name) override { return dm_call(name).run(DM_DEV_SUSPEND); }
    int remove(const std::string& name) override {
        const int refused = dm_call(name).run(DM_DEV_REMOVE);
        if (refused == 0) {
            ::unlink(("/dev/mapper/" + name).c_str());
        }
        return refused;
    }
    int message(const std::string& name, std::uint64_t sector, const std::string& text) override {
        dm_call call(name);
        std::memcpy(call.payload(), &sector, sizeof sector);  // dm_target_msg
        std::memcpy(call.payload() + sizeof sector, text.c_str(), text.size() + 1);
        return call.run(DM_TARGET_MSG);
    }
    int status(const std::string& name, bool noflush, std::string& text) override {
        return lines(name, noflush ? DM_NOFLUSH_FLAG : 0, text);
    }
    int table(const std::string& name, std::string& text) override {
        const int refused = lines(name, DM_STATUS_TABLE_FLAG, text);
        text = with_names(text);
        return refused;
    }
    int events(const std::string& name, std::uint64_t& count) override {
        dm_call call(name);
        const int refused = call.run(DM_DEV_STATUS);
        count = call.header().event_nr;
        return refused;
    }
    int set_no_space_timeout(std::uint64_t seconds) override {
        std::ofstream("/sys/module/dm_thin_pool/parameters/no_space_timeout") << seconds;
        return 0;
    }

    std::int64_t read(const std::string& name, std::uint64_t sector,
                      std::span<std::byte> into) override {
        const file_handle device(node_of(name), O_RDONLY | O_DIRECT);
        if (!device.ok()) {
            return -errno;
        }
        const ssize_t done =
            ::pread(device.get(), into.data(), into.size(), static_cast<off_t>(sector) * 512);
        return done < 0 ? -errno : done;
    }
    std::int64_t write(const std::string& name, std::uint64_t sector,
                       std::span<const std::byte> from) override {
        const file_handle device(node_of(name), O_WRONLY | O_DIRECT);
        if (!device.ok()) {
            return -errno;
        }
        const ssize_t done =
            ::pwrite(device.get(), from.data(), from.size(), static_cast<off_t>(sector) * 512);
        return done < 0 ? -errno : done;
    }
    int discard(const std::string& name, std::uint64_t sector, std::uint64_t length) override {
        const file_handle device(node_of(name), O_WRONLY);
        std::uint64_t range[2] = {sector * 512, length * 512};
        return device.ok() && ::ioctl(device.get(), BLKDISCARD, range) == 0 ? 0 : errno;
    }
    int flush(const std::string& name) override {
        const file_handle device(node_of(name), O_WRONLY);
        return device.ok() && ::fsync(device.get()) == 0 ? 0 : errno;
    }
    std::uint64_t size_sectors(const std::string& name) override {
        const file_handle device(node_of(name), O_RDONLY);
        std::uint64_t bytes = 0;
        return device.ok() && ::ioctl(device.get(), BLKGETSIZE64, &bytes) == 0 ? bytes / 512 : 0;
    }

    std::string dump(const std::string& disk) override {
        const std::string name = scenario_ + "." + std::to_string(dumps_++);
        std::ofstream file(out_ + "/dumps/" + name, std::ios::binary);
        constexpr std::size_t block_bytes = 4096;
        const std::uint64_t blocks = size_sectors(disk) / 8;
        file.write(reinterpret_cast<const char*>(&blocks), sizeof blocks);
        const file_handle device("/dev/" + disk, O_RDONLY | O_DIRECT);
        const std::span<std::byte> bytes = buffer(256 * block_bytes);
        for (std::uint64_t at = 0; at < blocks;) {
            const ssize_t done = ::pread(device.get(), bytes.data(), bytes.size(),
                                         static_cast<off_t>(at * block_bytes));
            if (done < static_cast<ssize_t>(block_bytes)) {
                return "  unreadable\n";
            }
            for (std::size_t i = 0; i + block_bytes <= static_cast<std::size_t>(done);
                 i += block_bytes, ++at) {
                const auto block = bytes.subspan(i, block_bytes);
                if (std::any_of(block.begin(), block.end(),
                                [](std::byte b) { return b != std::byte{}; })) {
                    file.write(reinterpret_cast<const char*>(&at), sizeof at);
                    file.write(reinterpret_cast<const char*>(block.data()), block_bytes);
                }
            }
        }
        return "  @dump " + name + "\n";
    }

    std::span<std::byte> buffer(std::size_t bytes) override {
        struct freed {
            void operator()(void* memory) const { std::free(memory); }
        };
        constexpr std::size_t bytes_max = 2048 * 512;
        thread_local const std::unique_ptr<void, freed> memory(std::aligned_alloc(4096, bytes_max));
        return {static_cast<std::byte*>(memory.get()), bytes};
    }

private:
    static int lines(const std::string& name, std::uint32_t flags, std::string& text) {
        dm_call call(name, flags);
        if (const int refused = call.run(DM_TABLE_STATUS); refused != 0) {
            return refused;
        }
        const char* at = call.payload();
        for (std::uint32_t i = 0; i < call.header().target_count; ++i) {
            const auto* spec = reinterpret_cast<const dm_target_spec*>(at);
            text += (text.empty() ? "" : "\n") + std::to_string(spec->sector_start) + " " +
                    std::to_string(spec->length) + " " + spec->target_type + " " +
                    (at + sizeof *spec);
            at = call.payload() + spec->next;
        }
        return 0;
    }

    // Device numbers as the paths that a table is written with.
    static std::string with_names(std::string text) {
        text += ' ';
        for (const char* folder : {"/dev/mapper/", "/dev/disk"}) {
            for (const std::string& path : paths(folder)) {
                struct stat found = {};
                if (::stat(path.c_str(), &found) != 0 || !S_ISBLK(found.st_mode)) {
                    continue;
                }
                const std::string number = std::to_string(major(found.st_rdev)) + ":" +
                                           std::to_string(minor(found.st_rdev));
                for (std::size_t at = 0;
                     (at = text.find(" " + number + " ", at)) != std::string::npos;) {
                    text.replace(at + 1, number.size(), path);
                }
            }
        }
        text.pop_back();
        return text;
    }

    static std::vector<std::string> paths(const std::string& start) {
        std::vector<std::string> found;
        const std::string folder = start.substr(0, start.rfind('/') + 1);
        const std::unique_ptr<FILE, int (*)(FILE*)> list(
            ::popen(("ls -d " + start + "*").c_str(), "r"), ::pclose);
        char line[256];
        while (list != nullptr && std::fgets(line, sizeof line, list.get()) != nullptr) {
            std::string path(line);
            path.pop_back();
            found.push_back(path);
        }
        return found;
    }

    const std::string out_;
    const std::string scenario_;
    const bool own_disks_;
    int dumps_ = 0;
};

std::string file_text(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int argc, char** argv) {
    int at = 1;
    const bool own_disks = argc > 1 && std::string(argv[1]) == "--disks";
    at += own_disks ? 1 : 0;
    if (argc - at < 2) {
        std::fprintf(stderr, "guest-scenarios [--disks] OUT SCENARIO...\n");
        return 2;
    }
    const std::string out = argv[at++];
    ::mkdir((out + "/dumps").c_str(), 0700);
    constexpr unsigned scenario_seconds_max = 600;  // then SIGALRM ends this program
    for (; at < argc; ++at) {
        const std::string path = argv[at];
        const std::string name = path.substr(path.rfind('/') + 1);
        std::printf("%s\n", name.c_str());
        std::fflush(stdout);
        ::alarm(scenario_seconds_max);
        kernel_backend backend(out, name, own_disks);
        try {
            const std::string outcome = uthin::test::run_scenario(file_text(path), backend);
            std::ofstream(out + "/" + name + ".outcome") << outcome;
        } catch (const std::exception& problem) {
            std::printf("%s: %s\n", name.c_str(), problem.what());
            return 1;
        }
    }
    return 0;
}
