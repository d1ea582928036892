// Requests of the control socket, up to eight behind each other, to a pool in memory: each is
// answered, and one that is refused changed nothing.
//
//   METHOD PATH?KEY=VALUE&KEY=VALUE
//   body, any number of lines
//   .
#include <sstream>

#include <nlohmann/json.hpp>

#include "frontends/control/api.h"
#include "fuzz/pool_input.h"

namespace uthin::fuzz {
namespace {

using frontends::http_request;
using frontends::http_response;

constexpr std::size_t requests_max = 8;

void read_query(http_request& request, const std::string& text) {
    std::istringstream words(text);
    for (std::string word; std::getline(words, word, '&');) {
        const std::size_t equals = word.find('=');
        request.query[word.substr(0, equals)] =
            equals == std::string::npos ? "" : word.substr(equals + 1);
    }
}

std::vector<http_request> requests_of(const std::string& text) {
    std::vector<http_request> found;
    std::istringstream lines(text);
    std::string line;
    while (found.size() < requests_max && std::getline(lines, line)) {
        http_request& request = found.emplace_back();
        const std::size_t space = line.find(' ');
        request.method = line.substr(0, space);
        std::string path = space == std::string::npos ? "" : line.substr(space + 1);
        if (const std::size_t mark = path.find('?'); mark != std::string::npos) {
            read_query(request, path.substr(mark + 1));
            path.resize(mark);
        }
        request.path = path;
        while (std::getline(lines, line) && line != ".") {
            request.body += line + "\n";
        }
    }
    return found;
}

void check_answer(const http_request& request, const http_response& answer) {
    require(answer.status == 200 || (answer.status >= 400 && answer.status < 600),
            "an answer has a status");
    if (answer.status == 200 && request.path == "/metrics") {
        return;
    }
    const auto body = nlohmann::json::parse(answer.body, nullptr, false);
    require(body.is_object(), "an answer is an object");
    require(answer.status == 200 || body.contains("error"), "a failure says so");
    require(answer.body.find('\n') == answer.body.size() - 1, "an answer is one line");
}

void run(std::span<const std::byte> input) {
    pool_input pool;
    frontends::control_api api(pool.service(), {});
    api.stop();  // no long polls
    for (const http_request& request : requests_of(text_of(input))) {
        const std::string before = pool.appearance();
        const http_response answer = api.handle(request);
        check_answer(request, answer);
        require(answer.status == 200 || answer.status == 500 || pool.appearance() == before,
                "a request that is refused changes nothing");
    }
}

std::vector<bytes> seeds() {
    constexpr const char* texts[] = {
        "GET /v1/pool?while_mode=write&timeout_s=1\n.\nGET /v1/volumes\n.\nGET /metrics\n.\n"
        "GET /v1/server\n.\nGET /v1/pool/events?after=0\n.\n",
        "POST "
        "/v1/volumes\n{\"name\":\"a\",\"size\":1048576,\"reserved\":65536,\"limit\":262144}\n.\n"
        "POST /v1/snapshots\n{\"snapshots\":[{\"source\":\"a\",\"name\":\"b\",\"labels\":{\"k\":"
        "\"v\"}}]}\n.\nPOST /v1/volumes/a/rollback\n{\"to\":\"b\",\"force\":true}\n.\n"
        "GET /v1/volumes/a\n.\nDELETE /v1/volumes/b?if_exists=true&force=true\n.\n",
        "POST /v1/volumes/vol/labels\n{\"set\":{\"hold:me\":\"why\"},\"remove\":[\"x\"]}\n.\n"
        "POST /v1/volumes/vol/rename\n{\"name\":\"thin-7\"}\n.\n"
        "POST /v1/volumes/vol/resize\n{\"size\":2097152}\n.\n"
        "POST /v1/volumes/vol/limits\n{\"reserved\":131072,\"limit\":0}\n.\n"
        "POST /v1/usage\n{\"volumes\":[\"vol\",\"vol@1\"]}\n.\n"
        "GET /v1/volumes/vol/kernel-status\n.\nGET /v1/pool/kernel-status\n.\n",
        "GET /v1/volumes/vol/diff?from=vol@1&offset=0&max=4\n.\n"
        "GET /v1/volumes/vol/diff?max=1\n.\nPOST /v1/pool/check\n{\"repair\":true}\n.\n"
        "POST /v1/pool/trim\n.\nPOST /v1/pool/release\n.\n",
        "POST /v1/pool/grow\n{\"data_size\":8388608,\"metadata_size\":2097152}\n.\n"
        "POST /v1/pool/settings\n{\"low-water\":\"10%\",\"no-space\":\"queue\",\"overcommit\":"
        "\"200%\"}\n.\nPOST /v1/pool/settings\n{\"discard\":\"ignore\",\"discard-rate\":\"1M\","
        "\"zeroing\":\"off\",\"no-space-timeout\":\"5\",\"read-only\":\"false\"}\n.\n",
        "POST /v1/pool/metadata-snapshot\n{\"lease\":60,\"owner\":\"me\"}\n.\n"
        "POST /v1/pool/metadata-snapshot/renew\n{\"lease\":90,\"owner\":\"me\"}\n.\n"
        "GET /v1/pool/metadata-snapshot\n.\nDELETE /v1/pool/metadata-snapshot?owner=me\n.\n"
        "POST /v1/pool/message\n{\"message\":\"create_thin 9\"}\n.\n",
        "POST /v1/transfers\n{\"name\":\"t\",\"size\":1048576,\"base\":\"vol@1\",\"notes\":{\"to\":"
        "\"x\"}}\n.\nGET /v1/transfers\n.\nPOST /v1/transfers/ID/notes\n{\"k\":\"v\"}\n.\n"
        "POST /v1/transfers/ID/publish\n{\"name\":\"t\",\"replaces\":{\"dev_id\":1,"
        "\"creation_time\":0,\"creation_transaction_id\":2,\"size\":1048576},\"snapshot\":\"t@1\"}"
        "\n.\nDELETE /v1/transfers/ID\n.\n",
        "POST /v1/volumes\n{\"name\":\"o\",\"size\":0,\"external_origin\":\"/base\",\"dev_id\":40,"
        "\"if_not_exists\":true}\n.\nPOST /v1/volumes/o/flatten\n{}\n.\n"
        "GET /v1/volumes/o/origin-job\n.\nDELETE /v1/volumes/o/origin-job?pause=true\n.\n"
        "POST /v1/volumes/o/merge\n{\"copy_up\":true,\"grow_origin\":true}\n.\n",
    };
    std::vector<bytes> made;
    for (const char* text : texts) {
        made.push_back(bytes_of(text));
    }
    return made;
}

const registration made({"control", run, seeds, mutated_text, 60});

}  // namespace
}  // namespace uthin::fuzz
