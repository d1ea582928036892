#include "frontends/control/http_client.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <memory>

#include "base/result.h"
#include "frontends/unix_socket.h"

namespace uthin::frontends {
namespace {

constexpr std::size_t answer_bytes_max = 256U << 20;

std::size_t collect(const char* data, std::size_t size, std::size_t count, void* where) {
    auto& body = *static_cast<std::string*>(where);
    if (body.size() + size * count > answer_bytes_max) {
        return 0;
    }
    body.append(data, size * count);
    return size * count;
}

struct easy_deleter {
    void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
};

struct list_deleter {
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

}  // namespace

result<http_answer> http_call(const std::string& socket_path, const std::string& method,
                              const std::string& target, const std::string& body) {
    // Tells a stale or missing socket from one that does not answer.
    UTHIN_TRY(connect_unix(socket_path));
    // libcurl's paths are bound to the 108 bytes of a socket address, this one is short.
    const descriptor target_socket = UTHIN_TRY(open_socket_file(socket_path));
    const std::string short_path = fmt::format("/proc/self/fd/{}", target_socket.get());
    const std::unique_ptr<CURL, easy_deleter> handle(curl_easy_init());
    const std::unique_ptr<curl_slist, list_deleter> headers(
        curl_slist_append(nullptr, "Content-Type: application/json"));
    if (!handle || !headers) {
        return fail(error_code::out_of_memory, "cannot make an HTTP request");
    }
    http_answer answer;
    const std::string url = "http://localhost" + target;
    curl_easy_setopt(handle.get(), CURLOPT_URL, url.c_str());
    curl_easy_setopt(handle.get(), CURLOPT_PROXY, "");
    curl_easy_setopt(handle.get(), CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle.get(), CURLOPT_CUSTOMREQUEST, method.c_str());
    curl_easy_setopt(handle.get(), CURLOPT_HTTPHEADER, headers.get());
    curl_easy_setopt(handle.get(), CURLOPT_UNIX_SOCKET_PATH, short_path.c_str());
    curl_easy_setopt(handle.get(), CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(handle.get(), CURLOPT_WRITEDATA, &answer.body);
    if (!body.empty()) {
        curl_easy_setopt(handle.get(), CURLOPT_POSTFIELDSIZE_LARGE,
                         static_cast<curl_off_t>(body.size()));
        curl_easy_setopt(handle.get(), CURLOPT_POSTFIELDS, body.c_str());
    }
    const CURLcode code = curl_easy_perform(handle.get());
    if (code != CURLE_OK) {
        return fail(error_code::io_error,
                    fmt::format("{}: the server of the pool did not answer: {}", socket_path,
                                curl_easy_strerror(code)));
    }
    curl_easy_getinfo(handle.get(), CURLINFO_RESPONSE_CODE, &answer.status);
    return answer;
}

std::string url_encoded(const std::string& text) {
    std::string encoded;
    for (const char c : text) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                           (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~';
        if (plain) {
            encoded += c;
        } else {
            encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
        }
    }
    return encoded;
}

}  // namespace uthin::frontends
