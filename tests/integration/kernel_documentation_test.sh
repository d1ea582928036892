#!/usr/bin/env bash
# The example of the kernel's documentation of thin provisioning, typed through `uthin message`: two
# devices, a snapshot of one that is written to, deletion, the transaction id, the metadata snapshot.
. "$(dirname "$0")/functions.sh"

pool=$work/pool
expect_equal "pool" "created $pool" "$("$uthin" pool create "$pool" --data-size 64M --metadata-size 4M)"
"$uthin" message "$pool" create_thin 0
"$uthin" volume resize "$pool/thin-0" --size 32M > /dev/null
random_file "$work/random" 1
"$uthin" write "$pool/thin-0" < "$work/random"
expect_equal "mapped" "2048 2047" "$("$uthin" volume show "$pool/thin-0" --kernel)"

"$uthin" message "$pool" "create_snap 1 0"
"$uthin" volume resize "$pool/thin-1" --size 32M > /dev/null
"$uthin" read "$pool/thin-1" --length 1M | cmp - "$work/random" || fail "the snapshot differs"
head -c 4096 /dev/zero | "$uthin" write "$pool/thin-1"
"$uthin" read "$pool/thin-0" --length 1M | cmp - "$work/random" || fail "the origin changed"

id=$("$uthin" pool status "$pool" --kernel | cut -d' ' -f1)
"$uthin" message "$pool" set_transaction_id "$id" 7
expect_contains "transaction id" "$("$uthin" pool status "$pool" --kernel)" "7 "
"$uthin" message "$pool" reserve_metadata_snap
expect_failure 1 "release it first" "$uthin" message "$pool" reserve_metadata_snap
"$uthin" message "$pool" release_metadata_snap
"$uthin" message "$pool" delete 1
expect_failure 1 "No data available" "$uthin" message "$pool" delete 1
"$uthin" message "$pool" delete 0
expect_contains "all free" "$("$uthin" pool status "$pool" --kernel)" " 0/1024 "
judge_pool "$pool"
