#!/usr/bin/env bash
# A served pool without free data blocks: writes wait; a trim on the same connection, a deletion or
# growth lets them go on; a timeout, a setting or the end of the server fails them.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3

pool=$work/pool
# 16 data blocks of 64 KiB.
"$uthin" pool create "$pool" --data-size 1M --metadata-size 1M --low-water 4 > /dev/null
"$uthin" volume create "$pool/disk" --size 8M > /dev/null
"$uthin" volume create "$pool/other" --size 8M > /dev/null
mode() { "$uthin" pool status "$pool" --json | grep -o '"mode":"[a-z_]*"' | cut -d'"' -f4; }
# Runs the Python program on stdin with `Client`, `socket_path` and `block` at hand.
client() {
    python3 - "$here" "$pool/nbd.sock" <<END
import sys
sys.path.insert(0, sys.argv[1])
from nbd_client import CMD_TRIM, CMD_WRITE, Client
socket_path = sys.argv[2]
block = 65536
def fill(connection, first, count):
    for i in range(first, first + count):
        connection.write(i * block, bytes([i % 250 + 1]) * block)
def expect(what, wanted, found):
    if wanted != found:
        sys.exit(f"{what}: expected {wanted}, found {found}")
$(cat)
END
}
held() { curl -sS --unix-socket "$pool/control.sock" http://localhost/metrics | sed -n 's/^uthin_pool_held_requests //p'; }
wait_for_held() {
    local tries=0
    until [ "$(held)" = "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || fail "$(held) requests are held, not $1"
        sleep 0.05
    done
}

start_server "$pool"
echo "a trim on the connection whose writes are held"
client <<'END'
disk = Client(socket_path, "disk")
fill(disk, 0, 16)
# More than the threads that a connection has, all under way before the first one is refused.
sent = {disk.start(CMD_WRITE, (20 + i) * block, block, bytes([100 + i]) * block): i for i in range(30)}
refused = []
while len(refused) < 22:
    handle, code = disk.finish()
    expect("error of a write that finds no place to wait", 28, code)
    refused.append(sent.pop(handle))
trim = disk.start(CMD_TRIM, 0, 8 * block)
replies = dict(disk.finish() for _ in range(9))
expect("replies", {trim: 0, **{handle: 0 for handle in sent}}, replies)
for i in sent.values():
    expect(f"block {20 + i}", bytes([100 + i]) * block, disk.read((20 + i) * block, block))
for i in refused:
    expect(f"block {20 + i}", bytes(block), disk.read((20 + i) * block, block))
disk.flush()
END
# The pool is full again, and nobody has noticed yet.
expect_equal "mode" write "$(mode)"

echo "growth, from another process"
client <<'END' &
disk = Client(socket_path, "disk")
disk.write(100 * block, b"g" * block)
expect("what was held", b"g" * block, disk.read(100 * block, block))
END
writer=$!
pids+=("$writer")
wait_for_held 1
expect_equal "mode" out_of_data_space "$(mode)"
"$uthin" pool grow "$pool" --data-size 1114112 > /dev/null
join "$writer" || fail "the held write failed"
expect_equal "mode" write "$(mode)"

echo "deletion"
client <<'END'
disk = Client(socket_path, "disk")
disk.trim(0, 128 * block)
other = Client(socket_path, "other")
fill(other, 0, 4)
fill(disk, 0, 13)
END
client <<'END' &
disk = Client(socket_path, "disk")
fill(disk, 50, 3)
END
writer=$!
pids+=("$writer")
wait_for_held 1
"$uthin" volume delete "$pool/other" > /dev/null
join "$writer" || fail "a held write failed"

echo "what happened"
"$uthin" pool events "$pool" > "$work/events"
expect_contains "events" "$(cat "$work/events")" "write -> out_of_data_space: no free data block"
expect_contains "events" "$(cat "$work/events")" "out_of_data_space -> write"
expect_contains "events" "$(cat "$work/events")" "low_data_space"
last=$("$uthin" pool events "$pool" --json | sed 's/.*"last":\([0-9]*\).*/\1/')
expect_equal "events after the last" "" "$("$uthin" pool events "$pool" --after "$last")"
"$uthin" pool events "$pool" --for 30s > "$work/next" &
watcher=$!
pids+=("$watcher")
sleep 0.5

echo "the timeout, changed while clients wait"
client <<'END' &
disk = Client(socket_path, "disk")
for i in range(128):
    try:
        disk.write(i * block, b"t" * block)
    except RuntimeError as refused:
        expect("error", "28", str(refused).split()[-1])
        sys.exit(0)
sys.exit("the pool does not become full")
END
writer=$!
pids+=("$writer")
wait_for_held 1
join "$watcher"
expect_contains "the next event" "$(cat "$work/next")" "out_of_data_space"
"$uthin" pool set "$pool" no-space-timeout=1 > /dev/null
join "$writer" || fail "the held write did not fail with the timeout"
expect_contains "events" "$("$uthin" pool events "$pool" --after "$last")" no_space_timeout
expect_contains "status" "$("$uthin" pool status "$pool")" "no space           error"
"$uthin" pool set "$pool" no-space=queue no-space-timeout=0 > /dev/null
expect_contains "status" "$("$uthin" pool status "$pool")" "no space           queue"

echo "the end of the server fails what is held"
client <<'END' &
disk = Client(socket_path, "disk")
try:
    disk.write(127 * block, b"x" * block)
except (RuntimeError, OSError):
    sys.exit(0)
sys.exit("it was acknowledged")
END
writer=$!
pids+=("$writer")
wait_for_held 1
stop_server
join "$writer" || fail "the held write did not fail"
expect_failure 1 "nobody serves it" "$uthin" pool events "$pool"
"$uthin" pool check "$pool" > /dev/null
judge_pool "$pool"
echo "ok"
