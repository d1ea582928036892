#!/usr/bin/env bash
# Who uses how much and who may: usage, promises, limits, overcommitment and leases of a served pool.
. "$(dirname "$0")/functions.sh"
requires python3 curl

pool=$work/pool
field() { python3 -c 'import json,sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("/"):
    value = value[int(key) if isinstance(value, list) else key]
print(value)' "$1"; }
shown() { "$uthin" volume show "$pool/$1" --json | field "$2"; }
status() { "$uthin" pool status "$pool" --json | field "$1"; }

"$uthin" pool create "$pool" --data-size 16M --metadata-size 1M > /dev/null
"$uthin" volume create "$pool/a" --size 8M > /dev/null
"$uthin" volume create "$pool/b" --size 8M --reserve 2M --limit 3M > /dev/null
start_server "$pool"

echo "usage"
head -c 2M /dev/urandom | "$uthin" write "$pool/a"
"$uthin" snapshot create "$pool/a" s > /dev/null
head -c 64K /dev/urandom | "$uthin" write "$pool/a"
expect_equal "exclusive" 65536 "$(shown a exclusive)"
expect_equal "shared" $((31 * 65536)) "$(shown s shared)"
expect_equal "together" $((33 * 65536)) "$("$uthin" volume usage "$pool/a" s --json | field freed)"
expect_equal "alone" "mapped 2.0 MiB; deleting it would free 64.0 KiB" "$("$uthin" volume usage "$pool/s")"
expect_contains "list" "$("$uthin" volume list "$pool")" EXCLUSIVE
metrics=$(curl -s --unix-socket "$pool/control.sock" http://uthin/metrics)
expect_contains "metrics" "$metrics" 'uthin_volume_exclusive_bytes{volume="a"} 65536'
expect_contains "metrics" "$metrics" 'uthin_volume_limit_bytes{volume="b"} 3145728'

echo "limits"
expect_equal "promised" 32 "$(status data_promised_blocks)"
nbd() { PYTHONPATH=$here timeout 30 python3 -c "from nbd_client import Client
import sys
client = Client(sys.argv[1], sys.argv[2])
$2" "$pool/nbd.sock" "$1"; }
answer=$(nbd b '
for at in range(48):
    client.write(at * 65536, b"x" * 65536)
try:
    client.write(3 << 20, b"x" * 65536)
    print("written")
except RuntimeError as problem:
    print(str(problem).split()[-1])
client.write(0, b"y" * 65536)
')
expect_equal "the error at the limit is ENOSPC" 28 "$answer"
expect_equal "mode" write "$(status mode)"
"$uthin" volume set "$pool/b" --limit 4M > /dev/null
head -c 1M /dev/urandom | "$uthin" write "$pool/b" --offset 3M
expect_failure 1 "reserve" "$uthin" volume set "$pool/b" --reserve 5M
expect_failure 2 "--reserve or --limit" "$uthin" volume set "$pool/b"
"$uthin" pool set "$pool" overcommit=150% > /dev/null
expect_failure 1 "150%" "$uthin" volume create "$pool/c" --size 8M

echo "leases"
"$uthin" pool metadata-snapshot "$pool" reserve --lease 60s --owner reader > /dev/null
expect_equal "owner" reader "$(status metadata_snapshot_owner)"
expect_contains "status" "$("$uthin" pool status "$pool")" "of reader, for"
"$bin/thin_dump" -m "$pool/metadata" > "$work/dump" || fail "the snapshot cannot be read"
expect_failure 1 "held already by reader" "$uthin" pool metadata-snapshot "$pool" reserve
expect_failure 1 "held by reader" "$uthin" pool metadata-snapshot "$pool" release --owner other
"$uthin" pool metadata-snapshot "$pool" renew --lease 1s --owner reader > /dev/null
for _ in $(seq 100); do
    [ "$("$uthin" pool metadata-snapshot "$pool" show)" = - ] && break
    sleep 0.1
done
expect_equal "after the lease" - "$("$uthin" pool metadata-snapshot "$pool" show)"

echo "small discards, over NBD"
mapped=$(shown a mapped)
nbd a '
for at in range(0, 65536, 4096):
    client.trim((1 << 20) + at, 4096)
'
expect_equal "mapped after sixteen trims of 4 KiB" $((mapped - 65536)) "$(shown a mapped)"
stop_server
judge_pool "$pool"
echo "ok"
