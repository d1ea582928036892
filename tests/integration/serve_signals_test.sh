#!/usr/bin/env bash
# A server ends by SIGTERM and SIGINT with status 0 and leaves no process, socket or damage behind.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdcopy nbdinfo cmp python3

pool=$work/pool
"$uthin" pool create "$pool" --data-size 512M
"$uthin" volume create "$pool/disk" --size 64M
random_file "$work/in" 64

for signal in TERM INT; do
    start_server "$pool"
    # The server is the process that was started: no child, no helper.
    expect_equal "children of the server" "" "$(pgrep -P "$server_pid" || true)"
    nbdcopy "$work/in" "$(uri_of disk)"
    old=$server_pid
    stop_server "$signal"
    if kill -0 "$old" 2> /dev/null; then fail "the server still runs after SIG$signal"; fi
    if pgrep -f "pool=$pool" > /dev/null; then fail "a process of the pool is left"; fi
    [ ! -e "$pool/nbd.sock" ] && [ ! -e "$pool/control.sock" ] || fail "a socket is left"
    judge_pool "$pool"
    start_server "$pool"
    nbdcopy "$(uri_of disk)" - | cmp - "$work/in"
    stop_server "$signal"
    "$uthin" write "$pool/disk" --offset 0 < /dev/null
    random_file "$work/in" 64
done

expect_equal "what the servers said on stderr" "" "$(cat "$work/server.log")"

echo "a signal while a client writes"
start_server "$pool"
(nbdcopy "$work/in" "$(uri_of disk)" || true) > /dev/null 2>&1 &
pids+=($!)
stop_server TERM
judge_pool "$pool"

echo "a signal while clients are connected and idle"
start_server "$pool"
python3 -c 'import sys, time
sys.path.insert(0, sys.argv[1])
from nbd_client import Client
clients = [Client(sys.argv[2], "disk") for _ in range(3)]
clients[0].write(0, b"x" * 65536)
print("connected", flush=True)
time.sleep(60)' "$here" "$pool/nbd.sock" > "$work/client.out" &
pids+=($!)
until [ -s "$work/client.out" ]; do sleep 0.05; done
stop_server TERM
judge_pool "$pool"

echo "the sockets of a killed server are replaced"
start_server "$pool"
kill -KILL "$server_pid"
wait "$server_pid" 2> /dev/null || true
[ -S "$pool/nbd.sock" ] || fail "kill -9 removed the socket"
start_server "$pool"
expect_equal "size" 67108864 "$(nbdinfo --size "$(uri_of disk)")"
stop_server
"$uthin" pool check "$pool" > /dev/null
judge_pool "$pool"
echo "ok"
