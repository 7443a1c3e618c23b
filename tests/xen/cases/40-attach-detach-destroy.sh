# Disks come and go, guests are destroyed in the middle of writing, and nothing is left behind
# shellcheck shell=bash

step "a first guest, so that what the daemon makes once is made"
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_up vm
record_resources "$state_dir/with-guest" live

step "attach and detach a second disk, twice"
cowback create "$work/data.cow" --size 32M
disk=$(overlay xvdb "$work/data.cow")
has_xvdb() { guest_run vm 'test -b /dev/xvdb'; }
has_no_xvdb() { ! guest_run vm 'test -e /dev/xvdb'; }
for round in 1 2; do
    xl block-attach vm "$disk"
    eventually 60 "xvdb in the guest" has_xvdb
    guest_run vm "echo round $round > /run/round && dd if=/run/round of=/dev/xvdb bs=512 seek=$round conv=sync,fsync status=none"
    xl block-detach vm xvdb
    eventually 60 "xvdb gone from the guest" has_no_xvdb
    assert_resources "$state_dir/with-guest" live
done
assert_image_clean "$work/data.cow"

step "destroy the guest under write load"
load='while :; do dd if=/dev/urandom of=/srv/load bs=64k count=64 conv=fsync status=none; done'
guest_run vm 'echo kept > /srv/kept && sync'
guest_start vm "$load"
eventually 60 "load in the guest" guest_run vm 'test -s /srv/load'
destroy_guest vm
record_resources "$state_dir/without-guest"
if grep -E '/vbd3?/|(mappings|devices|channels).*: *[1-9]' "$state_dir/without-guest"; then
    fail "there is no guest, and yet something is held (above)"
fi

step "start it again from the same overlay, and destroy it under load once more"
assert_image_clean "$work/vm.cow"
start_guest vm
wait_up vm
assert_eq kept "$(guest_run vm 'cat /srv/kept')" "file that was synced before the guest was destroyed"
guest_start vm "$load"
destroy_guest vm
assert_resources "$state_dir/without-guest"
assert_image_clean "$work/vm.cow"
