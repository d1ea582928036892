#!/usr/bin/env bash
# The command line in process: every command once, and everything that is to be refused.
. "$(dirname "$0")/functions.sh"
requires python3

pool=$work/pool
out() { "$uthin" "$@"; }
field() { python3 -c 'import json,sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("/"):
    value = value[int(key) if isinstance(value, list) else key]
print(value)' "$1"; }
# What must not change, byte for byte (the catalogue included).
sums() { (cd "$1" && find . -type f | LC_ALL=C sort | xargs -d '\n' sha256sum); }
# expect_failure, and nothing below DIR changed.
expect_refused() { # DIR STATUS PIECE COMMAND...
    local dir=$1 before
    shift
    before=$(sums "$dir")
    expect_failure "$@"
    expect_equal "files after: ${*:3}" "$before" "$(sums "$dir")"
}

echo "every command"
expect_equal "create" "created $pool" "$(out pool create "$pool" --data-size 16M --metadata-size 1M)"
expect_equal "status line, fresh" \
    "0 34/256 0/256 - rw discard_passdown queue_if_no_space - 64 " "$(out pool status "$pool" --kernel)"
expect_equal "volume create" "created $pool/a: 8.0 MiB, device 0" "$(out volume create "$pool/a" --size 8M)"
expect_equal "table line" "0 32768 thin-pool $pool/metadata $pool/data 128 0 0" "$(out pool status "$pool" --table)"
expect_equal "volume, never written" "0 -
0 16384 thin /dev/mapper/pool 0" "$(out volume show "$pool/a" --kernel --table)"
random_file "$work/random" 3
out write "$pool/a" --offset 4099 < "$work/random"
out read "$pool/a" --offset 4099 --length 3M | cmp - "$work/random" || fail "read differs"
expect_equal "hole" 0 "$(out read "$pool/a" --offset 5M --length 1M | tr -d '\0' | wc -c)"
expect_equal "snapshots" 2 "$(out snapshot create "$pool/a" s "$pool/a" t | wc -l)"
expect_equal "parent" a "$(out volume show "$pool/s" --json | field parent)"
head -c 100000 /dev/zero | out write "$pool/a"
out read "$pool/s" --offset 4099 --length 3M | cmp - "$work/random" || fail "the snapshot changed"
out volume rollback "$pool/a" --to "$pool/s" > /dev/null
out read "$pool/a" --offset 4099 --length 3M | cmp - "$work/random" || fail "rollback differs"
out volume rename "$pool/t" "T 1" > /dev/null
expect_equal "names" "T 1 a s" "$(out volume list "$pool" --json |
    python3 -c 'import json,sys; print(" ".join(v["name"] for v in json.load(sys.stdin)["volumes"]))')"
expect_equal "deleted" "deleted $pool/T 1" "$(out volume delete "$pool/T 1")"
expect_equal "not there" "there is no $pool/T 1" "$(out volume delete "$pool/T 1" --if-exists)"
out volume resize "$pool/a" --size 1M > /dev/null
out volume resize "$pool/a" --size 8M > /dev/null
expect_equal "regrown part" 0 "$(out read "$pool/a" --offset 1M | tr -d '\0' | wc -c)"
truncate -s 20M "$work/sparse"
dd if="$work/random" of="$work/sparse" bs=64K seek=100 conv=notrunc status=none
printf tail >> "$work/sparse"
out import "$work/sparse" "$pool/image" > /dev/null
expect_equal "mapped by import" $((49 * 65536)) "$(out volume show "$pool/image" --json | field mapped)"
out export "$pool/image" "$work/exported" > /dev/null
cmp -n "$(stat -c %s "$work/sparse")" "$work/sparse" "$work/exported" || fail "export differs"
[ "$(stat -c %b "$work/exported")" -le "$(($(stat -c %b "$work/sparse") + 128))" ] || fail "export is not sparse"
out import "$work/random" "$pool/image" > /dev/null  # over what is there
out read "$pool/image" --length 3M | cmp - "$work/random" || fail "second import differs"
expect_equal "message" "" "$(out message "$pool" 'create_thin 77')"
expect_equal "by message" thin-77 "$(out volume show "$pool/thin-77" --json | field name)"
out message "$pool" delete 77
expect_equal "held root" "$(out pool metadata-snapshot "$pool" reserve)" "$(out pool metadata-snapshot "$pool" show)"
out pool metadata-snapshot "$pool" release > /dev/null
expect_equal "grown" 512 "$(out pool grow "$pool" --data-size 32M --json | field data_blocks)"
expect_equal "set" error "$(out pool set "$pool" no-space=error low-water=10% --json | field no_space)"
expect_contains "check" "$(out pool check "$pool")" "clean: 3 devices"
expect_contains "release" "$(out pool release "$pool")" \
    "pool: 0 65536 thin-pool $(realpath "$pool")/metadata $(realpath "$pool")/data 128 51 1 error_if_no_space"
