#!/usr/bin/env bash
# ext4 on a volume, through nbdfuse and a loop device: mkfs, files, a snapshot, fsck of both.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdfuse mkfs.ext4 losetup mount fusermount3
. "$(dirname "$0")/loop_functions.sh"

pool=$work/pool
"$uthin" pool create "$pool" --data-size 1G
"$uthin" volume create "$pool/disk" --size 512M
start_server "$pool"
attach disk
mkfs.ext4 -q "$loop"
mount_loop
mkdir "$work/files"
for i in $(seq 20); do head -c $((i * 100000)) /dev/urandom > "$work/files/$i"; done
cp -r "$work/files" "$work/mnt/"
sync -f "$work/mnt"
"$uthin" snapshot create "$pool/disk" snap
rm -r "$work/mnt/files/7"
cp "$work/files/3" "$work/mnt/another"
unmount_loop
fsck.ext4 -fn "$loop" > "$work/fsck.log" 2>&1 || fail "fsck of the volume: $(cat "$work/fsck.log")"
detach
attach snap
# Taken while mounted: the journal is replayed first, as after a power cut.
fsck.ext4 -fy "$loop" > "$work/fsck.log" 2>&1 || [ $? -le 1 ] ||
    fail "fsck of the snapshot: $(cat "$work/fsck.log")"
mount_loop -o ro
diff -r "$work/files" "$work/mnt/files"
unmount_loop
detach
stop_server
"$uthin" pool check "$pool" > /dev/null
judge_pool "$pool"
echo "ok"
