#!/usr/bin/env bash
# uthin backup and restore: whole and what changed, from idle and served pools; verified, thinned out,
# damaged, killed in the middle.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3

pool=$work/pool repo=$work/repo
"$uthin" pool create "$pool" --data-size 128M --metadata-size 2M > /dev/null
"$uthin" volume create "$pool/v" --size 16M > /dev/null
random_file "$work/random" 4
sum() { "$uthin" read "$1" | sha256sum; }
names() { "$uthin" volume list "$1" --json |
    python3 -c 'import json,sys; print(*(v["name"] for v in json.load(sys.stdin)["volumes"]))'; }
numbers() { "$uthin" backup list "$repo" --json |
    python3 -c 'import json,sys; print(*(str(b["number"]) + ("+" if b["base"] else "") for b in json.load(sys.stdin)["backups"]))'; }
change() { # N: something else each time
    head -c $(($1 * 70000)) "$work/random" | "$uthin" write "$pool/v" --offset $(($1 * 900000))
    head -c 300000 /dev/zero | "$uthin" write "$pool/v" --offset $(($1 * 1000000))
}

declare -A sums
for n in 1 2 3 4 5; do
    [ $n != 3 ] || start_server "$pool"
    [ $n != 4 ] || "$uthin" volume resize "$pool/v" --size 12M > /dev/null
    [ $n != 5 ] || "$uthin" volume resize "$pool/v" --size 20M > /dev/null
    change $n
    "$uthin" backup "$pool/v" "$repo" --compress zstd > "$work/out"
    sums[$n]=$(sum "$pool/v")
    [ $n != 3 ] || stop_server
done
expect_contains "report" "$(cat "$work/out")" "number 5, difference"
expect_equal "backups" "1 2+ 3+ 4+ 5+" "$(numbers)"
expect_equal "snapshots kept as bases" 1 "$(names "$pool" | tr ' ' '\n' | grep -c backup)"
base=$(names "$pool" | tr ' ' '\n' | grep backup)
expect_failure 1 "held by backup" "$uthin" volume delete "$pool/$base"
"$uthin" backup verify "$repo" > "$work/out"
expect_equal "verified" 5 "$(grep -c ok "$work/out")"

restored() { # NUMBER
    "$uthin" restore "$repo" "$pool/r" --point "$1" > /dev/null
    expect_equal "backup $1" "${sums[$1]}" "$(sum "$pool/r")"
    "$uthin" volume delete "$pool/r" > /dev/null
}
for n in 1 2 3 4 5; do restored $n; done
expect_equal "volumes" "v" "$(names "$pool" | tr ' ' '\n' | grep -v backup | xargs)"
expect_failure 1 "exists already" "$uthin" restore "$repo" "$pool/v"
expect_failure 1 "no such backup" "$uthin" restore "$repo" "$pool/r" --point 9

echo "pruned: the oldest that stays becomes whole"
"$uthin" backup prune "$repo" --keep-last 2 > "$work/out"
expect_equal "removed" 3 "$(grep -c "removed backup" "$work/out")"
expect_equal "backups" "4 5+" "$(numbers)"
expect_equal "files" 2 "$(find "$repo/streams" -type f | wc -l)"
"$uthin" backup verify "$repo" > /dev/null
restored 4
restored 5
change 6
"$uthin" backup "$pool/v" "$repo" > /dev/null
sums[6]=$(sum "$pool/v")
expect_equal "backups" "4 5+ 6+" "$(numbers)"
restored 6
"$uthin" backup "$pool/v" "$repo" --full > /dev/null
sums[7]=${sums[6]}
expect_equal "backups" "4 5+ 6+ 7" "$(numbers)"
"$uthin" backup prune "$repo" --keep-last 1 > /dev/null
expect_equal "backups" "7" "$(numbers)"
restored 7

echo "the base is gone: everything is stored"
"$uthin" volume delete "$pool/$(names "$pool" | tr ' ' '\n' | grep backup)" --force > /dev/null
change 8
"$uthin" backup "$pool/v" "$repo" > /dev/null
sums[8]=$(sum "$pool/v")
expect_equal "backups" "7 8" "$(numbers)"

echo "SIGKILL in the middle leaves the old base or the new one"
for n in 9 10 11 12; do
    change $n
    "$uthin" backup "$pool/v" "$repo" --rate-limit 4M > /dev/null 2>&1 &
    pids=($!)
    sleep 0.0$n
    kill -KILL "${pids[0]}" 2> /dev/null || true
    wait "${pids[0]}" 2> /dev/null || true
    pids=()
    "$uthin" backup verify "$repo" > /dev/null
    "$uthin" backup "$pool/v" "$repo" > /dev/null
    "$uthin" restore "$repo" "$pool/r" > /dev/null
    expect_equal "after the kill" "$(sum "$pool/v")" "$(sum "$pool/r")"
    "$uthin" volume delete "$pool/r" > /dev/null
    expect_equal "snapshots kept as bases" 1 "$(names "$pool" | tr ' ' '\n' | grep -c backup)"
    expect_equal "strays" "" "$(find "$repo/streams" -name '*.new')"
done

echo "damage is found, and nothing of it is restored"
file=$(find "$repo/streams" -name '*full*' | sort | tail -1)
number=$(basename "$file" | sed 's/^0*//; s/-.*//')
printf X | dd of="$file" bs=1 seek=100000 conv=notrunc status=none
"$uthin" backup verify "$repo" > "$work/out" 2> /dev/null && fail "damage was not found"
expect_contains "complaint" "$(cat "$work/out")" "backup $number"
expect_failure 1 "checksum" "$uthin" restore "$repo" "$pool/r" --point "$number"
expect_equal "volumes" "v" "$(names "$pool" | tr ' ' '\n' | grep -v backup | xargs)"
rm "$file"
"$uthin" backup verify "$repo" > "$work/out" 2> /dev/null && fail "a missing file was not found"
expect_failure 1 "no repository of backups" "$uthin" backup list "$work"
expect_failure 2 "write DIR/NAME REPO" "$uthin" backup "$pool/v"

judge_pool "$pool"
echo "ok"
