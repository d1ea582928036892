# Runs in the guest of tests/kernel/lab: dm-thin on RAM disks beside the RAM disk alone. Prints lines
# "ROW NANOSECONDS_RAW NANOSECONDS_THIN" for one request of fio's at depth 1, around the page cache.
insmod /modules/brd.ko rd_nr=2 rd_size=300000
meta=/dev/ram0 raw=/dev/ram1 thin=/dev/mapper/thin
dd if=/dev/zero of=$raw bs=1M 2>/dev/null # takes its memory

cell() { # cell FILE REQUESTS FIO_ARGUMENT...
    file=$1 requests=$2
    shift 2
    fio --name=x --filename="$file" --bs=4k --size=128m --ioengine=psync --direct=1 --randseed=1 \
        --number_ios="$requests" --output-format=json "$@" >/tmp/json
    awk -v n="$requests" '/"job_runtime"/ {gsub(/[^0-9]/, "", $3); print int(1000000 * $3 / n)}' /tmp/json
}
pool() { # pool [FEATURE...]: a new one with a volume of 128 MiB, blocks of 64 KiB
    dmsetup remove thin 2>/dev/null
    dmsetup remove pool 2>/dev/null
    dd if=/dev/zero of=$meta bs=4k count=1 2>/dev/null
    dmsetup create pool --table "0 600000 thin-pool $meta $raw 128 0 $# $*"
    dmsetup message pool 0 "create_thin 0"
    dmsetup create thin --table "0 262144 thin /dev/mapper/pool 0"
}
row() { # row NAME ARGUMENTS_OF_CELL...
    name=$1
    shift
    echo "$name $(cell $raw "$@") $(cell $thin "$@")"
}
each_block="--rw=write:60k" # 4k, and 60k left out

pool
row first-write/zeroing 2000 $each_block
dd if=/dev/zero of=$thin bs=1M 2>/dev/null
row hit/read 20000 --rw=randread --norandommap
row hit/write 20000 --rw=randwrite --norandommap
dmsetup suspend thin
dmsetup message pool 0 "create_snap 1 0"
dmsetup resume thin
row break-sharing 2000 $each_block
pool skip_block_zeroing
row first-write/no-zeroing 2000 $each_block
