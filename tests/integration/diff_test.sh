#!/usr/bin/env bash
# uthin diff: of an idle pool, of a served one, of one that the user may only read, as text and JSON.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3

pool=$work/pool
"$uthin" pool create "$pool" --data-size 64M --metadata-size 1M > /dev/null
"$uthin" volume create "$pool/a" --size 16M > /dev/null
random_file "$work/random" 2
"$uthin" write "$pool/a" < "$work/random"
"$uthin" snapshot create "$pool/a" s1 > /dev/null
head -c 65537 "$work/random" | "$uthin" write "$pool/a" --offset 128K
head -c 4096 "$work/random" | "$uthin" write "$pool/a" --offset 8M
"$uthin" snapshot create "$pool/a" s2 > /dev/null

wanted="changed 131072 131072
added 8388608 65536"
lines() { tail -n +2 | awk '{print $1, $2, $3}'; }
expect_equal "idle pool" "$wanted" "$("$uthin" diff "$pool/s1" "$pool/s2" | lines)"
expect_equal "name alone" "$wanted" "$("$uthin" diff "$pool/s1" s2 | lines)"
expect_equal "backwards" "changed 131072 131072
removed 8388608 65536" "$("$uthin" diff "$pool/s2" "$pool/s1" | lines)"
expect_equal "nothing" "" "$("$uthin" diff "$pool/s2" "$pool/a" | lines)"
from_json() { python3 -c 'import json, sys
value = json.load(sys.stdin)
assert value["block_size"] == 65536 and value["to_size"] == 16 << 20, value
for r in value["ranges"]:
    print(r["kind"], r["offset"], r["length"])'; }
expect_equal "json" "$wanted" "$("$uthin" diff "$pool/s1" "$pool/s2" --json | from_json)"
expect_equal "json of nothing" "" "$("$uthin" diff "$pool/s2" "$pool/a" --json | from_json)"
expect_failure 1 "no such volume" "$uthin" diff "$pool/s1" "$pool/nobody"
expect_failure 1 "not in the pool" "$uthin" diff "$pool/s1" "$work/else/s2"

start_server "$pool"
expect_equal "served pool" "$wanted" "$("$uthin" diff "$pool/s1" "$pool/s2" | lines)"
expect_equal "served pool, json" "$wanted" "$("$uthin" diff "$pool/s1" "$pool/s2" --json | from_json)"
expect_failure 1 "no such volume" "$uthin" diff "$pool/s1" "$pool/nobody"
stop_server

# As a kernel's pool: somebody else's devices, which are only read.
"$uthin" pool adopt "$work/adopted" --metadata "$pool/metadata" --data "$pool/data" --read-only > /dev/null
sum=$(sha256sum < "$pool/metadata")
expect_equal "adopted" "$wanted" "$("$uthin" diff "$work/adopted/thin-1" "$work/adopted/thin-2" | lines)"
expect_equal "metadata" "$sum" "$(sha256sum < "$pool/metadata")"
judge_pool "$pool"
echo "ok"
