#!/usr/bin/env bash
# The export B@since-A: nbdcopy moves only what changed; and what changed as a dirty bitmap of QEMU.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdcopy nbdinfo python3

pool=$work/pool
"$uthin" pool create "$pool" --data-size 128M --metadata-size 2M > /dev/null
"$uthin" volume create "$pool/v" --size 32M > /dev/null
random_file "$work/random" 8
"$uthin" write "$pool/v" < "$work/random"
"$uthin" snapshot create "$pool/v" monday > /dev/null
head -c 300K "$work/random" | "$uthin" write "$pool/v" --offset 4M
head -c 1M /dev/zero | "$uthin" write "$pool/v" --offset 1M # whole blocks: they become holes
head -c 100K "$work/random" | "$uthin" write "$pool/v" --offset 20M
"$uthin" snapshot create "$pool/v" tuesday > /dev/null
"$uthin" read "$pool/monday" > "$work/copy"
start_server "$pool"

echo "extents"
since=$(uri_of tuesday@since-monday)
changed=$(nbdinfo --map "$since" | awk '$4 != "hole,zero" {sum += $2} END {print sum}')
wanted=$("$uthin" diff "$pool/monday" "$pool/tuesday" | tail -n +2 | awk '{sum += $3} END {print sum}')
expect_equal "bytes that changed" "$wanted" "$changed"
expect_equal "the same of itself" "" "$(nbdinfo --map "$(uri_of monday@since-monday)" | awk '$4 != "hole,zero"')"
expect_equal "size" "$((32 << 20))" "$(nbdinfo --size "$since")"
if nbdinfo --size "$(uri_of tuesday@since-sunday)" > /dev/null 2>&1; then fail "an unknown base was served"; fi

echo "nbdcopy of what changed"
[ "$changed" -lt 2000000 ] || fail "$changed bytes changed"
nbdcopy --sparse=0 --destination-is-zero --request-size=65536 -- "$since" [ nbdkit --exit-with-parent file "$work/copy" ]
"$uthin" read "$pool/tuesday" | cmp - "$work/copy"
"$uthin" read "$pool/monday" > "$work/served"
nbdkit -U "$work/target.sock" -P "$work/target.pid" --filter=stats file "$work/served" statsfile="$work/stats"
nbdcopy --sparse=0 --destination-is-zero --request-size=65536 "$since" "nbd+unix:///?socket=$work/target.sock"
kill "$(cat "$work/target.pid")"
for _ in $(seq 50); do [ ! -s "$work/stats" ] || break; sleep 0.1; done
"$uthin" read "$pool/tuesday" | cmp - "$work/served"
expect_contains "what was written" "$(grep ^write: "$work/stats")" "write: "
python3 - "$work/stats" "$changed" <<'END'
import re, sys
line = next(l for l in open(sys.argv[1]) if l.startswith("write:"))
amount, unit = re.search(r"([\d.]+) (bytes|KiB|MiB)", line).groups()
written = float(amount) * {"bytes": 1, "KiB": 1024, "MiB": 1 << 20}[unit]
assert abs(written - int(sys.argv[2])) < 0.02 * int(sys.argv[2]) + 1024, (line, sys.argv[2])
print("written to the copy:", line.strip())
END

echo "a name that holds the word"
"$uthin" snapshot create "$pool/v" tuesday@since-monday > /dev/null
expect_equal "a volume of that name goes first" "$(nbdinfo --map "$(uri_of tuesday)" | awk '{print $1, $2}')" \
    "$(nbdinfo --map "$(uri_of tuesday@since-monday)" | awk '{print $1, $2}')"
"$uthin" volume delete "$pool/tuesday@since-monday" > /dev/null

if ! command -v qemu-img > /dev/null || ! command -v qemu-nbd > /dev/null; then
    stop_server
    echo "qemu-utils is not installed: no dirty bitmap"
    exit 0
fi
echo "a dirty bitmap of QEMU"
size=$((32 << 20))
# 1. A bitmap with what changed: empty writes at those places of an image that nobody reads.
qemu-img create -q -f qcow2 "$work/changes.qcow2" $size
qemu-img bitmap --add -g 65536 "$work/changes.qcow2" since-monday
"$uthin" diff "$pool/monday" "$pool/tuesday" --json |
    python3 -c 'import json, sys
for r in json.load(sys.stdin)["ranges"]:
    print("write -z", r["offset"], r["length"])' | qemu-io -f qcow2 "$work/changes.qcow2" > "$work/qemu-io.log"
# 2. Beside an empty overlay of the snapshot.
qemu-img create -q -f qcow2 -b "$(uri_of tuesday)" -F raw "$work/overlay.qcow2" $size
qemu-img bitmap --add --disable -g 65536 "$work/overlay.qcow2" since-monday
qemu-img bitmap --merge since-monday -b "$work/changes.qcow2" -F qcow2 "$work/overlay.qcow2" since-monday
# 3. Served with the snapshot's bytes.
qemu-nbd --read-only --persistent --socket "$work/bitmap.sock" --format qcow2 --bitmap since-monday "$work/overlay.qcow2" \
    > "$work/qemu-nbd.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do [ ! -S "$work/bitmap.sock" ] || break; sleep 0.1; done
nbdinfo --map=qemu:dirty-bitmap:since-monday "nbd+unix:///?socket=$work/bitmap.sock" > "$work/dirty"
expect_equal "dirty bytes" "$wanted" "$(awk '$3 == 1 {sum += $2} END {print sum}' "$work/dirty")"
qemu-img compare -q -f raw -F raw "nbd+unix:///?socket=$work/bitmap.sock" "$(uri_of tuesday)"
kill "${pids[0]}"
wait "${pids[0]}" 2> /dev/null || true
pids=()
stop_server
judge_pool "$pool"
echo "ok"
