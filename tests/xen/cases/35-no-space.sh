# The host runs out of space under a running guest: the guest waits, and goes on by itself when there is some
# shellcheck shell=bash

small=$work/small
mkdir "$small"
mount -t tmpfs -o size=6M small "$small"
trap 'umount -l "$small"' EXIT
cowback create "$small/data.cow" --size 64M
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")" "$(overlay xvdb "$small/data.cow")"
wait_up vm

waiting_nodes() { xenstore-ls -f /local/domain/0/backend | grep '/waiting = "no space' || true; }
is_waiting() { [ -n "$(waiting_nodes)" ]; }
goes_on() { [ -z "$(waiting_nodes)" ]; }

step "the guest writes more than there is room for"
guest_start vm 'dd if=/dev/urandom of=/run/data bs=1M count=12 && dd if=/run/data of=/dev/xvdb bs=1M oflag=direct conv=fsync && touch /run/written'
eventually 120 "xenstore says that the guest waits for space" is_waiting
is_told() { journalctl --unit cowbackd --boot | grep -F "no space is left on the host; the guest waits until there is"; }
eventually 30 "the journal says so, too" is_told
guest_run vm '! test -e /run/written' || fail "the guest has finished"

step "its other disk is not affected"
guest_run vm 'dd if=/dev/zero of=/srv/elsewhere bs=64k count=8 conv=fsync 2> /dev/null && echo written'

step "there is room again"
mount -o remount,size=32M "$small"
eventually 120 "the guest goes on by itself" goes_on
eventually 120 "the guest has written everything" guest_run vm 'test -e /run/written'
guest_run vm 'echo 3 > /proc/sys/vm/drop_caches; cmp -n 12582912 /run/data /dev/xvdb && echo same'
assert_no_disk_errors vm
shutdown_guest vm
assert_image_clean "$small/data.cow"
