#include "support/scenario_generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "base/random.h"

namespace uthin::test {

namespace {

constexpr std::uint64_t metadata_sectors = 8192;
constexpr std::uint64_t thin_blocks = 48;

class generator {
public:
    explicit generator(std::uint64_t seed) : random_(seed), seed_(seed), fills_(seed % 4 == 3) {
        constexpr std::array<std::uint64_t, 4> sizes = {128, 256, 384, 1024};
        block_sectors_ = sizes[below(sizes.size())];
        pool_blocks_ = fills_ ? 40 + below(30) : 400;
        disk_blocks_ = pool_blocks_ + 200;
        passdown_ = below(3) != 0;
    }

    std::string text() {
        line(fmt::format("# generated, seed {}", seed_));
        line(fmt::format("disk disk0 {}", metadata_sectors));
        line(fmt::format("disk disk1 {}", disk_blocks_ * block_sectors_));
        line("create pool " + table());
        for (int i = 0; i < 3; ++i) {
            make();
        }
        for (std::uint64_t steps = 30 + below(40); steps > 0; --steps) {
            step();
        }
        line("status pool");
        return std::move(text_);
    }

private:
    struct thin {
        bool active = false;
        std::uint64_t sectors = 0;
    };

    std::uint64_t below(std::uint64_t limit) { return random_.below(limit); }
    void line(const std::string& words) { text_ += words + "\n"; }

    [[nodiscard]] std::string table() const {
        std::vector<std::string> features;
        if (!passdown_) {
            features.emplace_back("no_discard_passdown");
        }
        features.emplace_back("error_if_no_space");
        std::string words;
        for (const std::string& feature : features) {
            words += " " + feature;
        }
        return fmt::format("0 {} thin-pool /dev/disk0 /dev/disk1 {} 0 {}{}",
                           pool_blocks_ * block_sectors_, block_sectors_, features.size(), words);
    }

    void step() {
        const std::uint64_t choice = below(100);
        if (choice < 40) {
            write();
        } else if (choice < 52) {
            discard();
        } else if (choice < 62) {
            snapshot();
        } else if (choice < 66) {
            make();
        } else if (choice < 72) {
            remove();
        } else if (choice < 80) {
            line("status pool");
        } else if (choice < 84) {
            flush();
        } else if (choice < 88) {
            metadata_snapshot();
        } else if (choice < 91) {
            transaction_id();
        } else if (choice < 94) {
            grow();
        } else if (choice < 97) {
            toggle();
        } else {
            restart();
        }
    }

    void transaction_id() {
        const bool wrong = below(4) == 0;
        line(fmt::format("message pool set_transaction_id {} {}", wrong ? id_ + 7 : id_, id_ + 1));
        id_ += wrong ? 0 : 1;
    }

    // A device that is active; made or activated when there is none.
    std::uint64_t active() {
        std::vector<std::uint64_t> ids;
        for (const auto& [id, one] : thins_) {
            if (one.active) {
                ids.push_back(id);
            }
        }
        return ids.empty() ? make() : ids[below(ids.size())];
    }

    std::uint64_t make() {
        const std::uint64_t id = next_++;
        line(fmt::format("message pool create_thin {}", id));
        thins_[id].sectors = thin_blocks * block_sectors_ - 8 * below(3);
        activate(id);
        return id;
    }

    void activate(std::uint64_t id) {
        thins_[id].active = true;
        line(fmt::format("create t{} 0 {} thin /dev/mapper/pool {}", id, thins_[id].sectors, id));
    }

    void deactivate(std::uint64_t id) {
        thins_[id].active = false;
        line(fmt::format("remove t{}", id));
    }

    // In a pool that may be full each request stays in its block: which block gets the last free
    // one must not depend on how a request is cut.
    void write() {
        const std::uint64_t id = active();
        const std::uint64_t size = thins_[id].sectors;
        const std::uint64_t sector = below(size / 8) * 8;
        const std::uint64_t length =
            std::min(size - sector, 8 * (1 + below(below(3) == 0 ? 256 : 16)));
        const std::uint64_t tag = ++tag_;
        if (!fills_) {
            line(fmt::format("write t{} {} {} {}", id, sector, length, tag));
            return;
        }
        const std::uint64_t left_in_block = block_sectors_ - sector % block_sectors_;
        line(fmt::format("write t{} {} {} {}", id, sector, std::min(length, left_in_block), tag));
    }

    // The kernel's block layer cuts discards badly where the block size is no power of two.
    void discard() {
        if (block_sectors_ % 384 == 0) {
            write();
            return;
        }
        const std::uint64_t id = active();
        const std::uint64_t size = thins_[id].sectors;
        const std::uint64_t sector = below(size / 8) * 8;
        const std::uint64_t length = std::min(size - sector, 8 * (1 + below(block_sectors_)));
        line(fmt::format("discard t{} {} {}", id, sector, length));
        if (fills_) {
            line("status pool");  // commits, so that the space is there at once on both sides
        }
    }

    void snapshot() {
        if (thins_.size() > 12) {
            remove();
            return;
        }
        const std::uint64_t origin = active();
        const std::uint64_t id = next_++;
        line(fmt::format("suspend t{}", origin));
        line(fmt::format("message pool create_snap {} {}", id, origin));
        line(fmt::format("resume t{}", origin));
        thins_[id].sectors = thins_[origin].sectors;
        if (below(3) != 0) {
            activate(id);
        }
    }

    void remove() {
        if (thins_.size() < 3) {
            return;
        }
        const auto at =
            std::next(thins_.begin(), static_cast<std::ptrdiff_t>(below(thins_.size())));
        const std::uint64_t id = at->first;
        if (at->second.active && below(4) == 0) {
            line(fmt::format("message pool delete {}", id));  // busy
            return;
        }
        if (at->second.active) {
            deactivate(id);
        }
        line(fmt::format("message pool delete {}", id));
        thins_.erase(id);
    }

    // On a full pool the kernel takes a FLUSH for a write to block 0.
    void flush() {
        if (!fills_) {
            line(fmt::format("flush t{}", active()));
        }
    }

    void metadata_snapshot() {
        line(held_ ? "message pool release_metadata_snap" : "message pool reserve_metadata_snap");
        held_ = !held_;
        line("status pool");
    }

    void grow() {
        if (pool_blocks_ + 20 > disk_blocks_) {
            return;
        }
        pool_blocks_ += 1 + below(20);
        line("load pool " + table());
        line("suspend pool");
        line("resume pool");
        line("status pool");
    }

    void toggle() {
        const std::uint64_t id = active();
        line(fmt::format("status t{}", id));
        deactivate(id);
        activate(id);
    }

    void restart() {
        std::vector<std::uint64_t> ids;
        for (const auto& [id, one] : thins_) {
            if (one.active) {
                ids.push_back(id);
            }
        }
        for (const std::uint64_t id : ids) {
            deactivate(id);
        }
        line("remove pool");
        line("create pool " + table());
        for (const std::uint64_t id : ids) {
            activate(id);
        }
    }

    random_generator random_;
    const std::uint64_t seed_;
    const bool fills_;
    std::uint64_t block_sectors_ = 0;
    std::uint64_t pool_blocks_ = 0;
    std::uint64_t disk_blocks_ = 0;
    bool passdown_ = true;
    bool held_ = false;
    std::map<std::uint64_t, thin> thins_;
    std::uint64_t next_ = 0;
    std::uint64_t tag_ = 0;
    std::uint64_t id_ = 0;
    std::string text_;
};

}  // namespace

std::string generated_scenario(std::uint64_t seed) {
    return generator(seed).text();
}

}  // namespace uthin::test
