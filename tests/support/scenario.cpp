#include "support/scenario.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <vector>

namespace uthin::test {

namespace {

constexpr std::uint64_t sector_bytes = 512;
constexpr std::uint64_t io_sectors_max = 2048;

using words_t = std::vector<std::string>;

words_t words_of(const std::string& text) {
    std::istringstream in(text);
    words_t words;
    for (std::string word; in >> word;) {
        words.push_back(word);
    }
    return words;
}

std::string rest_from(const words_t& words, std::size_t first) {
    std::string text;
    for (std::size_t i = first; i < words.size(); ++i) {
        text += (i == first ? "" : " ") + words[i];
    }
    return text;
}

struct numbered_line {
    std::size_t number = 0;
    std::string text;
};

// An expression of numbers, names, + - * / %, from left to right with the usual precedence.
class calculator {
public:
    calculator(const std::string& text, const std::map<std::string, std::uint64_t>& names)
        : text_(text), names_(names) {}

    std::uint64_t value() {
        const std::uint64_t result = sum();
        if (at_ != text_.size()) {
            throw std::runtime_error("cannot compute {" + text_ + "}");
        }
        return result;
    }

private:
    [[nodiscard]] char next() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    std::uint64_t sum() {
        std::uint64_t result = product();
        while (next() == '+' || next() == '-') {
            const char sign = text_[at_++];
            const std::uint64_t other = product();
            result = sign == '+' ? result + other : result - other;
        }
        return result;
    }
    std::uint64_t product() {
        std::uint64_t result = atom();
        while (next() == '*' || next() == '/' || next() == '%') {
            const char sign = text_[at_++];
            const std::uint64_t other = atom();
            if (sign != '*' && other == 0) {
                throw std::runtime_error("division by zero in {" + text_ + "}");
            }
            result = sign == '*' ? result * other : sign == '/' ? result / other : result % other;
        }
        return result;
    }
    std::uint64_t atom() {
        if (next() == '(') {
            ++at_;
            const std::uint64_t result = sum();
            ++at_;
            return result;
        }
        std::string word;
        while (std::isalnum(static_cast<unsigned char>(next())) != 0) {
            word += text_[at_++];
        }
        if (const auto found = names_.find(word); found != names_.end()) {
            return found->second;
        }
        char* end = nullptr;
        const std::uint64_t result = std::strtoull(word.c_str(), &end, 10);
        if (word.empty() || *end != '\0') {
            throw std::runtime_error("cannot compute {" + text_ + "}");
        }
        return result;
    }

    const std::string text_;
    const std::map<std::string, std::uint64_t>& names_;
    std::size_t at_ = 0;
};

// Whole lines of one tag: "START LENGTH TAG DELTA", where DELTA is where the sector was written
// minus where it is read; tag "mixed" is none of ours.
class sector_runs {
public:
    void add(std::uint64_t sector, std::span<const std::byte> bytes) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data(), sizeof word);
        bool same = true;
        for (std::size_t i = 0; i < bytes.size(); i += sizeof word) {
            same = same && std::memcmp(bytes.data() + i, &word, sizeof word) == 0;
        }
        std::string tag = "mixed";
        std::int64_t delta = 0;
        if (same) {
            tag = std::to_string(word >> 40);
            delta = word == 0 ? 0
                              : static_cast<std::int64_t>(word & ((1ULL << 40) - 1)) -
                                    static_cast<std::int64_t>(sector);
        }
        if (length_ == 0 || tag != tag_ || delta != delta_) {
            end();
            begin_ = sector;
            tag_ = tag;
            delta_ = delta;
        }
        ++length_;
    }
    std::string text() {
        end();
        return text_;
    }

private:
    void end() {
        if (length_ != 0) {
            text_ += "  " + std::to_string(begin_) + " " + std::to_string(length_) + " " + tag_ +
                     " " + std::to_string(delta_) + "\n";
        }
        length_ = 0;
    }

    std::uint64_t begin_ = 0;
    std::uint64_t length_ = 0;
    std::string tag_;
    std::int64_t delta_ = 0;
    std::string text_;
};

struct outcome {
    int error = 0;
    std::string text;
};

// Of a superblock: crc32c of all but the checksum itself, without the usual inversion, and a salt.
std::uint32_t superblock_checksum(std::span<const std::byte> block) {
    constexpr std::uint32_t polynomial = 0x82f63b78;
    constexpr std::uint32_t salt = 160774;
    std::uint32_t crc = 0xffffffff;
    for (const std::byte byte : block.subspan(sizeof crc)) {
        crc ^= static_cast<std::uint32_t>(byte);
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc >> 1) ^ ((crc & 1U) != 0 ? polynomial : 0U);
        }
    }
    return crc ^ salt;
}

