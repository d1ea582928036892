# Sourced by the tests of this folder: a work folder, a served pool, and checks that say what failed.
# Each test runs alone in its folder, so any number may run side by side.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_dir=${UTHIN_SOURCE:-$(cd "$here/../.." && pwd)}
bin=${UTHIN_BIN:-$source_dir/build/release/bin}
uthin=$bin/uthin
test_name=$(basename "$0" .sh)
work=$(mktemp -d "${TMPDIR:-/tmp}/uthin-$test_name.XXXXXX")
pids=()      # what a test started and did not wait for
server_pid=
uri=

cleanup() {
    local status=$? pid
    for pid in "${pids[@]}" $server_pid; do
        kill -KILL "$pid" 2> /dev/null || true
        wait "$pid" 2> /dev/null || true
    done
    if declare -F cleanup_more > /dev/null; then cleanup_more || true; fi
    if [ "$status" != 0 ] && [ "$status" != 77 ]; then
        echo "$test_name: failed (status $status)" >&2
        tail -n 20 "$work"/*.log >&2 2> /dev/null || true
    fi
    if [ -n "${UTHIN_KEEP:-}" ]; then echo "kept: $work" >&2; else rm -rf "$work"; fi
}
trap cleanup EXIT

# Waits for the process PID that a test started, with its exit status; it is forgotten, so that at the
# end nobody else who got its number meanwhile is killed.
join() { # PID
    local status=0 pid left=()
    wait "$1" || status=$?
    for pid in "${pids[@]}"; do [ "$pid" = "$1" ] || left+=("$pid"); done
    pids=("${left[@]}")
    return "$status"
}
skip() { echo "$test_name: skipped: $*"; exit 77; }
fail() { echo "$test_name: $*" >&2; exit 1; }
requires() {
    local program
    for program in "$@"; do
        command -v "$program" > /dev/null || skip "$program is not installed"
    done
}

expect_equal() { # WHAT WANTED FOUND
    [ "$2" = "$3" ] || fail "$1: expected '$2', found '$3'"
}
expect_contains() { # WHAT TEXT PIECE
    case "$2" in *"$3"*) ;; *) fail "$1: '$3' is not in: $2" ;; esac
}
# Runs a command that must fail with STATUS and say PIECE in exactly one line on stderr.
expect_failure() { # STATUS PIECE COMMAND...
    local status=0 wanted=$1 piece=$2
    shift 2
    "$@" > "$work/failure.out" 2> "$work/failure.err" || status=$?
    expect_equal "status of: $*" "$wanted" "$status"
    expect_equal "lines on stderr of: $*" 1 "$(wc -l < "$work/failure.err")"
    expect_contains "stderr of: $*" "$(cat "$work/failure.err")" "$piece"
}

# Starts `uthin serve POOL ARGS...`; sets server_pid and uri.
start_server() {
    local pool=$1 tries=0
    : > "$work/ready"
    "$uthin" serve "$@" > "$work/ready" 2>> "$work/server.log" &
    server_pid=$!
    until [ -s "$work/ready" ]; do
        kill -0 "$server_pid" 2> /dev/null || fail "the server of $pool ended before it was ready"
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "the server of $pool is not ready after 30 s"
        sleep 0.1
    done
    uri=$(cat "$work/ready")
}
# Stops it with SIGNAL (TERM); it must exit with 0, and within 20 s.
stop_server() {
    local status=0 tries=0
    kill "-${1:-TERM}" "$server_pid"
    while kill -0 "$server_pid" 2> /dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 400 ] || fail "the server does not end"
        sleep 0.05
    done
    wait "$server_pid" || status=$?
    server_pid=
    expect_equal "exit status of the server" 0 "$status"
}
# The URI of the export NAME.
uri_of() { echo "${uri/\/\/\/\?/\/\/\/$1?}"; }

# The three judges on the metadata of POOL, which nobody serves: our thin_check, the one of Debian's
# thin-provisioning-tools >= 1.1, and the decoder of tests/oracle, which knows neither.
judge_pool() {
    local tools
    "$bin/thin_check" "$1/metadata" > "$work/thin_check.log" 2>&1 ||
        fail "our thin_check: $(cat "$work/thin_check.log")"
    tools=$("$source_dir/scripts/fetch-thin-tools" 2> /dev/null) || {
        echo "$test_name: thin_check >= 1.1 is not to be had: not run"
        return 0
    }
    python3 "$here/../support/check_images.py" "$tools" "$1/metadata" > "$work/judges.log" 2>&1 ||
        fail "$(head -n 40 "$work/judges.log")"
}

random_file() { # PATH MIB
    head -c "$(($2 << 20))" /dev/urandom > "$1"
}
