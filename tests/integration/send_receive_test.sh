#!/usr/bin/env bash
# uthin send and receive with the real programs: whole and incremental, through pipes, compressed,
# from an idle pool and from a served one; what is to be refused; SIGKILL in the middle.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3

from=$work/from to=$work/to
"$uthin" pool create "$from" --data-size 128M --metadata-size 2M > /dev/null
"$uthin" pool create "$to" --data-size 128M --metadata-size 2M --block-size 256K > /dev/null
"$uthin" volume create "$from/v" --size 24M > /dev/null
random_file "$work/random" 4
same() { # A B: volumes with the same bytes
    expect_equal "bytes of $2" "$("$uthin" read "$1" | sha256sum)" "$("$uthin" read "$2" | sha256sum)"
}
names() { "$uthin" volume list "$1" --json |
    python3 -c 'import json,sys; print(*(v["name"] for v in json.load(sys.stdin)["volumes"]))'; }

"$uthin" write "$from/v" --offset 1M < "$work/random"
"$uthin" snapshot create "$from/v" s1 > /dev/null
head -c 70000 "$work/random" | "$uthin" write "$from/v" --offset 12345
head -c 1M /dev/zero | "$uthin" write "$from/v" --offset 3M
"$uthin" snapshot create "$from/v" s2 > /dev/null

echo "whole, then what changed"
"$uthin" send "$from/s1" | "$uthin" receive "$to/copy" > "$work/out"
expect_equal "report" "received $to/copy: 24.0 MiB, device" "$(cut -d' ' -f1-5 < "$work/out")"
same "$from/s1" "$to/copy"
"$uthin" send "$from/s2" --from "$from/s1" > "$work/delta"
[ "$(stat -c %s "$work/delta")" -lt 1500000 ] || fail "the difference is too long"
"$uthin" receive "$to/copy" < "$work/delta" > /dev/null
same "$from/s2" "$to/copy"
same "$from/s1" "$to/s1"
expect_equal "volumes" "copy s1 s2" "$(names "$to")"

echo "compressed, of a served pool, of a moving volume"
head -c 3M /dev/zero | tr '\0' x | "$uthin" write "$from/v" --offset 10M
start_server "$from"
"$uthin" send "$from/v" --from s2 --compress zstd > "$work/small"
expect_equal "volumes afterwards" "s1 s2 v" "$(names "$from")"
stop_server
[ "$(stat -c %s "$work/small")" -lt 100000 ] || fail "compression has no effect"
"$uthin" receive "$to/copy" --snapshot third < "$work/small" > /dev/null
same "$from/v" "$to/copy"
same "$to/copy" "$to/third"

echo "refused, and nothing changed"
state() { "$uthin" volume list "$to" --json; "$uthin" read "$to/copy" | sha256sum; }
before=$(state)
refused() { # PIECE COMMAND...
    expect_failure 1 "$@"
    expect_equal "state after: $*" "$before" "$(state)"
}
"$uthin" snapshot create "$from/v" s4 > /dev/null
"$uthin" snapshot create "$from/v" s5 > /dev/null
"$uthin" send "$from/s5" --from s4 > "$work/wrong-base"
refused "the newest common snapshot is 's2', here 's2'" "$uthin" receive "$to/copy" < "$work/wrong-base"
"$uthin" send "$from/s4" --from s2 > "$work/next"
refused "was changed since 's2'" "$uthin" receive "$to/copy" < "$work/next"
for bytes in 0 10 300 1000 $(($(stat -c %s "$work/next") - 1)); do
    head -c "$bytes" "$work/next" > "$work/cut"
    refused "the stream ends early" "$uthin" receive "$to/other" < "$work/cut"
done
cp "$work/next" "$work/flipped"
printf X | dd of="$work/flipped" bs=1 seek=20000 conv=notrunc status=none
refused "wrong checksum" "$uthin" receive "$to/other" < "$work/flipped"
cat "$work/next" "$work/next" > "$work/twice"
refused "something follows" "$uthin" receive "$to/other" < "$work/twice"
refused "does not begin like one" "$uthin" receive "$to/other" < "$work/random"
expect_failure 1 "is no snapshot" "$uthin" send "$from/s1" --from v
expect_failure 2 "zip" "$uthin" send "$from/s1" --compress zip

echo "SIGKILL of the receiver"
mkfifo "$work/pipe"
"$uthin" receive "$to/other" < "$work/pipe" > /dev/null 2>&1 &
pids+=($!)
exec 7> "$work/pipe"
head -c 60000 "$work/next" >&7
sleep 0.5
kill -KILL "${pids[0]}"
wait "${pids[0]}" 2> /dev/null || true
pids=()
exec 7>&-
expect_equal "state after SIGKILL" "$before" "$(state)"
"$uthin" receive "$to/other" < "$work/next" > /dev/null
same "$from/s4" "$to/other"

judge_pool "$from"
judge_pool "$to"
echo "ok"
