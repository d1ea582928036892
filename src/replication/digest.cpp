#include "replication/digest.h"

#include <openssl/evp.h>

namespace uthin::replication {

namespace {

std::unexpected<error> refused() {
    return fail(error_code::failed, "SHA-256: the cryptographic library refuses it");
}

result<digest_value> value_of(EVP_MD_CTX* context) {
    digest_value value;
    unsigned int size = 0;
    if (EVP_DigestFinal_ex(context, reinterpret_cast<unsigned char*>(value.data()), &size) != 1 ||
        size != value.size()) {
        return refused();
    }
    return value;
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

result<digest_value> digest::so_far() const {
    impl copy;
    copy.context.reset(EVP_MD_CTX_new());
    if (!copy.context) {
        return fail(error_code::out_of_memory, "SHA-256: no memory");
    }
    if (EVP_MD_CTX_copy_ex(copy.context.get(), impl_->context.get()) != 1) {
        return refused();
    }
    return value_of(copy.context.get());
}

result<digest_value> digest::finish() {
    return value_of(impl_->context.get());
}

}  // namespace uthin::replication
