#!/usr/bin/env bash
# uthin replicate: rounds into a local pool and through a shell in ssh's place, fan-out, kills of both
# sides, a receiver that stalls, a full target; promoting a replica, and the way back.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3 curl

a=$work/a b=$work/b c=$work/c
for pool in "$a" "$b" "$c"; do
    "$uthin" pool create "$pool" --data-size 64M --metadata-size 2M > /dev/null
done
"$uthin" volume create "$a/v" --size 16M > /dev/null
random_file "$work/random" 4
sum() { "$uthin" read "$1" | sha256sum; }
names() { "$uthin" volume list "$1" --json |
    python3 -c 'import json,sys; print(*(v["name"] for v in json.load(sys.stdin)["volumes"]))'; }
count() { names "$1" | tr ' ' '\n' | grep -c -- "-replica-" || true; }
status() { # FIELD: of the first replica
    "$uthin" replicate "$a/v" --status --json |
        python3 -c 'import json,sys; print(json.load(sys.stdin)["replicas"][0][sys.argv[1]])' "$1"
}
change() { head -c $(($1 * 50000)) "$work/random" | "$uthin" write "$a/v" --offset $(($1 * 700000)); }

# What ssh does: the rest of the line goes to a shell.
cat > "$work/shell" <<'END'
#!/bin/sh
[ "$1" = host ] || exit 255
exec sh -c "$2"
END
chmod +x "$work/shell"
ssh=(--rsh "$work/shell" --remote-uthin "$uthin")

echo "rounds"
change 1
"$uthin" replicate "$a/v" "$b" --once > "$work/out"
expect_contains "first round" "$(cat "$work/out")" "whole"
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$b/v")"
start_server "$a"
for n in 2 3; do
    change $n
    "$uthin" replicate "$a/v" "$b" --once --json > "$work/out"
    expect_equal "bytes" "$(sum "$a/v")" "$(sum "$b/v")"
    python3 -c 'import json,sys; r = json.load(sys.stdin); assert not r["whole"] and r["data"] < 500000, r' < "$work/out"
    expect_equal "snapshots here" 1 "$(count "$a")"
    expect_equal "snapshots there" 1 "$(count "$b")"
done
expect_equal "rounds" 3 "$(status rounds)"
[ "$(status lag_seconds)" -lt 300 ] || fail "lag: $(status lag_seconds)"
expect_contains "volume show" "$("$uthin" volume show "$a/v")" "$b, "
expect_contains "volume show" "$("$uthin" volume show "$a/v")" " s behind"
expect_contains "metrics" "$(curl -sf --unix-socket "$a/control.sock" http://pool/metrics)" "uthin_replica_lag_seconds{volume=\"v\",target=\"$b\"} "
expect_failure 1 "held by replica-" "$uthin" volume delete "$a/$(names "$a" | cut -d' ' -f2)"
stop_server

echo "fan-out through a shell, into a served pool"
start_server "$c"
"$uthin" replicate "$a/v" "ssh://host$c" --as w --once "${ssh[@]}" > /dev/null
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$c/w")"
change 4
"$uthin" replicate "$a/v" "ssh://host$c" --as w --once "${ssh[@]}" > /dev/null
"$uthin" replicate "$a/v" "$b" --once > /dev/null
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$c/w")"
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$b/v")"
expect_equal "replicas" 2 "$("$uthin" replicate "$a/v" --status | tail -n +2 | wc -l)"
expect_failure 1 "host" "$uthin" replicate "$a/v" "ssh://host/nowhere" --once "${ssh[@]}"
stop_server

echo "a replica is not written to"
start_server "$b"
for name in $(names "$b"); do
    expect_contains "flags of $name" "$(nbdinfo "$(uri_of "$name")")" "is_read_only: true"
done
stop_server
expect_contains "labels here" "$("$uthin" volume show "$a/$(names "$a" | tr ' ' '\n' | grep -m1 -- -replica-)")" "label read-only  true"

echo "and one whose snapshot was is made anew, not wrong"
"$uthin" volume create "$a/other" --size 4M > /dev/null
head -c 1M "$work/random" | "$uthin" write "$a/other"
"$uthin" replicate "$a/other" "$b" --once > /dev/null
head -c 1K "$work/random" | "$uthin" write "$b/$(names "$b" | tr ' ' '\n' | grep ^other-replica-)" --offset 1M
head -c 2M "$work/random" | "$uthin" write "$a/other" --offset 1M
for again in 1 2; do
    expect_failure 1 "'other' exists and has no snapshot in common with other" "$uthin" replicate "$a/other" "$b" --once
done
"$uthin" volume delete "$b/other" > /dev/null
"$uthin" replicate "$a/other" "$b" --once > /dev/null
expect_equal "bytes" "$(sum "$a/other")" "$(sum "$b/other")"
for pool in "$a" "$b"; do
    for name in $(names "$pool" | tr ' ' '\n' | grep ^other); do
        "$uthin" volume delete "$pool/$name" --force > /dev/null
    done
done

echo "a receiver that stalls: told after a while, and the next round goes on"
cat > "$work/stalled" <<'END'
#!/bin/sh
case "$2" in *receive*) sleep 30 ;; *) exec sh -c "$2" ;; esac
END
chmod +x "$work/stalled"
change 5
head -c 3M "$work/random" | "$uthin" write "$a/v" --offset 8M
expect_failure 1 "took nothing for" "$uthin" replicate "$a/v" "ssh://host$c" --as w --once --stall-timeout 8s \
    --rsh "$work/stalled" --remote-uthin "$uthin"
