#!/usr/bin/env bash
# The plugin in nbdkit without `uthin serve`: in the background, read-only, with filters, with mistakes.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdinfo nbdcopy

plugin=$bin/nbdkit-uthin-plugin.so
socket=$work/n.sock
uri="nbd+unix:///?socket=$socket"
pool=$work/pool
"$uthin" pool create "$pool" --data-size 512M
"$uthin" volume create "$pool/disk" --size 64M
random_file "$work/in" 64

run_background() { # ARGUMENTS of nbdkit
    local tries=0
    rm -f "$work/pid"
    nbdkit -P "$work/pid" -U "$socket" "$@" 2> "$work/nbdkit.err"
    # The child writes its number when the parent may be gone already.
    until [ -s "$work/pid" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || fail "nbdkit in the background is not ready"
        sleep 0.05
    done
    background=$(cat "$work/pid")
    pids+=("$background")
}
stop_background() {
    local tries=0
    kill "$background"
    while kill -0 "$background" 2> /dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || fail "nbdkit in the background does not end"
        sleep 0.05
    done
    pids=()
    rm -f "$socket"
}

echo "what it says about itself"
expect_contains "--dump-plugin" "$(nbdkit --dump-plugin "$plugin")" "name=uthin"
expect_contains "--dump-plugin" "$(nbdkit --dump-plugin "$plugin")" "thread_model=parallel"
expect_contains "--help" "$(nbdkit "$plugin" --help)" "directory of the pool"

echo "in the background: threads and locks are those of the child"
run_background "$plugin" "$pool"
nbdcopy "$work/in" "$(uri_of disk)"
nbdcopy "$(uri_of disk)" - | cmp - "$work/in"
expect_equal "the only volume is the default" 67108864 "$(nbdinfo --size "$uri")"
"$uthin" snapshot create "$pool/disk" snap > /dev/null
expect_equal "a snapshot is an export" 67108864 "$(nbdinfo --size "$(uri_of snap)")"
stop_background
judge_pool "$pool"

echo "read-only: nothing is written"
before=$(cat "$pool/metadata" "$pool/catalog.db" | sha256sum)
run_background "$plugin" "$pool" read-only=true
nbdinfo --is read-only "$(uri_of disk)" || fail "read-only=true exports a writable volume"
nbdcopy "$(uri_of snap)" - | cmp - "$work/in"
stop_background
expect_equal "metadata and catalogue" "$before" "$(cat "$pool/metadata" "$pool/catalog.db" | sha256sum)"

echo "with a filter"
run_background --filter=offset "$plugin" "$pool" offset=1M range=1M
nbdcopy "$(uri_of disk)" - | cmp - <(tail -c +1048577 "$work/in" | head -c 1048576)
stop_background

echo "mistakes are told on the terminal"
mistake() { # PIECE ARGUMENTS
    local piece=$1
    shift
    if nbdkit -U "$socket" -P "$work/pid" "$@" 2> "$work/mistake.err"; then fail "nbdkit took: $*"; fi
    expect_contains "mistake" "$(cat "$work/mistake.err")" "$piece"
}
mistake "pool=DIR" "$plugin"
mistake "$work/nothing" "$plugin" "$work/nothing"
mistake "unknown parameter" "$plugin" "$pool" colour=red
start_server "$pool"
mistake "$pool" "$plugin" "$pool" wait=0
stop_server
judge_pool "$pool"
echo "ok"
