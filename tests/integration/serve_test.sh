#!/usr/bin/env bash
# Real clients on a served pool: nbdinfo, nbdcopy, qemu-img, qemu-io.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdinfo nbdcopy qemu-img qemu-io

pool=$work/pool
"$uthin" pool create "$pool" --data-size 1G
"$uthin" volume create "$pool/disk" --size 256M
"$uthin" volume create "$pool/other" --size 10G
start_server "$pool"
expect_equal "lines on stdout" 1 "$(wc -l < "$work/ready")"
expect_equal "URI" "nbd+unix:///?socket=$pool/nbd.sock" "$uri"
expect_equal "mode of the NBD socket" 600 "$(stat -c %a "$pool/nbd.sock")"
expect_equal "mode of the control socket" 600 "$(stat -c %a "$pool/control.sock")"

echo "exports and what they can do"
expect_equal "size of disk" 268435456 "$(nbdinfo --size "$(uri_of disk)")"
expect_equal "size of other" 10737418240 "$(nbdinfo --size "$(uri_of other)")"
list=$(nbdinfo --list "$uri")
expect_contains "nbdinfo --list" "$list" 'export="disk"'
expect_contains "nbdinfo --list" "$list" 'export="other"'
for ability in multi-conn flush fua trim zero fast-zero cache structured-reply; do
    nbdinfo --can "$ability" "$(uri_of disk)" || fail "nbdinfo --can '$ability'"
done
if nbdinfo --is read-only "$(uri_of disk)"; then fail "the export is read-only"; fi
if nbdinfo "$(uri_of nothing)" > /dev/null 2>&1; then fail "an unknown export was opened"; fi
if nbdinfo "$uri" > /dev/null 2>&1; then fail "the empty name was taken though there are two"; fi
grep -q "nothing" "$work/server.log" || fail "the server did not say which export is unknown"

echo "nbdcopy there and back"
random_file "$work/in" 64
truncate -s 256M "$work/in"
nbdcopy "$work/in" "$(uri_of disk)"
nbdcopy "$(uri_of disk)" "$work/out"
cmp "$work/in" "$work/out"
holes=$(nbdinfo --map --totals "$(uri_of disk)" | awk '/hole/ { print $1 }')
expect_equal "bytes of holes" $((192 << 20)) "$holes"

echo "qemu-img there and back"
expect_contains "qemu-img info" "$(qemu-img info "$(uri_of disk)")" "virtual size: 256 MiB"
qemu-img convert -O qcow2 "$(uri_of disk)" "$work/disk.qcow2"
qemu-img convert -n -O raw "$work/disk.qcow2" "$(uri_of other)" 2> /dev/null ||
    fail "qemu-img convert into a larger volume"
"$uthin" read "$pool/other" --length 256M | cmp - "$work/in"

echo "trim, zero, FUA, odd offsets"
qemu-io -f raw "$(uri_of disk)" -c 'discard 0 1M' -c 'write -z -u 1M 1M' -c 'write -f -P 7 3333 7777' \
    -c 'read -P 7 3333 7777' -c 'read -P 0 11110 100000' -c 'flush' > "$work/qemu-io.log"
if grep -qi "failed\|error" "$work/qemu-io.log"; then fail "qemu-io: $(cat "$work/qemu-io.log")"; fi
qemu-io -f raw "$(uri_of disk)" -c 'read -P 0 1M 1M' | grep -q "1 MiB" || fail "the trimmed part"

echo "commands on the served pool move bulk data over NBD"
random_file "$work/small" 3
"$uthin" write "$pool/disk" --offset 12345 < "$work/small"
"$uthin" read "$pool/disk" --offset 12345 --length 3M | cmp - "$work/small"
"$uthin" export "$pool/disk" "$work/exported" 2> /dev/null
nbdcopy "$(uri_of disk)" "$work/out"
cmp "$work/exported" "$work/out"
"$uthin" volume create "$pool/imported" --size 256M
"$uthin" import "$work/in" "$pool/imported" 2> /dev/null
nbdcopy "$(uri_of imported)" - | cmp - "$work/in"

echo "one server for a pool"
expect_failure 1 "nbd.sock" "$uthin" serve "$pool"
expect_failure 1 "$pool" "$uthin" serve "$pool" --socket "$work/second.sock" --wait 0
[ ! -e "$work/second.sock" ] || fail "the refused server left its socket"
expect_equal "size after the refused servers" 268435456 "$(nbdinfo --size "$(uri_of disk)")"
stop_server

echo "growing shows on reconnect, a read-only server refuses writes"
start_server "$pool" --read-only
nbdinfo --is read-only "$(uri_of disk)" || fail "--read-only exports a writable volume"
stop_server
start_server "$pool"
"$uthin" volume resize "$pool/disk" --size 300M
expect_equal "size after growing" $((300 << 20)) "$(nbdinfo --size "$(uri_of disk)")"
stop_server
judge_pool "$pool"

echo "TCP"
start_server "$pool" --listen 127.0.0.1:0
case "$uri" in nbd://127.0.0.1:*/) ;; *) fail "URI of a TCP server: $uri" ;; esac
expect_equal "size over TCP" $((300 << 20)) "$(nbdinfo --size "${uri}disk")"
stop_server
[ ! -e "$pool/nbd.sock" ] || fail "the server left its socket"
judge_pool "$pool"
echo "ok"
