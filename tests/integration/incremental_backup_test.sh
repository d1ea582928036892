#!/usr/bin/env bash
# The maintainers' recipe for incremental backups, step by step with our tools on a served pool that
# is written to all the time: snapshot, reserve, thin_delta -m, release, copy the ranges.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3

pool=$work/pool
backup=$work/backup
rounds=$([ "${UTHIN_TIER:-0}" -ge 1 ] && echo 10 || echo 3)
"$uthin" pool create "$pool" --data-size 512M --metadata-size 4M > /dev/null
"$uthin" volume create "$pool/v" --size 32M > /dev/null
random_file "$work/random" 24
start_server "$pool"
"$uthin" write "$pool/v" < "$work/random"

(while true; do # a client that never stops
    "$uthin" write "$pool/v" --offset "$((RANDOM % 8000 * 4096))" < <(head -c 5000 /dev/urandom) || exit 0
done) 2> /dev/null &
pids+=($!)

id_of() { "$uthin" volume show "$pool/$1" --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["dev_id"])'; }

"$uthin" snapshot create "$pool/v" backup-0 > /dev/null
"$uthin" read "$pool/backup-0" > "$backup"
for round in $(seq "$rounds"); do
    # Something changes, something goes away.
    head -c 300000 /dev/urandom | "$uthin" write "$pool/v" --offset "$((round * 3000000))"
    PYTHONPATH=$here python3 -c 'import sys, nbd_client
client = nbd_client.Client(sys.argv[1], "v")
client.trim(int(sys.argv[2]), 524288)' "$pool/nbd.sock" "$((12582912 + round * 1048576))"
    old=backup-$((round - 1)) new=backup-$round
    "$uthin" snapshot create "$pool/v" "$new" > /dev/null
    "$uthin" pool metadata-snapshot "$pool" reserve > /dev/null
    "$bin/thin_delta" -m --snap1 "$(id_of "$old")" --snap2 "$(id_of "$new")" "$pool/metadata" > "$work/delta.xml"
    "$uthin" pool metadata-snapshot "$pool" release > /dev/null
    python3 - "$work/delta.xml" "$uthin" "$pool/$new" "$backup" << 'END'
import subprocess, sys
import xml.etree.ElementTree as tree
delta, uthin, snapshot, backup = sys.argv[1:]
root = tree.parse(delta).getroot()
block = int(root.get("data_block_size")) * 512
copied = cleared = 0
with open(backup, "r+b") as file:
    for item in root.iter():
        if item.tag not in ("different", "right_only", "left_only"):
            continue
        begin, length = int(item.get("begin")) * block, int(item.get("length")) * block
        file.seek(begin)
        if item.tag == "left_only":
            file.write(bytes(length))
            cleared += length
        else:
            file.write(subprocess.run([uthin, "read", snapshot, "--offset", str(begin), "--length", str(length)],
                                      check=True, stdout=subprocess.PIPE).stdout)
            copied += length
assert copied > 0 and cleared > 0, (copied, cleared)
assert copied < 16 << 20, copied
END
    "$uthin" read "$pool/$new" | cmp - "$backup" || fail "backup $round differs"
    "$uthin" volume delete "$pool/$old" > /dev/null
done

kill "${pids[0]}"
wait "${pids[0]}" 2> /dev/null || true
pids=()
stop_server

echo "restore"
"$uthin" import "$backup" "$pool/restored" > /dev/null
expect_equal "restored bytes" "$("$uthin" read "$pool/$new" | sha256sum)" "$("$uthin" read "$pool/restored" | sha256sum)"
judge_pool "$pool"
echo "ok"