// splitmix64: the same numbers everywhere.
class random_numbers {
public:
    explicit random_numbers(std::uint64_t seed) : state_(seed) {}
    std::uint64_t below(std::uint64_t limit) {
        state_ += 0x9E3779B97F4A7C15ULL;
        std::uint64_t z = state_;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
        return (z ^ (z >> 31)) % limit;
    }

private:
    std::uint64_t state_;
};

class runner {
public:
    explicit runner(scenario_backend& on) : on_(on) {}

    void run(const std::vector<numbered_line>& lines) { run_block(lines, 0, lines.size()); }

    void finish() {
        for (const auto& [name, job] : jobs_) {
            throw std::runtime_error("nothing waits for " + name);
        }
        for (const std::string& name : removal_order()) {
            std::string status;
            if (on_.status(name, false, status) == 0 &&
                status.find(" thin ") != std::string::npos) {
                ++steps_;
                print(0, "map " + name, map(name));
            }
            ++steps_;
            const int removed = on_.remove(name);
            if (removed != 0) {
                print(0, "remove " + name, {removed, ""});
            }
        }
        if (dump_) {
            ++steps_;
            const std::string text = on_.dump("disk0");
            print(0, "dump disk0", {0, text});
        }
        out_ << "steps " << steps_ << "\n";
    }

    [[nodiscard]] std::string text() const { return out_.str(); }

private:
    struct background {
        std::thread thread;
        outcome result;
    };

    void run_block(const std::vector<numbered_line>& lines, std::size_t at, std::size_t end) {
        while (at < end) {
            const words_t words = words_of(lines[at].text);
            if (words[0] != "for") {
                step(lines[at].number, expanded(lines[at].text));
                ++at;
                continue;
            }
            if (words.size() != 4) {
                throw std::runtime_error("line " + std::to_string(lines[at].number) +
                                         ": write for NAME FROM TO");
            }
            const std::size_t body_end = end_of_loop(lines, at);
            const std::uint64_t last = number(expanded(words[3]));
            for (std::uint64_t i = number(expanded(words[2])); i <= last; ++i) {
                names_[words[1]] = i;
                run_block(lines, at + 1, body_end);
            }
            names_.erase(words[1]);
            at = body_end + 1;
        }
    }

    void note_table(int error, const std::string& name, const std::string& table) {
        if (error == 0) {
            tables_[name] += table + " ";
        }
    }

    // Whoever no other table names goes first.
    std::vector<std::string> removal_order() const {
        std::map<std::string, std::string> left = tables_;
        std::vector<std::string> order;
        const auto used = [&](const std::string& name) {
            for (const auto& [other, table] : left) {
                if (other != name && table.find("/dev/mapper/" + name + " ") != std::string::npos) {
                    return true;
                }
            }
            return false;
        };
        while (!left.empty()) {
            auto at = left.begin();
            while (std::next(at) != left.end() && used(at->first)) {
                ++at;
            }
            order.push_back(at->first);
            left.erase(at);
        }
        return order;
    }

    static std::size_t end_of_loop(const std::vector<numbered_line>& lines, std::size_t at) {
        std::size_t depth = 0;
        for (std::size_t i = at; i < lines.size(); ++i) {
            const std::string word = words_of(lines[i].text)[0];
            depth += word == "for" ? 1U : 0U;
            if (word == "end" && --depth == 0) {
                return i;
            }
        }
        throw std::runtime_error("line " + std::to_string(lines[at].number) + ": no end");
    }

    std::string expanded(const std::string& text) const {
        std::string result;
        for (std::size_t i = 0; i < text.size(); ++i) {
            if (text[i] != '{') {
                result += text[i];
                continue;
            }
            const std::size_t close = text.find('}', i);
            if (close == std::string::npos) {
                throw std::runtime_error("no } in: " + text);
            }
            result += std::to_string(calculator(text.substr(i + 1, close - i - 1), names_).value());
            i = close;
        }
        return result;
    }

    static std::uint64_t number(const std::string& text) { return calculator(text, {}).value(); }

    void step(std::size_t line, const std::string& text) {
        ++steps_;
        words_t words = words_of(text);
        if (words[0].starts_with("!") || words[0].starts_with("?")) {
            words.erase(words.begin());
        }
        if (words.empty()) {
            throw std::runtime_error("line " + std::to_string(line) + ": no step");
        }
        const std::string shown = rest_from(words, 0);
        try {
            print(line, shown, act(words));
        } catch (const std::out_of_range&) {
            throw std::runtime_error("line " + std::to_string(line) +
                                     ": words are missing: " + shown);
        }
    }

    void print(std::size_t line, const std::string& shown, const outcome& done) {
        if (done.error == 0 && done.text.empty()) {
            return;
        }
        out_ << steps_ << " " << line << " " << shown << " = " << errno_word(done.error) << "\n"
             << done.text;
    }

