#!/usr/bin/env bash
# The kernel's metadata snapshot of a served pool: under write load every thin_dump -m says what was
# mapped when it was reserved; SIGKILL of the server changes nothing about that.
. "$(dirname "$0")/functions.sh"
requires nbdkit python3
[ -x /usr/sbin/thin_dump ] || skip "Debian's thin-provisioning-tools are not installed"

seconds=${SECONDS_OF_LOAD:-$([ "${UTHIN_TIER:-0}" -ge 1 ] && echo 60 || echo 2)}
pool=$work/pool
newer=$("$source_dir/scripts/fetch-thin-tools" 2> /dev/null || true)
"$uthin" pool create "$pool" --data-size 4G --metadata-size 8M
for volume in a b c; do
    "$uthin" volume create "$pool/$volume" --size 48M
done
python3 "$here/metadata_snapshot_load.py" "$bin" "$pool" "$seconds" "$newer" 2>> "$work/server.log"
judge_pool "$pool"
echo "ok"
