#!/usr/bin/env bash
# The control socket: every command with curl and with the command line, and bad input.
. "$(dirname "$0")/functions.sh"
requires nbdkit curl python3

pool=$work/pool
"$uthin" pool create "$pool" --data-size 1G
start_server "$pool"

# STATUS METHOD PATH [BODY]: the body of the answer goes to stdout and $work/answer.
ask() {
    local wanted=$1 method=$2 path=$3 status
    shift 3
    status=$(curl -sS --unix-socket "$pool/control.sock" -X "$method" -o "$work/answer" \
        -w '%{http_code}' ${1+--data-binary "$1"} "http://localhost$path")
    expect_equal "status of $method $path (body: $(head -c 300 "$work/answer"))" "$wanted" "$status"
    expect_equal "lines of the answer to $method $path" 1 "$(wc -l < "$work/answer")"
    cat "$work/answer"
}
field() { # PATH/IN/JSON < json
    python3 -c 'import json,sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("/"):
    value = value[int(key) if isinstance(value, list) else key]
print(json.dumps(value) if isinstance(value, (dict, list, bool, type(None))) else value)' "$1"
}

echo "volumes"
expect_equal "size" 104857600 "$(ask 200 POST /v1/volumes '{"name":"a","size":104857600}' | field size)"
ask 409 POST /v1/volumes '{"name":"a","size":104857600}' > /dev/null
ask 200 POST /v1/volumes '{"name":"a","size":104857600,"if_not_exists":true}' > /dev/null
expect_equal "dev_id" 77 "$(ask 200 POST /v1/volumes '{"name":"b","size":4096,"dev_id":77}' | field dev_id)"
expect_equal "name" a "$(ask 200 GET /v1/volumes | field volumes/0/name)"
expect_equal "name" b "$(ask 200 GET /v1/volumes/b | field name)"
expect_equal "new name" "sp ace" "$(ask 200 POST /v1/volumes/b/rename '{"name":"sp ace"}' | field name)"
expect_equal "name with a space" 77 "$(ask 200 GET /v1/volumes/sp%20ace | field dev_id)"
expect_equal "new size" 8192 "$(ask 200 POST /v1/volumes/sp%20ace/resize '{"size":8192}' | field size)"
ask 200 POST /v1/snapshots '{"snapshots":[{"source":"a","name":"s1"},{"source":"s1","name":"s2"}]}' > /dev/null
expect_equal "parent" s1 "$(ask 200 GET /v1/volumes/s2 | field parent)"
ask 200 POST /v1/volumes/a/rollback '{"to":"s1"}' > /dev/null
expect_equal "deleted" true "$(ask 200 DELETE /v1/volumes/s2 | field deleted)"
expect_equal "deleted again" false "$(ask 200 DELETE '/v1/volumes/s2?if_exists=true' | field deleted)"
ask 404 DELETE /v1/volumes/s2 > /dev/null

echo "the pool"
expect_equal "mode" write "$(ask 200 GET /v1/pool | field mode)"
expect_contains "kernel status" "$(ask 200 GET /v1/pool/kernel-status | field status)" " rw "
expect_contains "kernel table" "$(ask 200 GET /v1/pool/kernel-status | field table)" " thin-pool "
expect_contains "volume's table" "$(ask 200 GET /v1/volumes/a/kernel-status | field table)" " thin /dev/mapper/"
ask 404 GET /v1/volumes/nobody/kernel-status > /dev/null
ask 405 POST /v1/volumes/a/kernel-status > /dev/null
ask 200 POST /v1/pool/message '{"message":"create_thin 5"}' > /dev/null
expect_equal "thin-5" 5 "$(ask 200 GET /v1/volumes/thin-5 | field dev_id)"
expect_equal "check" true "$(ask 200 POST /v1/pool/check '{}' | field clean)"
ask 200 POST /v1/pool/settings '{"no-space":"error"}' > /dev/null
expect_equal "no_space" error "$(ask 200 GET /v1/pool | field no_space)"
before=$(ask 200 GET /v1/pool | field data_blocks)
ask 200 POST /v1/pool/grow '{"data_size":2147483648}' > /dev/null
expect_equal "data blocks" $((before * 2)) "$(ask 200 GET /v1/pool | field data_blocks)"
expect_equal "held" null "$(ask 200 GET /v1/pool/metadata-snapshot | field block)"
block=$(ask 200 POST /v1/pool/metadata-snapshot | field block)
expect_equal "held" "$block" "$(ask 200 GET /v1/pool/metadata-snapshot | field block)"
ask 409 POST /v1/pool/metadata-snapshot > /dev/null
expect_equal "held" null "$(ask 200 DELETE /v1/pool/metadata-snapshot | field block)"
expect_equal "NBD socket" "$pool/nbd.sock" "$(ask 200 GET /v1/server | field nbd_socket)"
expect_contains "table" "$(ask 200 POST /v1/pool/release | field pool/table)" "thin-pool"