[ "$("$uthin" replicate "$a/v" --status --json | grep -c 'took nothing')" = 1 ] || fail "the status does not tell"
[ "$(count "$a")" -le 2 ] || fail "snapshots pile up: $(names "$a")"
"$uthin" replicate "$a/v" "ssh://host$c" --as w --once "${ssh[@]}" > /dev/null
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$c/w")"

echo "a connection that is lost is gone on with"
cat > "$work/cutting" <<'END'
#!/bin/sh
case "$2" in *receive*) head -c 2500000 | sh -c "$2" ;; *) exec sh -c "$2" ;; esac
END
chmod +x "$work/cutting"
head -c 4M "$work/random" | "$uthin" write "$a/v" --offset 2M
sent=$(sum "$a/v")
expect_failure 1 "ends early" "$uthin" replicate "$a/v" "ssh://host$c" --as w --once --rsh "$work/cutting" --remote-uthin "$uthin"
echo "and again, when it is lost a second time"
sed -i s/2500000/1500000/ "$work/cutting"
expect_failure 1 "ends early" "$uthin" replicate "$a/v" "ssh://host$c" --as w --once --rsh "$work/cutting" --remote-uthin "$uthin"
change 6
"$uthin" replicate "$a/v" "ssh://host$c" --as w --once --json "${ssh[@]}" > "$work/out"
python3 -c 'import json,sys; r = json.load(sys.stdin); assert r["resumed"] and r["data"] < 2500000, r' < "$work/out"
expect_equal "bytes of the snapshot that was under way" "$sent" "$(sum "$c/w")"
"$uthin" replicate "$a/v" "ssh://host$c" --as w --once "${ssh[@]}" > /dev/null
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$c/w")"
expect_equal "snapshots there" 1 "$(count "$c")"

echo "a stream whose snapshot is gone is not gone on with"
change 6
head -c 4M "$work/random" | "$uthin" write "$a/v" --offset 3M
expect_failure 1 "ends early" "$uthin" replicate "$a/v" "ssh://host$c" --as w --once --rsh "$work/cutting" --remote-uthin "$uthin"
pending=$("$uthin" volume show "$a/v" --json | python3 -c 'import json,sys
states = [json.loads(v) for k, v in json.load(sys.stdin)["labels"].items() if k.startswith("replica:")]
print(*(state["pending"] for state in states if state["pending"]))')
"$uthin" volume delete "$a/$pending" --force > /dev/null
"$uthin" replicate "$a/v" "ssh://host$c" --as w --once "${ssh[@]}" > /dev/null
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$c/w")"

echo "a newer snapshot that was sent into another volume is no base for the replica"
change 7
"$uthin" snapshot create "$a/v" by-hand > /dev/null
"$uthin" send "$a/by-hand" | "$uthin" receive "$c/other" > /dev/null
change 8
for n in 1 2; do
    "$uthin" replicate "$a/v" "ssh://host$c" --as w --once --json "${ssh[@]}" > "$work/out"
    python3 -c 'import json,sys; r = json.load(sys.stdin); assert not r["whole"], r' < "$work/out"
done
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$c/w")"
"$uthin" volume delete "$a/by-hand" > /dev/null

echo "a full target"
"$uthin" volume create "$b/fill" --size 60M > /dev/null
"$uthin" pool set "$b" no-space=error > /dev/null
head -c 60M /dev/urandom | "$uthin" write "$b/fill" > /dev/null 2>&1 || true
before=$(sum "$b/v")
change 7
head -c 4M "$work/random" | "$uthin" write "$a/v" --offset 9M
if "$uthin" replicate "$a/v" "$b" --once > /dev/null 2>&1; then fail "a full pool took a round"; fi
expect_equal "the replica as it was" "$before" "$(sum "$b/v")"
"$uthin" volume delete "$b/fill" > /dev/null
"$uthin" replicate "$a/v" "$b" --once > /dev/null
"$uthin" replicate "$a/v" "$b" --once > /dev/null
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$b/v")"

echo "kills of the replicating process"
for n in 1 2 3 4 5 6; do
    change $((n + 7))
    "$uthin" replicate "$a/v" "$b" --once > /dev/null 2>&1 &
    pids=($!)
    sleep "0.$((n * 15 % 97))"
    kill -KILL "${pids[0]}" 2> /dev/null || true
    wait "${pids[0]}" 2> /dev/null || true
    pids=()
done
for _ in 1 2; do "$uthin" replicate "$a/v" "$b" --once > /dev/null; done
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$b/v")"
[ "$(count "$b")" = 1 ] || fail "snapshots there: $(names "$b")"

echo "promoted, written to, and back"
"$uthin" promote "$b/v" > /dev/null
expect_failure 1 "promoted" "$uthin" replicate "$a/v" "$b" --once
expect_failure 1 "is no replica" "$uthin" promote "$b/v"
head -c 100000 "$work/random" | "$uthin" write "$b/v" --offset 55555
head -c 9999 "$work/random" | "$uthin" write "$a/v" --offset 77777 # lost in the failover
expect_failure 1 "is no replica" "$uthin" replicate "$b/v" "$a" --once
"$uthin" replicate "$b/v" "$a" --once --reverse --json > "$work/out"
python3 -c 'import json,sys; r = json.load(sys.stdin); assert not r["whole"] and r["data"] < 500000, r' < "$work/out"
expect_equal "bytes" "$(sum "$b/v")" "$(sum "$a/v")"

for pool in "$a" "$b" "$c"; do judge_pool "$pool"; done
echo "ok"
