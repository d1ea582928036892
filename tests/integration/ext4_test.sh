#!/usr/bin/env bash
# ext4 on a volume, through nbdfuse and a loop device: mkfs, files, a snapshot, fsck of both.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdfuse mkfs.ext4 losetup mount fusermount3
[ "$(id -u)" = 0 ] || skip "mounting needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse here"
[ -b /dev/loop0 ] || [ -c /dev/loop-control ] || skip "no loop devices here"

loop=
mounted=
fuse=$work/fuse
cleanup_more() {
    [ -z "$mounted" ] || umount "$work/mnt" || umount -l "$work/mnt"
    [ -z "$loop" ] || losetup -d "$loop"
    ! mountpoint -q "$fuse" || fusermount3 -uz "$fuse"
}
# Shows the export NAME as the file $fuse/NAME and as a loop device.
attach() {
    mkdir -p "$fuse"
    nbdfuse "$fuse/$1" "$(uri_of "$1")" > "$work/nbdfuse.log" 2>&1 &
    pids+=($!)
    local tries=0
    until [ -e "$fuse/$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 50 ] || skip "nbdfuse cannot mount here: $(cat "$work/nbdfuse.log")"
        sleep 0.1
    done
    loop=$(losetup --show -f "$fuse/$1" 2> "$work/losetup.log") ||
        skip "losetup does not work here: $(cat "$work/losetup.log")"
}
detach() {
    losetup -d "$loop"
    loop=
    local tries=0
    until fusermount3 -u "$fuse" 2> /dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 50 ] || fail "nbdfuse stays busy"
        sleep 0.1
    done
}

pool=$work/pool
"$uthin" pool create "$pool" --data-size 1G
"$uthin" volume create "$pool/disk" --size 512M
start_server "$pool"
attach disk
mkfs.ext4 -q "$loop"
mkdir "$work/mnt"
mount "$loop" "$work/mnt" 2> "$work/mount.log" || skip "mount does not work here: $(cat "$work/mount.log")"
mounted=yes
mkdir "$work/files"
for i in $(seq 20); do head -c $((i * 100000)) /dev/urandom > "$work/files/$i"; done
cp -r "$work/files" "$work/mnt/"
sync -f "$work/mnt"
"$uthin" snapshot create "$pool/disk" snap
rm -r "$work/mnt/files/7"
cp "$work/files/3" "$work/mnt/another"
umount "$work/mnt"
mounted=
fsck.ext4 -fn "$loop" > "$work/fsck.log" 2>&1 || fail "fsck of the volume: $(cat "$work/fsck.log")"
detach
attach snap
# Taken while mounted: the journal is replayed first, as after a power cut.
fsck.ext4 -fy "$loop" > "$work/fsck.log" 2>&1 || [ $? -le 1 ] ||
    fail "fsck of the snapshot: $(cat "$work/fsck.log")"
mount -o ro "$loop" "$work/mnt"
mounted=yes
diff -r "$work/files" "$work/mnt/files"
umount "$work/mnt"
mounted=
detach
stop_server
"$uthin" pool check "$pool" > /dev/null
judge_pool "$pool"
echo "ok"
