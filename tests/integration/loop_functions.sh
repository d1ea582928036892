# Sourced after functions.sh by tests that put a file system on a volume, through nbdfuse and a loop
# device; skips where that is not to be had.
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
    nbdfuse_pid=$!
    pids+=("$nbdfuse_pid")
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
    join "$nbdfuse_pid" || true
}
mount_loop() { # OPTIONS of mount
    mkdir -p "$work/mnt"
    mount "$@" "$loop" "$work/mnt" 2> "$work/mount.log" ||
        skip "mount does not work here: $(cat "$work/mount.log")"
    mounted=yes
}
unmount_loop() {
    umount "$work/mnt"
    mounted=
}