    outcome act(const words_t& words) {
        const std::string& verb = words[0];
        if (verb == "bg") {
            auto& job = jobs_[words.at(1)];
            job = std::make_unique<background>();
            const words_t inner(words.begin() + 2, words.end());
            job->thread = std::thread([this, inner, &job = *job] { job.result = act(inner); });
            return {};
        }
        if (verb == "wait") {
            const auto at = jobs_.find(words.at(1));
            if (at == jobs_.end()) {
                throw std::runtime_error("nothing runs as " + words[1]);
            }
            at->second->thread.join();
            const outcome result = at->second->result;
            jobs_.erase(at);
            return result;
        }
        if (verb == "sleep") {
            std::this_thread::sleep_for(std::chrono::milliseconds(number(words.at(1))));
            return {};
        }
        if (verb == "timeout") {
            return {on_.set_no_space_timeout(number(words.at(1))), ""};
        }
        if (verb == "nodump") {
            dump_ = false;
            return {};
        }
        return is_io(verb) ? act_io(words) : act_device(words);
    }

    static bool is_io(const std::string& verb) {
        for (const char* known :
             {"write", "read", "map", "discard", "flush", "rand", "zero", "poke"}) {
            if (verb == known) {
                return true;
            }
        }
        return false;
    }

    outcome act_device(const words_t& words) {
        const std::string& verb = words[0];
        const std::string& name = words.at(1);
        const bool noflush = words.size() > 2 && words[2] == "noflush";
        outcome done;
        if (verb == "disk") {
            dump_ = dump_ || name == "disk0";
            done.error = on_.make_disk(name, number(words.at(2)));
        } else if (verb == "create") {
            done.error = on_.create(name, rest_from(words, 2));
            note_table(done.error, name, rest_from(words, 2));
        } else if (verb == "load") {
            done.error = on_.load(name, rest_from(words, 2));
            note_table(done.error, name, rest_from(words, 2));
        } else if (verb == "clear") {
            done.error = on_.clear(name);
        } else if (verb == "suspend") {
            done.error = on_.suspend(name, noflush);
        } else if (verb == "resume") {
            done.error = on_.resume(name);
        } else if (verb == "remove") {
            done.error = on_.remove(name);
            if (done.error == 0) {
                tables_.erase(name);
            }
        } else if (verb == "message") {
            done.error = on_.message(name, 0, rest_from(words, 2));
        } else if (verb == "message-at") {
            done.error = on_.message(name, number(words.at(2)), rest_from(words, 3));
        } else if (verb == "status") {
            done.error = on_.status(name, noflush, done.text);
        } else if (verb == "table") {
            done.error = on_.table(name, done.text);
        } else if (verb == "events") {
            std::uint64_t count = 0;
            done.error = on_.events(name, count);
            done.text = std::to_string(count);
        } else if (verb == "dump") {
            done.text = on_.dump(name);
            return done;
        } else {
            throw std::runtime_error("unknown step: " + rest_from(words, 0));
        }
        if (!done.text.empty()) {
            done.text = "  " + done.text + "\n";
        }
        return done;
    }

    outcome act_io(const words_t& words) {
        const std::string& verb = words[0];
        const std::string& name = words.at(1);
        if (verb == "write") {
            return write(name, number(words.at(2)), number(words.at(3)), number(words.at(4)),
                         words.size() > 5 ? number(words[5]) : 1024);
        }
        if (verb == "zero") {
            return write(name, number(words.at(2)), number(words.at(3)), 0, 1024);
        }
        if (verb == "read") {
            return read(name, number(words.at(2)), number(words.at(3)));
        }
        if (verb == "map") {
            return map(name);
        }
        if (verb == "discard") {
            return {on_.discard(name, number(words.at(2)), number(words.at(3))), ""};
        }
        if (verb == "flush") {
            return {on_.flush(name), ""};
        }
        if (verb == "poke") {
            return poke(words);
        }
        return random_writes(words);
    }

    outcome write(const std::string& name, std::uint64_t sector, std::uint64_t count,
                  std::uint64_t tag, std::uint64_t chunk) {
        chunk = std::min(chunk, io_sectors_max);
        while (count != 0) {
            const std::uint64_t piece = std::min(count, chunk);
            const std::span<std::byte> bytes = on_.buffer(piece * sector_bytes);
            for (std::uint64_t i = 0; i < piece; ++i) {
                const std::uint64_t word = tag == 0 ? 0 : (tag << 40) | (sector + i);
                for (std::uint64_t j = 0; j < sector_bytes; j += sizeof word) {
                    std::memcpy(bytes.data() + i * sector_bytes + j, &word, sizeof word);
                }
            }
            const std::int64_t done = on_.write(name, sector, bytes);
            if (done < 0) {
                return {static_cast<int>(-done), ""};
            }
            if (static_cast<std::uint64_t>(done) != bytes.size()) {
                return {0, "  short " + std::to_string(done) + "\n"};
            }
            sector += piece;
            count -= piece;
        }
        return {};
    }

