#include "tools/uthin_serve.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "frontends/serve.h"

namespace uthin::tools {
namespace {

constexpr int exit_failed = 1;
constexpr int exit_usage = 2;

int run(const frontends::serve_options& options) {
    const bool tls = !options.tls_certificates.empty() || !options.tls_psk.empty();
    if (tls && options.listen.empty()) {
        fmt::print(stderr,
                   "uthin serve: the Unix socket is never encrypted: give --listen HOST:PORT with "
                   "the TLS options\n");
        return exit_usage;
    }
    if (!options.tls_certificates.empty() && !options.tls_psk.empty()) {
        fmt::print(stderr, "uthin serve: --tls-certificates and --tls-psk exclude each other\n");
        return exit_usage;
    }
    const error failure = frontends::serve(options);
    fmt::print(stderr, "uthin serve: {}\n", failure.to_string());
    return failure.code() == error_code::invalid_argument ? exit_usage : exit_failed;
}

}  // namespace

void add_serve_command(CLI::App& app, int& exit_status) {
    const auto options = std::make_shared<frontends::serve_options>();
    CLI::App* command = app.add_subcommand("serve", "every volume of the pool is an NBD export");
    command->add_option("DIR", options->directory, "directory of the pool")->required();
    command->add_option("--socket", options->socket_path, "Unix socket (default DIR/nbd.sock)");
    command->add_option("--listen", options->listen, "also on TCP: HOST:PORT, [HOST]:PORT, :PORT");
    command->add_option("--tls-certificates", options->tls_certificates,
                        "folder of ca-cert.pem, server-cert.pem and server-key.pem; TCP clients "
                        "must use TLS");
    command->add_option("--tls-psk", options->tls_psk,
                        "file of pre-shared keys; TCP clients must use TLS");
    command->add_flag("--tls-verify-peer", options->tls_verify_peer,
                      "clients need a certificate, too");
    command->add_flag("--read-only", options->read_only, "clients cannot write");
    command->add_option("--threads", options->threads, "of each connection")
        ->check(CLI::Range(1, 256))
        ->capture_default_str();
    command
        ->add_option("--wait", options->wait_s,
                     "seconds to wait for another process to let go of the pool")
        ->transform(CLI::AsNumberWithUnit(std::map<std::string, unsigned>{{"s", 1}, {"m", 60}},
                                          CLI::AsNumberWithUnit::UNIT_OPTIONAL))
        ->capture_default_str();
    command->add_option("--nbdkit", options->extra,
                        "a further nbdkit option, for instance --nbdkit=--filter=log");
    command->callback([options, &exit_status] { exit_status = run(*options); });
}

}  // namespace uthin::tools
