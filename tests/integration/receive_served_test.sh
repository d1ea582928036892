#!/usr/bin/env bash
# Streams into a served pool, broken off and gone on with; what is listed, dropped and left behind by
# programs that were killed on either side.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3

from=$work/from to=$work/to
"$uthin" pool create "$from" --data-size 128M --metadata-size 2M > /dev/null
"$uthin" pool create "$to" --data-size 128M --metadata-size 2M --block-size 256K > /dev/null
"$uthin" volume create "$from/v" --size 24M > /dev/null
random_file "$work/random" 8
same() { # A B: volumes with the same bytes
    expect_equal "bytes of $2" "$("$uthin" read "$1" | sha256sum)" "$("$uthin" read "$2" | sha256sum)"
}
names() { "$uthin" volume list "$1" --json |
    python3 -c 'import json,sys; print(*(v["name"] for v in json.load(sys.stdin)["volumes"]))'; }
transfers() { "$uthin" transfer list "$1" --json |
    python3 -c 'import json,sys; print(*(t["id"] for t in json.load(sys.stdin)["transfers"]))'; }
token() { tail -n 1 "$work/out" | sed -n 's/^token //p'; }
# Takes BYTES of the stream on stdin and breaks off; the token is in $work/out.
break_off() { # BYTES VOLUME
    if head -c "$1" | "$uthin" receive "$2" --snapshot "$(basename "$2")-s" > "$work/out" 2> "$work/err"; then
        fail "a stream of $1 bytes was taken for a whole one"
    fi
    expect_contains "failure" "$(cat "$work/err")" "the stream ends early"
    [ -n "$(token)" ] || fail "no token on the last line: $(cat "$work/out")"
}

"$uthin" write "$from/v" --offset 1M < "$work/random"
"$uthin" snapshot create "$from/v" s1 > /dev/null
head -c 3M "$work/random" | "$uthin" write "$from/v" --offset 12M
head -c 1M /dev/zero | "$uthin" write "$from/v" --offset 3M
"$uthin" snapshot create "$from/v" s2 > /dev/null
"$uthin" send "$from/s1" > "$work/whole"
"$uthin" send "$from/s2" --from s1 > "$work/delta"

start_server "$to"
echo "whole, then what changed, into a served pool"
"$uthin" receive "$to/copy" < "$work/whole" > "$work/out"
expect_contains "report" "$(cat "$work/out")" "kept as s1"
same "$from/s1" "$to/copy"
"$uthin" receive "$to/copy" < "$work/delta" > /dev/null
same "$from/s2" "$to/copy"
same "$from/s1" "$to/s1"
expect_equal "volumes" "copy s1 s2" "$(names "$to")"
expect_equal "transfers" "" "$(transfers "$to")"

echo "refused, and nothing changed"
expect_failure 1 "exists already" "$uthin" receive "$to/copy" --snapshot x < "$work/whole"
expect_failure 1 "was changed since 's1'" "$uthin" receive "$to/copy" --snapshot x < "$work/delta"
expect_equal "volumes" "copy s1 s2" "$(names "$to")"

echo "broken off, and gone on with"
break_off 3000000 "$to/more" < "$work/whole"
expect_equal "volumes" "copy s1 s2" "$(names "$to")"
[ -n "$(transfers "$to")" ] || fail "what arrived is not listed"
"$uthin" send "$from/s1" --resume "$(token)" > "$work/rest"
[ "$(stat -c %s "$work/rest")" -lt 7000000 ] || fail "the rest is $(stat -c %s "$work/rest") bytes long"
break_off 3000000 "$to/more" < "$work/rest"
stop_server
start_server "$to"
"$uthin" send "$from" --resume "$(token)" | "$uthin" receive "$to/more" --snapshot m1 > /dev/null
same "$from/s1" "$to/more"
same "$to/more" "$to/m1"
expect_equal "transfers" "" "$(transfers "$to")"

echo "the token is for what it was given for"
break_off 2000000 "$to/again" < "$work/whole"
expect_failure 1 "the token is of 's1'" "$uthin" send "$from/s2" --resume "$(token)"
expect_failure 1 "mistyped" "$uthin" send "$from/s1" --resume "$(token)x"
"$uthin" send "$from/s1" --resume "$(token)" > "$work/rest"
expect_failure 1 "goes on with a transfer that is not here" "$uthin" receive "$to/elsewhere" --snapshot x < "$work/rest"
"$uthin" transfer drop "$to/$(transfers "$to")" > /dev/null
expect_equal "transfers" "" "$(transfers "$to")"
expect_failure 1 "goes on with a transfer that is not here" "$uthin" receive "$to/again" --snapshot x < "$work/rest"
expect_failure 1 "the stream ends early" "$uthin" receive "$to/again" --snapshot x --discard-partial < <(head -c 2000000 "$work/whole")
expect_equal "transfers" "" "$(transfers "$to")"

echo "SIGKILL of a receiver"
mkfifo "$work/pipe"
"$uthin" receive "$to/killed" --snapshot x < "$work/pipe" > /dev/null 2>&1 &
pids+=($!)
exec 7> "$work/pipe"
head -c 4000000 "$work/whole" >&7
sleep 0.5
kill -KILL "${pids[0]}"
wait "${pids[0]}" 2> /dev/null || true
pids=()
exec 7>&-
sleep 0.5 # the server notices
[ -n "$(transfers "$to")" ] || fail "what arrived is not listed"
"$uthin" receive "$to/killed" --snapshot k1 < "$work/whole" > /dev/null
same "$from/s1" "$to/killed"
expect_equal "transfers" "" "$(transfers "$to")"
stop_server

echo "a moving volume: its snapshot stays while the stream can go on, not when the sender was killed"
break_off 2000000 "$to/moving" < <("$uthin" send "$from/v" 2> "$work/send.err" || true)
for _ in $(seq 50); do # the sender notices after the receiver
    ! grep -q . "$work/send.err" || break
    sleep 0.1
done
expect_contains "snapshots" "$(names "$from")" "sending-"
"$uthin" send "$from/v" --resume "$(token)" | "$uthin" receive "$to/moving" > /dev/null
same "$from/v" "$to/moving"
expect_equal "volumes afterwards" "s1 s2 v" "$(names "$from")"
for served in no yes; do
    [ "$served" = no ] || start_server "$from"
    mkfifo "$work/pipe-$served"
    "$uthin" send "$from/v" > "$work/pipe-$served" &
    pids+=($!)
    exec 7< "$work/pipe-$served"
    head -c 100000 <&7 > /dev/null
    kill -KILL "${pids[-1]}"
    wait "${pids[-1]}" 2> /dev/null || true
    exec 7<&-
    for _ in $(seq 150); do # a server looks every few seconds; else the next opening for changes
        [ "$served" = yes ] || "$uthin" volume label "$from/v" looked=yes > /dev/null
        [ "$(names "$from")" != "s1 s2 v" ] || break
        sleep 0.1
    done
    expect_equal "volumes afterwards, served: $served" "s1 s2 v" "$(names "$from")"
    [ "$served" = no ] || stop_server
done
pids=()

echo "--rate-limit"
before=$(date +%s%N)
"$uthin" send "$from/s1" --rate-limit 8M | "$uthin" receive "$to/slow" --snapshot slow1 > /dev/null
[ $(($(date +%s%N) - before)) -gt 800000000 ] || fail "8 MiB at 8 MiB/s took less than 0.8 s"
same "$from/s1" "$to/slow"

judge_pool "$from"
judge_pool "$to"
echo "ok"
