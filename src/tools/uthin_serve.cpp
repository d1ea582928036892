#include "tools/uthin_serve.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "frontends/serve.h"

namespace uthin::tools {
namespace {

constexpr std::int64_t wait_s_max = 1'000'000;

int run(frontends::serve_options options, const command_line& line) {
    const bool tls = !options.tls_certificates.empty() || !options.tls_psk.empty();
    if (tls && options.listen.empty()) {
        return report_usage(
            "the Unix socket is never encrypted: give --listen HOST:PORT with the TLS options");
    }
    if (!options.tls_certificates.empty() && !options.tls_psk.empty()) {
        return report_usage("--tls-certificates and --tls-psk exclude each other");
    }
    options.wait_s = static_cast<unsigned>(std::clamp<std::int64_t>(
        std::chrono::ceil<std::chrono::seconds>(line.wait).count(), 0, wait_s_max));
    const error failure = frontends::serve(options);
    return failure.code() == error_code::invalid_argument
               ? report_usage(failure.message())
               : report_failure(failure, options.directory);
}

}  // namespace

void add_serve_command(CLI::App& app, command_line& line) {
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
    command->add_option("--nbdkit", options->extra,
                        "a further nbdkit option, for instance --nbdkit=--filter=log");
    command->callback(
        [options, &line] { line.action = [options, &line] { return run(*options, line); }; });
}

}  // namespace uthin::tools
