#!/usr/bin/env bash
# The same as kill9_test.sh with metadata and data behind disks that take their time: NBD servers that
# outlive the kills, so that much is in flight at each of them and never done. 2 kills, 200 in tier 1.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3

kills=${KILLS:-$([ "${UTHIN_TIER:-0}" -ge 1 ] && echo 200 || echo 2)}
pool=$work/pool
slow_disk() { # NAME SIZE
    truncate -s "$2" "$work/$1"
    nbdkit -f -U "$work/$1.sock" --filter=delay file "$work/$1" delay-read=1ms delay-write=4ms \
        delay-zero=4ms delay-trim=4ms 2>> "$work/disks.log" &
    pids+=($!)
    for ((tries = 0; tries < 200; tries++)); do [ ! -S "$work/$1.sock" ] || return 0; sleep 0.05; done
    fail "the disk $1 does not come up"
}
slow_disk metadata 32M
slow_disk data 8G
"$uthin" pool create "$pool" --metadata "nbd+unix:///?socket=$work/metadata.sock" \
    --data "nbd+unix:///?socket=$work/data.sock"
"$uthin" volume create "$pool/disk" --size 64M
python3 "$here/kill9_load.py" "$uthin" "$pool" "$kills" "$work/metadata" 2>> "$work/server.log"
mkdir "$work/judged"
ln -s "$work/metadata" "$work/judged/metadata"
judge_pool "$work/judged"
echo "ok"
