#!/usr/bin/env bash
# A served pool whose metadata is full: clients get ENOSPC and go on reading, also after a restart;
# deleting or growing brings it back.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3 curl

pool=$work/pool
"$uthin" pool create "$pool" --data-size 256M --metadata-size 1M > /dev/null
"$uthin" volume create "$pool/disk" --size 64M > /dev/null
control() { curl -sS --unix-socket "$pool/control.sock" "$@"; }
mode() { control http://localhost/v1/pool | grep -o '"mode":"[a-z_]*"' | cut -d'"' -f4; }
# Devices without content, from number FIRST on, until no more can be made; sets last.
fill_up() {
    last=$1
    while [ "$(control http://localhost/v1/pool/message --data "{\"message\":\"create_thin $last\"}")" = "{}" ]; do
        last=$((last + 1))
        [ "$last" -lt $(($1 + 1000)) ] || fail "1000 devices and the metadata is not full"
    done
}
# Sends one request; prints what was read, or "error NUMBER".
ask() { # read OFFSET | write OFFSET LETTER | trim OFFSET LENGTH | flush
    python3 - "$here" "$pool/nbd.sock" "$@" <<'END'
import sys
sys.path.insert(0, sys.argv[1])
from nbd_client import Client
client = Client(sys.argv[2], "disk")
kind, numbers = sys.argv[3], sys.argv[4:]
try:
    if kind == "read":
        print(client.read(int(numbers[0]), 1).decode())
    elif kind == "write":
        client.write(int(numbers[0]), numbers[1].encode() * 512)
    elif kind == "trim":
        client.trim(int(numbers[0]), int(numbers[1]))
    else:
        client.flush()
except RuntimeError as refused:
    print("error", str(refused).split()[-1])
END
}
expect_full() {
    expect_equal "mode" out_of_metadata_space "$(mode)"
    expect_equal "write to a hole" "error 28" "$(ask write 30000000 x)"
    expect_equal "read" a "$(ask read 0)"
    expect_equal "flush" "" "$(ask flush)"
    expect_failure 1 "grow the metadata" "$uthin" volume create "$pool/new" --size 1M
    expect_failure 1 "grow the metadata" "$uthin" snapshot create "$pool/disk" new
}

start_server "$pool"
ask write 0 a
ask write 10000000 b
"$uthin" snapshot create "$pool/disk" snap > /dev/null
fill_up 1000
echo "full after $((last - 1000)) devices"
expect_full
stop_server
judge_pool "$pool"

echo "after a restart"
start_server "$pool"
expect_full
expect_equal "trim" "" "$(ask trim 9961472 131072)"
expect_equal "trimmed" "$(printf '\0' | tr '\0' '?')" "$(ask read 10000000 | tr '\0' '?')"
"$uthin" volume delete "$pool/snap" > /dev/null
for ((i = 1000; i < 1012; i++)); do "$uthin" volume delete "$pool/thin-$i" > /dev/null; done
for ((tries = 0; tries < 100; tries++)); do [ "$(mode)" != write ] || break; sleep 0.1; done
expect_equal "mode after deleting" write "$(mode)"
expect_equal "write" "" "$(ask write 50000000 x)"
expect_equal "read" x "$(ask read 50000000)"

echo "full again, and grown"
fill_up 3000
expect_full
"$uthin" pool grow "$pool" --metadata-size 2M > /dev/null
expect_equal "mode after growing" write "$(mode)"
expect_equal "write" "" "$(ask write 60000000 y)"
"$uthin" snapshot create "$pool/disk" new > /dev/null
stop_server
judge_pool "$pool"
echo "ok"