echo "long polls end, and do not block others"
begin=$(date +%s%N)
ask 200 GET '/v1/pool?while_mode=write&timeout_s=1' > /dev/null
took=$((($(date +%s%N) - begin) / 1000000))
{ [ "$took" -ge 900 ] && [ "$took" -lt 5000 ]; } || fail "a poll of 1 s took $took ms"
ask 200 GET '/v1/pool?while_mode=fail&timeout_s=30' > /dev/null

echo "metrics"
curl -sS --fail --unix-socket "$pool/control.sock" http://localhost/metrics > "$work/metrics"
grep -q '^uthin_volume_size_bytes{volume="sp ace"} 8192$' "$work/metrics" || fail "metrics of a volume"
grep -q '^uthin_pool_mode{mode="write"} 1$' "$work/metrics" || fail "metrics of the mode"
grep -q '^uthin_pool_commits_total [0-9]' "$work/metrics" || fail "metrics of the engine"
[ "$(grep -c '^# TYPE' "$work/metrics")" -ge 15 ] || fail "few metrics"

echo "bad input"
for body in '{' '[]' '"x"' '{"name":5,"size":1}' '{"name":"x"}' '{"name":"x","size":-1}' '{"name":"x","size":1.5}' \
    '{"name":"x","size":99999999999999999999999}' '{"name":"x","size":4096,"colour":"red"}' \
    '{"name":"x/y","size":4096}' '{"name":"","size":4096}' '{"name":"x","size":4096,"dev_id":16777216}' \
    "{\"name\":\"$(printf 'x%.0s' {1..300})\",\"size\":4096}" $'{"name":"\xff","size":4096}' \
    "$(printf '[%.0s' {1..5000})"; do
    ask 400 POST /v1/volumes "$body" | field error/message > /dev/null
done
ask 400 POST /v1/pool/message '{"message":"explode"}' > /dev/null
ask 400 POST /v1/pool/settings '{"no-such-key":"1"}' > /dev/null
ask 400 POST /v1/pool/settings '{"no-space":5}' > /dev/null
ask 400 POST /v1/pool/grow '{"data_size":"2G"}' > /dev/null
ask 400 GET '/v1/pool?while_mode=write&timeout_s=soon' > /dev/null
ask 400 GET '/v1/volumes/a?colour=red' > /dev/null
ask 404 GET /v1/volumes/nothing > /dev/null
ask 404 GET /v2/pool > /dev/null
ask 404 GET /v1/volumes/a/explode > /dev/null
ask 405 PUT /v1/volumes/a '{}' > /dev/null
ask 405 GET /v1/snapshots > /dev/null
head -c 3000000 /dev/zero | tr '\0' 'x' > "$work/large"
ask 413 POST /v1/volumes "@$work/large" > /dev/null
printf 'this is no HTTP\r\n\r\n' | timeout 5 curl -sS --unix-socket "$pool/control.sock" \
    -H 'Expect:' -T - telnet://localhost > /dev/null 2>&1 || true
expect_equal "mode after all that" write "$(ask 200 GET /v1/pool | field mode)"

echo "the command line says the same on the served pool and on the idle one"
commands() {
    "$uthin" volume list "$pool" --json
    "$uthin" volume show "$pool/a"
    "$uthin" pool status "$pool" --kernel
    expect_failure 1 "nothing" "$uthin" volume show "$pool/nothing" && cat "$work/failure.err"
    expect_failure 1 "a" "$uthin" volume create "$pool/a" --size 1M && cat "$work/failure.err"
}
commands > "$work/served"
stop_server
commands > "$work/idle"
diff "$work/served" "$work/idle"
judge_pool "$pool"
echo "ok"