expect_contains "release, volume" "$(out pool release "$pool")" "a: 0 16384 thin /dev/mapper/pool 0"
expect_equal "create again" 0 "$(out pool create "$pool" --data-size 1M --if-not-exists > /dev/null; echo $?)"
judge_pool "$pool"

echo "an external origin"
head -c 300000 /dev/urandom > "$work/image"
expect_refused "$pool" 1 "external origin" "$uthin" volume create "$pool/over" --external-origin "$work/none"
(cd "$work" && "$uthin" volume create "$pool/over" --external-origin image > /dev/null)
expect_equal "size of its origin" 300032 "$(out volume show "$pool/over" --json | field size)"
head -c 1000 /dev/zero | "$uthin" write "$pool/over" --offset 70000
out snapshot create "$pool/over" over-snap > /dev/null
cp "$work/image" "$work/wanted"
dd if=/dev/zero of="$work/wanted" bs=1000 seek=70 count=1 conv=notrunc status=none
truncate -s 300032 "$work/wanted"
out read "$pool/over-snap" | cmp - "$work/wanted" || fail "a snapshot of a volume over an image"
expect_equal "blocks copied" 65536 "$(out volume show "$pool/over" --json | field mapped)"
out volume delete "$pool/over-snap" > /dev/null
out volume delete "$pool/over" > /dev/null

echo "space goes back to the file"
out volume create "$pool/spacious" --size 4M > /dev/null
head -c 4M /dev/urandom | "$uthin" write "$pool/spacious"
before=$(stat -c %b "$pool/data")
out volume delete "$pool/spacious" > /dev/null
[ "$(stat -c %b "$pool/data")" -le $((before - 8192)) ] || fail "a deleted volume keeps its space in the file"
expect_contains "trim" "$(out pool trim "$pool")" "discarded"
expect_equal "trim, JSON" 1 "$(($(out pool trim "$pool" --json | field discarded) > 0))"
out pool set "$pool" discard=no-passdown > /dev/null
expect_refused "$pool" 1 "discard=passdown" "$uthin" pool trim "$pool"
out pool set "$pool" discard=passdown > /dev/null

echo "what looks writes nothing"
before=$(sums "$pool")
for command in "pool status" "pool status --kernel" "pool check" "volume list" "pool metadata-snapshot"; do
    case $command in
        *snapshot) out $command "$pool" show > /dev/null ;;
        *) out $command "$pool" > /dev/null ;;
    esac
done
out volume show "$pool/a" > /dev/null
out read "$pool/a" > /dev/null
expect_equal "files after looking" "$before" "$(sums "$pool")"

echo "command lines"
expect_refused "$pool" 2 "subcommand" "$uthin"
expect_refused "$pool" 2 "subcommand" "$uthin" volume
expect_refused "$pool" 2 "--help" "$uthin" nonsense
expect_refused "$pool" 2 "--size" "$uthin" volume create "$pool/x"
expect_refused "$pool" 2 "DIR/NAME" "$uthin" volume create "$pool/" --size 1M
for size in 12x -1 "" 1.5G 0x10; do
    expect_refused "$pool" 2 "size" "$uthin" volume create "$pool/x" --size="$size"
done
for size in 99999999999999999999 16777216T 18446744073709551616; do
    expect_refused "$pool" 2 "too large" "$uthin" volume create "$pool/x" --size "$size"
done
expect_refused "$pool" 2 "KEY=VALUE" "$uthin" pool set "$pool" zeroing
expect_refused "$pool" 2 "duration" "$uthin" volume list "$pool" --wait 10x
expect_refused "$pool" 2 "missing" "$uthin" snapshot create "$pool/a"

