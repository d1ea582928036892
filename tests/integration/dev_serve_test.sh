#!/usr/bin/env bash
# `./dev serve`, as a newcomer runs it: a pool with a 10 GiB volume appears, clients connect, a snapshot
# is taken while one writes, the server is stopped and started again, and everything is there.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdinfo nbdcopy qemu-img

pool=$work/demo
export UTHIN_DEMO_POOL=$pool UTHIN_BIN=$bin
own_pool() { stat -c '%i %Y' "$source_dir"/demo-pool/* 2> /dev/null || echo none; }
before=$(own_pool)

# Ready when the line with the URI is there; the lines before tell what was made.
start_dev() {
    local tries=0
    "$source_dir/dev" serve > "$work/ready" 2>> "$work/server.log" &
    server_pid=$!
    until uri=$(grep '^nbd+unix:' "$work/ready"); do
        kill -0 "$server_pid" 2> /dev/null || fail "./dev serve ended before it was ready"
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "./dev serve is not ready after 30 s"
        sleep 0.1
    done
}
# The first 32 MiB of the export NAME are those of FILE.
expect_content() { # NAME FILE
    rm -f "$work/out"
    nbdcopy "$(uri_of "$1")" "$work/out"
    cmp -n $((32 << 20)) "$2" "$work/out"
    expect_equal "size of $1" $((10 << 30)) "$(stat -c %s "$work/out")"
}

start_dev
expect_equal "size" $((10 << 30)) "$(nbdinfo --size "$(uri_of demo)")"
expect_contains "qemu-img" "$(qemu-img info "$(uri_of demo)")" "virtual size: 10 GiB"
random_file "$work/first" 32
random_file "$work/second" 32
nbdcopy "$work/first" "$(uri_of demo)"
"$uthin" snapshot create "$pool/demo" before
nbdcopy "$work/second" "$(uri_of demo)" &
copy=$!
pids+=("$copy")
"$uthin" snapshot create "$pool/demo" during
wait "$copy"
pids=()
expect_content before "$work/first"
stop_server
judge_pool "$pool"

echo "again: nothing is made anew"
start_dev
expect_equal "lines on stdout" 1 "$(wc -l < "$work/ready")"
expect_content demo "$work/second"
expect_content before "$work/first"
nbdinfo --size "$(uri_of during)" > /dev/null
stop_server
judge_pool "$pool"
expect_equal "the developer's own pool" "$before" "$(own_pool)"
echo "ok"
