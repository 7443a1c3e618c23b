# xentop shows our disks, with the figures that the guest has seen
# shellcheck shell=bash

create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_multiuser vm
# Of the guest's line: the disks, and what was read and written, in requests and sectors.
figures() { xentop --batch --iterations 1 --vbds --full-name | tee "$state_dir/xentop" | awk '$1 == "vm" { print $(NF-6), $(NF-4), $(NF-3) }'; }
shown() { sed -n "s/.*$1: *\([0-9]*\).*/\1/p" "$state_dir/xentop" | head -n 1; }

step "the counters follow what the guest does"
figures
cat "$state_dir/xentop"
before=$(cowback list --json | jq '.[0].writes')
guest_run vm 'dd if=/dev/urandom of=/srv/data bs=64k count=64 oflag=direct status=none'
sleep 3
figures
cat "$state_dir/xentop"
after=$(cowback list --json | jq '.[0].writes')
[ "$after" -ge $((before + 64)) ] || fail "the guest has written only $((after - before)) times"
assert_eq "$(cowback list --json | jq '.[0].reads')" "$(shown RD)" "reads that xentop shows"
[ "$(shown WR)" -ge $((before + 64)) ] || fail "xentop shows $(shown WR) writes"

step "the next daemon's figures are found as well"
kill -9 "$(cowbackd_pid)"
guest_run vm 'dd if=/dev/urandom of=/srv/data bs=64k count=64 oflag=direct status=none'
sleep 3
figures
[ "$(shown WR)" -ge 64 ] || fail "xentop shows $(shown WR) writes"
shutdown_guest vm
assert_eq 1 "$(find /dev/shm -name 'td3-*' | wc -l)" "folders for xentop"
