#!/usr/bin/env bash
# ext4, written by a real client, replicated every second while both sides are killed at random: the replica is
# always the content of one snapshot of the source, and fsck accepts it. UTHIN_TIER=1: 5 minutes, 20 kills.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdfuse mkfs.ext4 e2fsck losetup mount fusermount3 python3
[ "$(id -u)" = 0 ] || skip "mounting needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse here"
[ -b /dev/loop0 ] || [ -c /dev/loop-control ] || skip "no loop devices here"

if [ "${UTHIN_TIER:-0}" = 1 ]; then kills=20 between=13; else kills=3 between=2; fi
RANDOM=$((${UTHIN_SEED:-20261122} % 32768))
echo "seed: UTHIN_SEED=${UTHIN_SEED:-20261122}, $kills kills"
loop= mounted=
cleanup_more() {
    [ -z "$mounted" ] || umount "$work/mnt" || umount -l "$work/mnt"
    [ -z "$loop" ] || losetup -d "$loop"
    ! mountpoint -q "$work/fuse" || fusermount3 -uz "$work/fuse"
}
source=$work/source target=$work/target
"$uthin" pool create "$source" --data-size 512M > /dev/null
"$uthin" pool create "$target" --data-size 512M --block-size 128K > /dev/null
"$uthin" volume create "$source/disk" --size 96M > /dev/null
start_server "$source"
mkdir "$work/fuse" "$work/mnt"
nbdfuse "$work/fuse/disk" "$(uri_of disk)" > "$work/nbdfuse.log" 2>&1 &
pids+=($!)
for _ in $(seq 50); do [ ! -e "$work/fuse/disk" ] || break; sleep 0.1; done
[ -e "$work/fuse/disk" ] || skip "nbdfuse cannot mount here: $(cat "$work/nbdfuse.log")"
loop=$(losetup --show -f "$work/fuse/disk" 2> "$work/losetup.log") || skip "losetup does not work here: $(cat "$work/losetup.log")"
mkfs.ext4 -q "$loop"
mount "$loop" "$work/mnt" 2> "$work/mount.log" || skip "mount does not work here: $(cat "$work/mount.log")"
mounted=yes

# The load: files come, change and go; each is synced.
load() {
    local n=0
    while [ ! -e "$work/stop" ]; do
        n=$((n + 1))
        head -c $((RANDOM * 8)) /dev/urandom > "$work/mnt/file-$((n % 40))"
        sync -f "$work/mnt/file-$((n % 40))" || return
        rm -f "$work/mnt/file-$(((n * 7) % 40))"
        sleep 0.05
    done
}
load &
pids+=($!)
target_server=
start_target() {
    "$uthin" serve "$target" > "$work/target.ready" 2>> "$work/target.log" &
    target_server=$!
    pids+=("$target_server")
    for _ in $(seq 300); do [ ! -s "$work/target.ready" ] || return 0; sleep 0.1; done
    fail "the target's server is not ready"
}
replicator=
start_replicator() {
    "$uthin" replicate "$source/disk" "$target" --every 1s >> "$work/replicate.out" 2>> "$work/replicate.err" &
    replicator=$!
    pids+=("$replicator")
}
end_process() { kill -KILL "$1" 2> /dev/null || true; wait "$1" 2> /dev/null || true; }
names() { "$uthin" volume list "$1" --json |
    python3 -c 'import json,sys; print(*(v["name"] for v in json.load(sys.stdin)["volumes"]))'; }

# Nothing runs: the replica is one snapshot of the source, and a file system.
checked=0
check_replica() {
    local snapshot status=0
    snapshot=$(names "$target" | tr ' ' '\n' | grep -- "-replica-" | tail -n 1) || return 0 # the first round never ended
    "$uthin" export "$target/disk" "$work/image" > /dev/null
    "$uthin" read "$target/$snapshot" | cmp - "$work/image"
    if names "$source" | tr ' ' '\n' | grep -qx "$snapshot"; then
        "$uthin" read "$source/$snapshot" | cmp - "$work/image"
        checked=$((checked + 1))
    fi
    e2fsck -p "$work/image" > "$work/fsck.log" 2>&1 || status=$? # replays the journal
    [ "$status" -le 1 ] || fail "fsck of the replica, status $status: $(cat "$work/fsck.log")"
    e2fsck -fn "$work/image" > "$work/fsck.log" 2>&1 || fail "fsck of the replica: $(cat "$work/fsck.log")"
    rm -f "$work/image"
}

rm -f "$work/target.ready"
start_target
start_replicator
for n in $(seq "$kills"); do
    sleep "$((RANDOM % between + 1)).$((RANDOM % 10))"
    if [ $((RANDOM % 2)) = 0 ]; then
        end_process "$replicator"
    else
        end_process "$target_server"
        end_process "$replicator"
        rm -f "$work/target.ready"
        start_target
    fi
    check_replica
    start_replicator
done
sleep 3
lag=$("$uthin" replicate "$source/disk" --status --json |
    python3 -c 'import json,sys; print(json.load(sys.stdin)["replicas"][0]["lag_seconds"])')
end_process "$replicator"
touch "$work/stop"
check_replica
[ "$checked" -ge 1 ] || fail "no replica was compared with its source"
echo "$kills kills, $checked replicas compared with their source, $(grep -c replicated "$work/replicate.out") rounds, lag at the end $lag s"
# Everything written arrives at last.
umount "$work/mnt"
mounted=
for _ in 1 2; do "$uthin" replicate "$source/disk" "$target" --once > /dev/null; done
expect_equal "bytes at the end" "$("$uthin" read "$source/disk" | sha256sum)" "$("$uthin" read "$target/disk" | sha256sum)"
losetup -d "$loop"
loop=
fusermount3 -u "$work/fuse"
kill "$target_server"
wait "$target_server" || fail "the target's server failed"
stop_server
judge_pool "$source"
judge_pool "$target"
echo "ok"