echo "sizes"
expect_refused "$pool" 1 "multiple of 512" "$uthin" volume create "$pool/x" --size 1000
expect_refused "$pool" 1 "empty" "$uthin" volume create "$pool/x" --size 0
expect_refused "$pool" 1 "8 EiB" "$uthin" volume create "$pool/x" --size 16777215T
expect_refused "$pool" 1 "smaller than now" "$uthin" pool grow "$pool" --data-size 1M
expect_refused "$pool" 1 "too large" "$uthin" pool grow "$pool" --data-size 16777215T
expect_refused "$pool" 1 "beyond its end" "$uthin" read "$pool/a" --offset 9M
expect_refused "$pool" 1 "beyond its end" "$uthin" read "$pool/a" --offset 1 --length 8M
expect_refused "$pool" 1 "beyond its end" "$uthin" read "$pool/a" --offset 16777215T --length 16777215T
expect_refused "$pool" 1 "input is longer" sh -c "'$uthin' write '$pool/a' --offset 8388607 < '$work/random'"
expect_refused "$pool" 1 "grow it" "$uthin" import "$work/sparse" "$pool/a"

echo "names"
expect_refused "$pool" 1 "at most 255" "$uthin" volume create "$pool/$(printf 'x%.0s' $(seq 256))" --size 1M
expect_refused "$pool" 1 "not UTF-8" "$uthin" volume create "$pool/$(printf '\377\376')" --size 1M
expect_refused "$pool" 1 "control" "$uthin" volume create "$pool/$(printf 'a\tb')" --size 1M
expect_refused "$pool" 1 "control" "$uthin" volume create "$pool/$(printf 'a\nb')" --size 1M
expect_refused "$pool" 1 "directory" "$uthin" volume create "$pool/.." --size 1M
expect_refused "$pool" 1 "reserved" "$uthin" volume create "$pool/thin-9" --size 1M
expect_refused "$pool" 1 "not a pool" "$uthin" volume create "$pool/b/c" --size 1M
expect_refused "$pool" 1 "empty" "$uthin" volume rename "$pool/a" ""
expect_refused "$pool" 1 "exists already" "$uthin" volume rename "$pool/a" s
expect_refused "$pool" 1 "exists already" "$uthin" volume create "$pool/a" --size 1M
expect_refused "$pool" 1 "no such volume" "$uthin" volume delete "$pool/x"
expect_refused "$pool" 1 "24 bits" "$uthin" volume create "$pool/x" --size 1M --id 16777216
expect_refused "$pool" 2 "--id" "$uthin" volume create "$pool/x" --size 1M --id x
expect_refused "$pool" 1 "24 bits" "$uthin" volume create "$pool/x" --size 1M --id -1
expect_refused "$pool" 1 "taken" "$uthin" volume create "$pool/x" --size 1M --id 0
expect_refused "$pool" 1 "no snapshot of it" "$uthin" volume rollback "$pool/a" --to image

echo "messages, as the kernel answers them"
while IFS='|' read -r message errno; do
    expect_refused "$pool" 1 "($errno)" "$uthin" message "$pool" "$message"
done <<'MESSAGES'
|Invalid argument
bogus|Invalid argument
create_thin|Invalid argument
create_thin x|Invalid argument
create_thin -1|Invalid argument
create_thin 16777216|Invalid argument
create_thin 4294967296|Invalid argument
create_thin 99999999999999999999|Invalid argument
create_thin 0x10|Invalid argument
create_thin 0|File exists
create_thin 1 2|Invalid argument
create_snap 5|Invalid argument
create_snap 1 0|File exists
create_snap 6 9999|No data available
create_snap 9999 9999|No data available
delete 9999|No data available
delete 16777216|Invalid argument
set_transaction_id 999 6|Invalid argument
set_transaction_id x 2|Invalid argument
reserve_metadata_snap x|Invalid argument
release_metadata_snap|Invalid argument
MESSAGES

echo "pools that are none"
expect_failure 1 "not a pool" "$uthin" pool status "$work/nothing"
expect_failure 1 "exists already" "$uthin" pool create "$pool" --data-size 1M
expect_failure 2 "no size" "$uthin" pool create "$work/new"
for block_size in 512 100K 2G 0; do
    expect_failure 1 "block size" "$uthin" pool create "$work/new" --data-size 64M --block-size $block_size
done
expect_failure 1 "less than one block" "$uthin" pool create "$work/new" --data-size 1M --block-size 2M
expect_failure 1 "too small" "$uthin" pool create "$work/new" --data-size 1T --metadata-size 64K
expect_failure 1 "low-water" "$uthin" pool create "$work/new" --data-size 1M --low-water 101%
[ ! -e "$work/new" ] || fail "a refused create left something"

