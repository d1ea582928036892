#!/usr/bin/env bash
# uthin replicate through a real sshd on this machine, with keys and a port of its own: rounds, and a host
# that is not there for a while.
. "$(dirname "$0")/functions.sh"
PATH=$PATH:/usr/sbin
requires nbdkit python3 ssh sshd ssh-keygen
[ "$(id -u)" = 0 ] || skip "sshd logs nobody else in without root"
id sshd > /dev/null 2>&1 || skip "there is no user sshd"

a=$work/a b=$work/b
for pool in "$a" "$b"; do
    "$uthin" pool create "$pool" --data-size 64M --metadata-size 2M > /dev/null
done
"$uthin" volume create "$a/v" --size 32M > /dev/null
sum() { "$uthin" read "$1" | sha256sum; }
count() { "$uthin" volume list "$1" --json |
    python3 -c 'import json,sys; print(sum("-replica-" in v["name"] for v in json.load(sys.stdin)["volumes"]))'; }

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir -p /run/sshd
for key in host user; do ssh-keygen -q -t ed25519 -N "" -f "$work/$key"; done
cat > "$work/sshd_config" << END
Port $port
ListenAddress 127.0.0.1
HostKey $work/host
AuthorizedKeysFile $work/user.pub
StrictModes no
PidFile none
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
END
sshd_pid=
start_sshd() {
    "$(command -v sshd)" -D -e -f "$work/sshd_config" 2>> "$work/sshd.log" &
    sshd_pid=$!
    pids+=("$sshd_pid")
    for _ in $(seq 100); do
        ! grep -q "Server listening" "$work/sshd.log" || return 0
        kill -0 "$sshd_pid" 2> /dev/null || skip "sshd does not run here: $(cat "$work/sshd.log")"
        sleep 0.1
    done
    fail "sshd is not ready"
}
stop_sshd() { # and its sessions
    kill "$sshd_pid"
    join "$sshd_pid" || true
    : > "$work/sshd.log"
}
start_sshd
echo "[127.0.0.1]:$port $(cat "$work/host.pub")" > "$work/known"
shell="ssh -i $work/user -o UserKnownHostsFile=$work/known -o BatchMode=yes -o ConnectTimeout=10 -F none"
target="ssh://$(id -un)@127.0.0.1:$port$b"
replicate() { "$uthin" replicate "$a/v" "$target" --once --rsh "$shell" --remote-uthin "$uthin" "$@"; }

echo "rounds"
head -c 9M /dev/urandom | "$uthin" write "$a/v"
replicate > "$work/out"
expect_contains "first round" "$(cat "$work/out")" "whole"
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$b/v")"
head -c 200000 /dev/urandom | "$uthin" write "$a/v" --offset 3M
start_server "$b"
replicate --json --compress zstd > "$work/out"
python3 -c 'import json,sys; r = json.load(sys.stdin); assert not r["whole"] and r["data"] < 500000, r' < "$work/out"
stop_server
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$b/v")"

echo "a host that is away"
stop_sshd
head -c 100000 /dev/urandom | "$uthin" write "$a/v" --offset 20M
if replicate > /dev/null 2> "$work/away.err"; then fail "a round ended well although nobody listens"; fi
expect_contains "what is said" "$(cat "$work/away.err")" "127.0.0.1"
expect_contains "the status" "$("$uthin" replicate "$a/v" --status)" "127.0.0.1"
start_sshd
replicate > /dev/null
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$b/v")"
expect_equal "snapshots there" 1 "$(count "$b")"
# Signals the processes of the one connection that there is.
signal_session() { # SIGNAL
    local session
    session=$(ps -eo pid=,ppid= | awk -v of="$sshd_pid" '$2 == of { print $1; exit }')
    [ -n "$session" ] || fail "there is no connection"
    # shellcheck disable=SC2009,SC2046
    kill "-$1" $(ps -eo pid=,ppid=,comm= | awk -v of="$session" '$3 ~ /^sshd/ && ($1 == of || $2 == of) { print $1 }')
}
broken_round() { # SIGNAL REPLICATE-OPTIONS: a round that ends badly after its connection got SIGNAL
    local round
    head -c 6M /dev/urandom | "$uthin" write "$a/v" --offset 4M
    replicate --rate-limit 1M "${@:2}" > /dev/null 2> "$work/cut.err" &
    round=$!
    pids+=("$round")
    for _ in $(seq 300); do
        if grep -q "^[^ ]*/uthin receive $b/v " <<< "$(ps -eo args=)"; then break; fi
        sleep 0.1
    done
    sleep 1 # of the six that the stream takes
    signal_session "$1"
    if join "$round"; then fail "a round ended well although its connection did not"; fi
}
echo "a connection that is cut in the middle"
before=$(sum "$b/v")
broken_round KILL
expect_equal "bytes there" "$before" "$(sum "$b/v")"
replicate > /dev/null
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$b/v")"
echo "one that falls silent"
broken_round STOP --stall-timeout 3s
for _ in $(seq 20); do # its receiver gives up by itself
    if replicate > /dev/null 2> "$work/again.err"; then break; fi
    sleep 0.5
done
expect_equal "bytes" "$(sum "$a/v")" "$(sum "$b/v")"
expect_equal "snapshots there" 1 "$(count "$b")"
signal_session KILL
expect_failure 1 "not valid" "$uthin" replicate "$a/v" "ssh://127.0.0.1:x$b" --once
for pool in "$a" "$b"; do judge_pool "$pool"; done
echo "ok"
