#!/usr/bin/env bash
# Rolling a served volume back: refused while it is in use, with --force its clients see the old
# content at once; siblings and snapshots stay as they are.
. "$(dirname "$0")/functions.sh"
requires nbdkit nbdcopy python3

pool=$work/pool
"$uthin" pool create "$pool" --data-size 64M > /dev/null
"$uthin" volume create "$pool/disk" --size 8M > /dev/null
random_file "$work/old" 8
random_file "$work/new" 8
random_file "$work/newest" 8
start_server "$pool"
nbdcopy "$work/old" "$(uri_of disk)"
"$uthin" snapshot create "$pool/disk" before > /dev/null
nbdcopy "$work/new" "$(uri_of disk)"
"$uthin" snapshot create "$pool/disk" after > /dev/null
nbdcopy "$work/newest" "$(uri_of disk)"
content() { nbdcopy "$(uri_of "$1")" - | cmp - "$2" || fail "the content of $1"; }

echo "with a client that reads and writes all the time"
mkfifo "$work/go"
python3 - "$here" "$pool/nbd.sock" "$work/go" "$work/old" "$work/state" <<'END' &
import sys
sys.path.insert(0, sys.argv[1])
from nbd_client import Client
disk = Client(sys.argv[2], "disk")
old = open(sys.argv[4], "rb").read()
open(sys.argv[5], "w").write("connected")
open(sys.argv[3]).read()                       # until the volume was rolled back
if disk.read(0, len(old)) != old:
    sys.exit("the client does not see the old content")
disk.write(4096, b"after the rollback")
disk.flush()
if disk.read(4096, 18) != b"after the rollback":
    sys.exit("what was written after the rollback")
END
client=$!
pids+=("$client")
for ((tries = 0; tries < 200; tries++)); do [ ! -s "$work/state" ] || break; sleep 0.05; done
expect_failure 1 "in use" "$uthin" volume rollback "$pool/disk" --to before
content disk "$work/newest"
"$uthin" volume rollback "$pool/disk" --to before --force > /dev/null
echo > "$work/go"
join "$client" || fail "the client"
printf 'after the rollback' | dd of="$work/old" bs=1 seek=4096 conv=notrunc status=none
content disk "$work/old"
content after "$work/new"

echo "and without clients, to a snapshot of another size"
"$uthin" volume resize "$pool/disk" --size 4M > /dev/null
"$uthin" volume rollback "$pool/disk" --to after > /dev/null
content disk "$work/new"
expect_failure 1 "itself" "$uthin" volume rollback "$pool/disk" --to disk
expect_failure 1 "no such volume" "$uthin" volume rollback "$pool/disk" --to nothing
stop_server
"$uthin" pool check "$pool" > /dev/null
judge_pool "$pool"

echo "ok"
