#!/usr/bin/env bash
# A pool in a folder whose path is far longer than a socket address takes.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdinfo nbdcopy curl

deep=$work
for i in 1 2 3 4 5; do deep=$deep/$(printf "a-rather-long-folder-name-%02d-%060d" "$i" 0); done
mkdir -p "$deep"
pool=$deep/pool
[ ${#pool} -gt 400 ] || fail "the path is only ${#pool} bytes long"
"$uthin" pool create "$pool" --data-size 256M
"$uthin" volume create "$pool/disk" --size 32M
random_file "$work/in" 32
start_server "$pool"
[ ${#uri} -lt 140 ] || fail "the URI is too long for a client: $uri"
nbdcopy "$work/in" "$(uri_of disk)"
nbdcopy "$(uri_of disk)" - | cmp - "$work/in"
"$uthin" snapshot create "$pool/disk" snap
"$uthin" read "$pool/snap" | cmp - "$work/in"
expect_contains "list" "$("$uthin" volume list "$pool" --json)" '"snap"'
link=${uri#*socket=}
[ -S "$link" ] || fail "$link is no socket"
(cd "$pool" && curl -sS --fail --unix-socket control.sock http://localhost/v1/pool > /dev/null)
stop_server
[ ! -e "$link" ] && [ ! -e "$(dirname "$link")" ] || fail "the short link $link is left"

echo "a relative path, and a socket name of 200 bytes"
name=$(printf 's%.0s' {1..200})
cd "$deep"
start_server pool --socket "$name"
nbdcopy "$(uri_of snap)" - | cmp - "$work/in"
"$uthin" read pool/disk | cmp - "$work/in"
stop_server
judge_pool "$pool"
echo "ok: ${#pool} bytes of path"
