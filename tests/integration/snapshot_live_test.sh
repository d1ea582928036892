#!/usr/bin/env bash
# Snapshots through the command line while fio writes and verifies; each one reads as frozen.
. "$(dirname "$0")/functions.sh"
requires nbdkit fio nbdcopy nbdinfo
fio --enghelp 2> /dev/null | grep -qw nbd || skip "fio has no nbd engine"

pool=$work/pool
"$uthin" pool create "$pool" --data-size 2G
"$uthin" volume create "$pool/disk" --size 64M
start_server "$pool"
fio --name=load --verify_state_save=0 --ioengine=nbd --uri="$(uri_of disk)" --rw=randwrite --bs=4k-128k --size=64M \
    --iodepth=8 --verify=crc32c --verify_backlog=256 --time_based --runtime=6 --fsync=64 \
    > "$work/fio.log" 2>&1 &
load=$!
pids+=("$load")
count=0
while kill -0 "$load" 2> /dev/null && [ "$count" -lt 20 ]; do
    "$uthin" snapshot create "$pool/disk" "snap-$count" > /dev/null
    [ $((count % 5)) != 0 ] || nbdcopy "$(uri_of "snap-$count")" - | sha256sum > "$work/sum-$count"
    count=$((count + 1))
    sleep 0.2
done
wait "$load" || fail "fio: $(tail -n 30 "$work/fio.log")"
[ "$count" -ge 10 ] || fail "only $count snapshots were made"
for sum in "$work"/sum-*; do
    nbdcopy "$(uri_of "snap-${sum##*-}")" - | sha256sum | cmp - "$sum" ||
        fail "snapshot ${sum##*-} changed after it was made"
done
echo "a snapshot of a snapshot, and one of several volumes"
"$uthin" volume create "$pool/second" --size 1G
"$uthin" snapshot create "$pool/snap-0" snap-0-0
"$uthin" snapshot create "$pool/disk" both-1 "$pool/second" both-2
expect_equal "size" 1073741824 "$(nbdinfo --size "$(uri_of both-2)")"
stop_server
"$uthin" pool check "$pool" > /dev/null
judge_pool "$pool"
echo "ok: $count snapshots under load"