mkdir "$work/raw"
cp --sparse=always "$pool/metadata" "$pool/data" "$work/raw"
adopt() { # PIECE METADATA DATA
    expect_refused "$work/raw" 1 "$1" "$uthin" pool adopt "$work/new" --metadata "$2" --data "$3"
    [ ! -e "$work/new" ] || fail "a refused adopt left something"
}
cd "$work/raw"
truncate -s 4M zeros
cp "$work/random" foreign
head -c 100 metadata > short
head -c 512K metadata > half
cp metadata damaged
printf '\377' | dd of=damaged bs=1 seek=40 conv=notrunc status=none
truncate -s 1M small-data
adopt "swapped" data metadata
adopt "blank" zeros data
adopt "not pool metadata" foreign data
adopt "truncated" short data
adopt "truncated" half data
adopt "not pool metadata" damaged data
adopt "data" metadata small-data
adopt "two devices" metadata metadata
adopt "two devices" metadata ../raw/metadata
adopt "nothing" nothing data
adopt "raw" . data
expect_refused "$work/raw" 1 "not blank" "$uthin" pool create "$work/new" --metadata metadata --data zeros
expect_refused "$work/raw" 1 "holds the metadata" "$uthin" pool create "$work/new" --metadata zeros --data metadata
rm -rf "$work/new"
"$uthin" pool adopt "$work/new" --metadata metadata --data data > /dev/null
cd "$work"
expect_equal "adopted names" "image-less thin-0" "image-less $(out volume list new --json | field volumes/0/name)"

echo "damaged and foreign descriptions"
for text in '' '{' '[]' '{"format":"x"}' "$(printf '\377')"; do
    printf '%s' "$text" > "$work/new/pool.json"
    expect_refused "$work/new" 1 "pool.json" "$uthin" volume list "$work/new"
done
sed 's/"version": 1/"version": 2/' "$pool/pool.json" > "$work/new/pool.json"
expect_refused "$work/new" 1 "newer" "$uthin" volume list "$work/new"
cp "$pool/pool.json" "$work/new/pool.json"
expect_refused "$work/new" 1 "" "$uthin" volume list "$work/new"

echo "metadata that is damaged inside"
cp -r "$pool" "$work/broken"
python3 - "$work/broken/metadata" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as f:  # every block but the superblock and its neighbours
    data = f.read()
    for block in range(1, 64):
        f.seek(block * 4096 + 100)
        f.write(b"\xa5" * 8)
PYTHON
expect_refused "$work/broken" 1 "" "$uthin" volume list "$work/broken"
expect_refused "$work/broken" 1 "" "$uthin" volume create "$work/broken/x" --size 1M

echo "a second process"
python3 - "$pool/metadata" <<'PYTHON' &
import fcntl, struct, sys, time
f = open(sys.argv[1], "r+b")
fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK
print("locked", flush=True)
time.sleep(1000)
PYTHON
holder=$!
pids+=("$holder")
sleep 1
expect_refused "$pool" 1 "metadata" "$uthin" volume list "$pool" --wait 0s
expect_refused "$pool" 1 "metadata" "$uthin" volume create "$pool/x" --size 1M --wait 200ms
(sleep 1; kill "$holder") &
expect_equal "after waiting" 0 "$(out volume list "$pool" --wait 20s > /dev/null; echo $?)"

if [ "$(id -u)" != 0 ]; then
    echo "read-only files"
    chmod 400 "$pool/metadata" "$pool/data"
    expect_equal "listed" 0 "$(out volume list "$pool" > /dev/null; echo $?)"
    expect_refused "$pool" 1 "metadata" "$uthin" volume create "$pool/x" --size 1M
    chmod 600 "$pool/metadata" "$pool/data"
fi
out pool set "$pool" read-only=on > /dev/null
expect_equal "read-only status" ro "$(out pool status "$pool" --kernel | cut -d' ' -f5)"
expect_refused "$pool" 1 "read-only=off" "$uthin" volume create "$pool/x" --size 1M
expect_refused "$pool" 1 "Operation not supported" "$uthin" message "$pool" bogus
expect_refused "$pool" 1 "read-only=off" sh -c "'$uthin' write '$pool/a' < '$work/random'"
out pool set "$pool" read-only=off > /dev/null

echo "the catalogue is lost"
mv "$pool/catalog.db" "$work/catalog.db"
expect_refused "$pool" 1 "--rebuild-catalog" "$uthin" volume list "$pool"
out pool adopt "$pool" --rebuild-catalog > /dev/null
expect_equal "rebuilt" thin-0 "$(out volume list "$pool" --json | field volumes/0/name)"
out pool check "$pool" > /dev/null
judge_pool "$pool"
echo "ok"
