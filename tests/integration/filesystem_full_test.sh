#!/usr/bin/env bash
# ext4 and xfs on a volume of a pool that becomes full: waiting for space they notice nothing, with
# errors they are repaired as usual; fstrim gives space back to the pool and to its file.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdfuse mkfs.ext4 mkfs.xfs xfs_repair losetup mount fusermount3 fstrim
. "$(dirname "$0")/loop_functions.sh"

used() { "$uthin" pool status "$pool" --json | sed 's/.*"data_used_blocks":\([0-9]*\).*/\1/'; }
mode() { "$uthin" pool status "$pool" --json | grep -o '"mode":"[a-z_]*"' | cut -d'"' -f4; }
wait_for_mode() {
    local tries=0
    until [ "$(mode)" = "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "the pool's mode is $(mode), not $1"
        sleep 0.1
    done
}
make_file_system() {
    case $1 in
    ext4) mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$loop" ;;
    xfs) mkfs.xfs -q "$loop" ;;
    esac
}
# Nothing is changed.
check_file_system() {
    case $1 in
    ext4) fsck.ext4 -fn "$loop" > "$work/fsck.log" 2>&1 || fail "fsck: $(cat "$work/fsck.log")" ;;
    xfs) xfs_repair -n "$loop" > "$work/fsck.log" 2>&1 || fail "xfs_repair -n: $(cat "$work/fsck.log")" ;;
    esac
}
# As an administrator does after I/O errors: the journal first, then what is still wrong.
repair_file_system() {
    case $1 in
    ext4) fsck.ext4 -fy "$loop" > "$work/fsck.log" 2>&1 || [ $? -le 1 ] ||
        fail "fsck -y: $(cat "$work/fsck.log")" ;;
    xfs)
        mount_loop
        unmount_loop
        ;;
    esac
}

for kind in ext4 xfs; do
    echo "$kind"
    pool=$work/$kind
    "$uthin" pool create "$pool" --data-size 96M --metadata-size 4M > /dev/null
    "$uthin" volume create "$pool/$kind" --size 512M > /dev/null
    start_server "$pool"
    attach "$kind"
    make_file_system "$kind"
    mount_loop
    random_file "$work/kept" 20
    random_file "$work/large" 96
    cp "$work/kept" "$work/mnt/kept"
    sync -f "$work/mnt"

    echo "$kind: full while writes wait"
    dd if="$work/large" of="$work/mnt/large" bs=1M conv=fsync status=none &
    writer=$!
    pids+=("$writer")
    wait_for_mode out_of_data_space
    "$uthin" pool grow "$pool" --data-size 192M > /dev/null
    join "$writer" || fail "writing failed though the pool has grown"
    expect_equal "mode" write "$(mode)"
    cmp "$work/large" "$work/mnt/large"
    unmount_loop
    check_file_system "$kind"

    echo "$kind: fstrim"
    mount_loop
    rm "$work/mnt/large"
    sync -f "$work/mnt"
    before=$(used)
    file_before=$(du -k "$pool/data" | cut -f1)
    fstrim "$work/mnt"
    [ "$(used)" -lt $((before - 1000)) ] ||
        fail "$before blocks before, $(used) after fstrim of 96 MiB"
    tries=0
    until [ "$(du -k "$pool/data" | cut -f1)" -lt $((file_before - 64000)) ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || fail "the data file keeps its $file_before KiB"
        sleep 0.1
    done
    echo "$kind: $before -> $(used) blocks, $file_before -> $(du -k "$pool/data" | cut -f1) KiB of the file"

    echo "$kind: full with errors"
    "$uthin" pool set "$pool" no-space=error > /dev/null
    if cat "$work/large" "$work/large" | dd of="$work/mnt/large" bs=1M conv=fsync status=none 2> "$work/dd.log"; then
        fail "192 MiB fit into a full pool"
    fi
    expect_equal "mode" out_of_data_space "$(mode)"
    "$uthin" pool grow "$pool" --data-size 448M > /dev/null
    unmount_loop
    repair_file_system "$kind"
    mount_loop
    cmp "$work/kept" "$work/mnt/kept"
    rm -f "$work/mnt/large"
    cat "$work/large" "$work/large" > "$work/mnt/large"
    sync -f "$work/mnt"
    cat "$work/large" "$work/large" | cmp - "$work/mnt/large"
    unmount_loop
    check_file_system "$kind"
    detach
    stop_server
    "$uthin" pool check "$pool" > /dev/null
    judge_pool "$pool"
    rm -rf "$pool"
done
echo "ok"
