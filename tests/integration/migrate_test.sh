#!/usr/bin/env bash
# uthin migrate: a served volume whose client writes and verifies, its snapshots, other block sizes, and again.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3

from=$work/from
to=$work/to
"$uthin" pool create "$from" --data-size 128M --metadata-size 2M > /dev/null
"$uthin" pool create "$to" --data-size 128M --metadata-size 2M --block-size 128K > /dev/null
"$uthin" volume create "$from/disk" --size 32M > /dev/null
random_file "$work/random" 20
"$uthin" write "$from/disk" < "$work/random"
"$uthin" snapshot create "$from/disk" monday > /dev/null
head -c 300000 "$work/random" | "$uthin" write "$from/disk" --offset 9M
"$uthin" snapshot create "$from/disk" tuesday > /dev/null
sum_of() { "$uthin" read "$1" | sha256sum; }
monday=$(sum_of "$from/monday")
tuesday=$(sum_of "$from/tuesday")

# A client that stays: all is copied but the switch-over.
start_server "$from"
python3 "$here/migrate_client.py" "$from/nbd.sock" disk "$work/ready-client" "$work/stop-client" \
    "${UTHIN_SEED:-1}" 2> "$work/client.log" & pids+=($!)
client_pid=$!
tries=0
until [ -e "$work/ready-client" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || fail "the client is not ready: $(cat "$work/client.log")"
    sleep 0.1
done
expect_failure 1 "disconnect its clients" "$uthin" migrate "$from/disk" "$to/disk" --wait 0s
expect_equal "monday, before the switch" "$monday" "$(sum_of "$to/monday")"
expect_failure 1 "no such volume" "$uthin" volume show "$to/disk"
touch "$work/stop-client"
wait "$client_pid" || fail "the client: $(tail -n 5 "$work/client.log")"

# The client has left.
disk=$(sum_of "$from/disk")
"$uthin" migrate "$from/disk" "$to/disk" > "$work/migrate.log"
expect_contains "what is said" "$(cat "$work/migrate.log")" "the source is called disk.migrated now"
expect_failure 1 "no such volume" "$uthin" volume show "$from/disk"
stop_server
for name in monday tuesday disk; do
    expect_equal "$name" "${!name}" "$(sum_of "$to/$name")"
done
expect_equal "names" "disk monday tuesday" "$("$uthin" volume list "$to" | tail -n +2 | awk '{print $1}' | xargs)"
expect_equal "names left" "disk.migrated monday tuesday" "$("$uthin" volume list "$from" | tail -n +2 | awk '{print $1}' | xargs)"
"$uthin" migrate "$from/disk" "$to/disk" --json | grep -q '"copied": *0' || fail "the second call copied something"
expect_failure 1 "is the pool of the volume" "$uthin" migrate "$from/monday" "$from/x"

# From a pool that somebody else made and that is only read.
"$uthin" pool adopt "$work/adopted" --metadata "$from/metadata" --data "$from/data" --read-only > /dev/null
"$uthin" migrate "$work/adopted/thin-1" "$to/imported" > /dev/null
expect_equal "imported" "$("$uthin" read "$work/adopted/thin-1" | sha256sum)" "$(sum_of "$to/imported")"
"$uthin" pool check "$to" > /dev/null
judge_pool "$from"
judge_pool "$to"
echo "ok"
