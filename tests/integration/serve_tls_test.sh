#!/usr/bin/env bash
# TLS on TCP: clients with the key are served, plain ones see nothing; the Unix socket stays plain.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdinfo nbdcopy
nbdkit --dump-config | grep -q '^tls=yes' || skip "nbdkit has no TLS"

pool=$work/pool
"$uthin" pool create "$pool" --data-size 256M
"$uthin" volume create "$pool/disk" --size 16M
echo "alice:$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')" > "$work/keys"
random_file "$work/in" 16
start_server "$pool" --listen 127.0.0.1:0 --tls-psk "$work/keys"
case "$uri" in nbds://127.0.0.1:*/) ;; *) fail "URI of a TLS server: $uri" ;; esac
address=${uri#nbds://}
secure="nbds://alice@${address}disk?tls-psk-file=$work/keys"
nbdcopy "$work/in" "$secure"
nbdcopy "$secure" - | cmp - "$work/in"
expect_contains "nbdinfo --list" "$(nbdinfo --list "$secure")" 'export="disk"'
if nbdinfo "nbd://${address}disk" > "$work/plain" 2>&1; then fail "a plain client was served"; fi
if nbdinfo --list "nbd://$address" 2> /dev/null | grep -q disk; then fail "a plain client saw names"; fi
"$uthin" read "$pool/disk" | cmp - "$work/in"
stop_server
judge_pool "$pool"

expect_failure 2 "--listen" "$uthin" serve "$pool" --tls-psk "$work/keys"
expect_failure 2 "HOST:PORT" "$uthin" serve "$pool" --listen 127.0.0.1:
expect_failure 2 "--listen" "$uthin" serve "$pool" --listen no.such.host.invalid:10809
echo "ok"
