#include "replication/digest.h"

#include <openssl/evp.h>

namespace uthin::replication {

namespace {

std::unexpected<error> refused() {
    return fail(error_code::failed, "SHA-256: the cryptographic library refuses it");
}

struct context_deleter {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

}  // namespace

struct digest::impl {
    std::unique_ptr<EVP_MD_CTX, context_deleter> context;
};

digest::digest(std::unique_ptr<impl> state) : impl_(std::move(state)) {
}
digest::digest(digest&&) noexcept = default;
digest& digest::operator=(digest&&) noexcept = default;
digest::~digest() = default;

result<digest> digest::begin() {
    auto state = std::make_unique<impl>();
    state->context.reset(EVP_MD_CTX_new());
    if (!state->context) {
        return fail(error_code::out_of_memory, "SHA-256: no memory");
    }
    if (EVP_DigestInit_ex(state->context.get(), EVP_sha256(), nullptr) != 1) {
        return refused();
    }
    return digest(std::move(state));
}

result<void> digest::add(std::span<const std::byte> bytes) {
    return EVP_DigestUpdate(impl_->context.get(), bytes.data(), bytes.size()) == 1 ? result<void>()
                                                                                   : refused();
}

result<digest_value> digest::finish() {
    digest_value value;
    unsigned int size = 0;
    if (EVP_DigestFinal_ex(impl_->context.get(), reinterpret_cast<unsigned char*>(value.data()),
                           &size) != 1 ||
        size != value.size()) {
        return refused();
    }
    return value;
}

}  // namespace uthin::replication
