#!/usr/bin/env bash
# Two fio clients with 4 connections each, verify mode, a snapshot of both every 100 ms: no error, no
# stall over 1 s. 10 s, or 60 s in tier 1 (SECONDS_OF_LOAD overrides).
. "$(dirname "$0")/functions.sh"
requires nbdkit fio python3
fio --enghelp 2> /dev/null | grep -qw nbd || skip "fio has no nbd engine"

runtime=${SECONDS_OF_LOAD:-$([ "${UTHIN_TIER:-0}" -ge 1 ] && echo 60 || echo 10)}
pool=$work/pool
"$uthin" pool create "$pool" --data-size 20G --metadata-size 256M
start_server "$pool"
for client in 1 2; do
    "$uthin" volume create "$pool/disk$client" --size 256M
done
for client in 1 2; do
    fio --name="client$client" --verify_state_save=0 --ioengine=nbd --uri="$(uri_of "disk$client")" --rw=randrw \
        --bs=4k-64k --size=64M --offset_increment=64M --numjobs=4 --iodepth=4 --fsync=256 \
        --verify=crc32c --verify_fatal=1 --verify_backlog=512 --time_based --runtime="$runtime" \
        --output-format=json --output="$work/client$client.json" > "$work/fio$client.log" 2>&1 &
    pids+=($!)
done
clients=("${pids[@]}")
python3 "$here/stall_probe.py" "$work/probe" &
probe=$!
pids+=("$probe")
count=0
begin=$(date +%s%N)
while [ $(($(date +%s%N) - begin)) -lt $((runtime * 1000000000)) ]; do
    "$uthin" snapshot create "$pool/disk1" "a-$count" "$pool/disk2" "b-$count" > /dev/null
    count=$((count + 1))
    next=$((begin + count * 100000000 - $(date +%s%N)))
    [ "$next" -le 0 ] || sleep "$(printf '0.%09d' "$next")"
done
for pid in "${clients[@]}"; do
    wait "$pid" || fail "fio: $(cat "$work"/fio?.log; tail -n 5 "$work/server.log")"
done
kill "$probe"
wait "$probe"
stop_server
python3 - "$work"/client?.json "$count" <<'END'
import json, sys
stalls = {}
writes = reads = 0
for path in sys.argv[1:-1]:
    text = open(path).read()
    for job in json.loads(text[text.index("{"):])["jobs"]:
        if job["error"]:
            sys.exit(f"{job['jobname']}: error {job['error']}")
        for kind in ("read", "write", "sync"):
            latency = job[kind].get("clat_ns") if kind != "sync" else job[kind]["lat_ns"]
            stalls[kind] = max(stalls.get(kind, 0), latency["max"] / 1e6)
        reads += job["read"]["total_ios"]
        writes += job["write"]["total_ios"]
worst = max(stalls.values())
print(f"{sys.argv[-1]} snapshots of two volumes, {reads} reads, {writes} writes, max latency "
      + ", ".join(f"{kind} {value:.1f} ms" for kind, value in stalls.items()))
if not reads or not writes or int(sys.argv[-1]) < 10:
    sys.exit("too little was done")
if worst > 1000:
    sys.exit(f"a request stalled for {worst:.0f} ms")
END
"$uthin" pool check "$pool" > /dev/null
judge_pool "$pool"
echo "ok"
