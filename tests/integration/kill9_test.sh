#!/usr/bin/env bash
# SIGKILL of the server under load: the pool opens without a tool, its check is clean, and every write
# that completed before a completed flush is there. 4 kills, 200 in tier 1 (KILLS overrides).
. "$(dirname "$0")/functions.sh"
requires nbdkit python3

kills=${KILLS:-$([ "${UTHIN_TIER:-0}" -ge 1 ] && echo 200 || echo 4)}
pool=$work/pool
"$uthin" pool create "$pool" --data-size 8G
"$uthin" volume create "$pool/disk" --size 64M
python3 "$here/kill9_load.py" "$uthin" "$pool" "$kills" 2>> "$work/server.log"
judge_pool "$pool"
echo "ok"
