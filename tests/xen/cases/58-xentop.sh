# xentop shows our disks, with the figures that the daemon and the guest have
# shellcheck shell=bash

create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_up vm
# What xentop shows of the guest's one disk: requests and sectors, read and written.
shown() {
    xentop --batch --iterations 1 --vbds --full-name > "$state_dir/xentop"
    sed -nE 's/^VBD .*RD: *([0-9]+) +WR: *([0-9]+) +RSECT: *([0-9]+) +WSECT: *([0-9]+).*/\1 \2 \3 \4/p' "$state_dir/xentop"
}
counted() { cowback list --json | jq -r '.[0] | [.reads, .writes, .read_bytes / 512, .written_bytes / 512] | join(" ")'; }
# The daemon tells xentop at intervals, and a guest is never quite idle.
agree() { [ "$(shown)" = "$(counted)" ]; }

step "the counters follow what the guest does"
eventually 60 "what xentop shows is what the daemon has counted" agree
before=$(cowback list --json | jq '.[0].written_bytes')
guest_run vm 'dd if=/dev/urandom of=/srv/data bs=64k count=64 oflag=direct status=none'
eventually 60 "what xentop shows is what the daemon has counted" agree
cat "$state_dir/xentop"
written=$(($(shown | cut -d ' ' -f 4) * 512 - before))
[ "$written" -ge $((64 * 65536)) ] || fail "xentop has seen only $written bytes of what the guest wrote"

step "the next daemon's figures are found as well"
kill -9 "$(cowbackd_pid)"
guest_run vm 'dd if=/dev/urandom of=/srv/data bs=64k count=64 oflag=direct status=none'
eventually 60 "what xentop shows is what the next daemon has counted" agree
[ "$(shown | cut -d ' ' -f 2)" -ge 64 ] || fail "xentop shows: $(shown)"
shutdown_guest vm
assert_eq 1 "$(find /dev/shm -name 'td3-*' | wc -l)" "folders for xentop"