    // poke DISK BYTE SIZE VALUE [nosum]: a field of the superblock, and its checksum.
    outcome poke(const words_t& words) {
        constexpr std::size_t block_bytes = 4096;
        const std::span<std::byte> block = on_.buffer(block_bytes);
        std::int64_t done = on_.read(words[1], 0, block);
        if (done != static_cast<std::int64_t>(block_bytes)) {
            return {EIO, ""};
        }
        const std::uint64_t value = number(words.at(4));
        std::memcpy(block.data() + number(words.at(2)), &value, number(words.at(3)));
        if (words.size() == 5) {
            const std::uint32_t sum = superblock_checksum(block);
            std::memcpy(block.data(), &sum, sizeof sum);
        }
        done = on_.write(words[1], 0, block);
        return {done == static_cast<std::int64_t>(block_bytes) ? 0 : EIO, ""};
    }

    outcome read(const std::string& name, std::uint64_t sector, std::uint64_t count) {
        sector_runs runs;
        while (count != 0) {
            const std::uint64_t piece = std::min(count, io_sectors_max);
            const std::span<std::byte> bytes = on_.buffer(piece * sector_bytes);
            const std::int64_t done = on_.read(name, sector, bytes);
            if (done < 0) {
                return {static_cast<int>(-done), runs.text()};
            }
            const auto got = static_cast<std::uint64_t>(done);
            for (std::uint64_t i = 0; i < got; i += sector_bytes) {
                runs.add(sector + i / sector_bytes, bytes.subspan(i, sector_bytes));
            }
            if (got != bytes.size()) {
                return {0, runs.text() + "  short\n"};
            }
            sector += piece;
            count -= piece;
        }
        return {0, runs.text()};
    }

    outcome map(const std::string& name) { return read(name, 0, on_.size_sectors(name)); }

    // rand SEED COUNT MAX-SECTORS ALIGN TAG NAME...: writes that the seed chooses.
    outcome random_writes(const words_t& words) {
        random_numbers random(number(words.at(1)));
        const std::uint64_t count = number(words.at(2));
        const std::uint64_t align = number(words.at(4));
        const std::uint64_t steps = number(words.at(3)) / align;
        const std::size_t first = 6;
        std::uint64_t failed = 0;
        int error = 0;
        for (std::uint64_t i = 0; i < count; ++i) {
            const std::string& name = words.at(first + random.below(words.size() - first));
            const std::uint64_t size = on_.size_sectors(name);
            const std::uint64_t length = (1 + random.below(steps)) * align;
            const std::uint64_t sector = random.below(size / align) * align;
            const outcome done = write(name, sector, std::min(length, size - sector),
                                       number(words.at(5)) + i, io_sectors_max);
            failed += done.error != 0 ? 1 : 0;
            error = done.error != 0 ? done.error : error;
        }
        return {error, failed == 0 ? "" : "  failed " + std::to_string(failed) + "\n"};
    }

    scenario_backend& on_;
    std::map<std::string, std::uint64_t> names_;
    std::map<std::string, std::string> tables_;  // of devices that exist: all that were loaded
    std::map<std::string, std::unique_ptr<background>> jobs_;
    std::ostringstream out_;
    std::uint64_t steps_ = 0;
    bool dump_ = false;
};

}  // namespace

std::string errno_word(int error) {
    switch (error) {
        case 0: return "0";
        case EPERM: return "EPERM";
        case ENOENT: return "ENOENT";
        case EIO: return "EIO";
        case ENXIO: return "ENXIO";
        case EBUSY: return "EBUSY";
        case EEXIST: return "EEXIST";
        case ENODEV: return "ENODEV";
        case EINVAL: return "EINVAL";
        case ENOSPC: return "ENOSPC";
        case ENODATA: return "ENODATA";
        case EILSEQ: return "EILSEQ";
        case ENOTBLK: return "ENOTBLK";
        case EOPNOTSUPP: return "EOPNOTSUPP";
        case ENOMEM: return "ENOMEM";
        default: return std::to_string(error);
    }
}

std::string run_scenario(const std::string& text, scenario_backend& on) {
    std::vector<numbered_line> lines;
    std::istringstream in(text);
    std::size_t number = 0;
    for (std::string line; std::getline(in, line);) {
        ++number;
        line = line.substr(0, line.find('#'));
        if (!words_of(line).empty()) {
            lines.push_back({number, line});
        }
    }
    runner run(on);
    run.run(lines);
    run.finish();
    return run.text();
}

}  // namespace uthin::test
