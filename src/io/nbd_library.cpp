#include "io/nbd_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace uthin::io {
namespace {

// Notes the first that is missing.
void* find(void* loaded, const char* name, const char*& missing) {
    void* const found = ::dlsym(loaded, name);
    if (found == nullptr && missing == nullptr) {
        missing = name;
    }
    return found;
}

result<nbd_library> load() {
    void* const loaded = ::dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
    if (loaded == nullptr) {
        return fail(error_code::unsupported,
                    fmt::format("NBD needs libnbd; install the package libnbd0 ({})", ::dlerror()));
    }
    nbd_library library;
    const char* missing = nullptr;
#define UTHIN_NBD_FIND(name) \
    library.name = reinterpret_cast<decltype(library.name)>(find(loaded, "nbd_" #name, missing));
    UTHIN_NBD_FUNCTIONS(UTHIN_NBD_FIND)
#undef UTHIN_NBD_FIND
    if (missing != nullptr) {
        return fail(error_code::unsupported,
                    fmt::format("libnbd is too old: it has no {}", missing));
    }
    return library;
}

}  // namespace

result<const nbd_library*> load_nbd_library() {
    static const result<nbd_library> library = load();
    if (!library) {
        return std::unexpected(library.error());
    }
    return &*library;
}

}  // namespace uthin::io
