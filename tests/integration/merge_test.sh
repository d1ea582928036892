#!/usr/bin/env bash
# uthin merge and flatten: while a client writes and verifies, over a kill, paused, aborted, idle.
. "$(dirname "$0")/functions.sh"
requires nbdkit fio nbdcopy
fio --enghelp 2> /dev/null | grep -qw nbd || skip "fio has no nbd engine"

pool=$work/pool
base=$work/base.img
random_file "$base" 32
random_file "$work/new" 24
"$uthin" pool create "$pool" --data-size 160M --metadata-size 2M > /dev/null
"$uthin" volume create "$pool/disk" --external-origin "$base" > /dev/null
write_new() { nbdcopy --flush "$work/new" "$(uri_of disk)"; }
content() { "$uthin" read "$pool/disk" | sha256sum; }
mapped() { "$uthin" volume show "$pool/disk" --json | sed -n 's/.*"mapped": *\([0-9]*\).*/\1/p' | head -n 1; }
load() { # SECONDS: writes and reads back what it wrote
    fio --name=load --verify_state_save=0 --ioengine=nbd --uri="$(uri_of disk)" --rw=randwrite --bs=4k --size=32m --iodepth=8 \
        --time_based --runtime="$1" --verify=crc32c --verify_fatal=1 --verify_backlog=256 --minimal > "$work/fio.log" 2>&1
}

# A client writes and verifies meanwhile.
start_server "$pool"
write_new
load 4 & pids+=($!)
load_pid=$!
"$uthin" merge "$pool/disk" > "$work/merge.log"
expect_contains "merge" "$(cat "$work/merge.log")" ": done, 0 B left"
wait "$load_pid" || fail "fio: $(tail -n 5 "$work/fio.log")"
sum=$(content)
"$uthin" merge "$pool/disk" > /dev/null
expect_equal "mapped after a merge" 0 "$(mapped)"
expect_equal "content after a merge" "$sum" "$(content)"
expect_equal "the origin" "$sum" "$(sha256sum < "$base")"

# Killed in the middle it goes on when the pool is served again.
random_file "$work/new" 24
write_new
sum=$(content)
"$uthin" merge "$pool/disk" --detach > /dev/null
kill -KILL "$server_pid"
wait "$server_pid" 2> /dev/null || true
server_pid=
start_server "$pool"
expect_equal "content after a kill" "$sum" "$(content)"
"$uthin" merge "$pool/disk" > /dev/null
expect_equal "mapped after going on" 0 "$(mapped)"
expect_equal "content after going on" "$sum" "$(content)"
expect_equal "the origin after going on" "$sum" "$(sha256sum < "$base")"

# Paused it stays so; other volumes on the image are protected or it is refused.
write_new
"$uthin" volume create "$pool/other" --external-origin "$base" > /dev/null
other=$("$uthin" read "$pool/other" | sha256sum)
expect_failure 1 "--copy-up" "$uthin" merge "$pool/disk"
"$uthin" merge "$pool/disk" --copy-up --detach > /dev/null
"$uthin" merge "$pool/disk" --pause > /dev/null
sum=$(content)
stop_server
start_server "$pool"
status=$("$uthin" merge "$pool/disk" --status 2>&1) || true
case "$status" in
    *": paused, "* | *"is not being merged"*) ;;  # the second: it was done before it was paused
    *) fail "after a pause and a restart: $status" ;;
esac
"$uthin" merge "$pool/disk" --copy-up > /dev/null
expect_equal "content after a pause" "$sum" "$(content)"
expect_equal "the other volume" "$other" "$("$uthin" read "$pool/other" | sha256sum)"
expect_equal "the origin after a pause" "$sum" "$(sha256sum < "$base")"

# Flattened, also under load, the volume lives without the image.
load 3 & pids+=($!)
load_pid=$!
"$uthin" flatten "$pool/disk" > /dev/null
wait "$load_pid" || fail "fio: $(tail -n 5 "$work/fio.log")"
"$uthin" flatten "$pool/other" > /dev/null
sum=$(content)
stop_server
rm "$base"
expect_equal "content without the origin" "$sum" "$(content)"
expect_equal "the other volume without it" "$other" "$("$uthin" read "$pool/other" | sha256sum)"
expect_failure 1 "no external origin" "$uthin" merge "$pool/disk"
"$uthin" pool check "$pool" > /dev/null
judge_pool "$pool"

# An idle pool.
random_file "$base" 4
"$uthin" volume create "$pool/idle" --external-origin "$base" > /dev/null
head -c 100000 "$work/new" | "$uthin" write "$pool/idle" --offset 65000
sum=$("$uthin" read "$pool/idle" | sha256sum)
"$uthin" merge "$pool/idle" --json | grep -q '"state": *"done"' || fail "no state in JSON"
expect_equal "the idle pool's origin" "$sum" "$(sha256sum < "$base")"
expect_equal "the idle pool's volume" "$sum" "$("$uthin" read "$pool/idle" | sha256sum)"
expect_failure 1 "is not being merged" "$uthin" merge "$pool/idle" --abort
judge_pool "$pool"
echo "ok"
