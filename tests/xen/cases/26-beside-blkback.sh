# Disks without backendtype=tap, as every Xen takes them, beside the kernel's blkback with another disk of the same guest
# shellcheck shell=bash

modprobe -a xen-blkback loop
step "one disk of each backend, in one guest"
truncate -s 32M "$work/raw.img"
loop=$(losetup --find --show "$work/raw.img")
create_guest vm "vdev=xvda,script=block-cow,format=raw,target=dscow:$work/vm.cow:$base" "phy:$loop,xvdb,w"
wait_up vm
id=$(domid vm)
xl block-list vm
assert_eq 4 "$(node "backend/vbd/$id/51712/state")" "state of our disk"
assert_eq 4 "$(node "backend/vbd/$id/51728/state")" "state of blkback's disk"
[ -e "/sys/bus/xen-backend/drivers/vbd/vbd-$id-51728" ] || fail "blkback does not serve its disk"
[ ! -e "/sys/bus/xen-backend/drivers/vbd/vbd-$id-51712" ] || fail "blkback is bound to our disk"

step "both are used, and ours outlives the daemon"
guest_run vm 'dd if=/dev/urandom of=/srv/kept bs=64k count=16 conv=fsync status=none; sha256sum < /srv/kept' > "$state_dir/sum"
guest_run vm 'dd if=/srv/kept of=/dev/xvdb bs=64k oflag=direct status=none'
kill -9 "$(cowbackd_pid)"
guest_run vm 'echo 3 > /proc/sys/vm/drop_caches; sha256sum < /srv/kept' | cmp - "$state_dir/sum"
guest_run vm 'dd if=/dev/xvdb bs=64k count=16 iflag=direct status=none | sha256sum' | cmp - "$state_dir/sum"
shutdown_guest vm
losetup -d "$loop"
assert_image_clean "$work/vm.cow"

step "blkback is loaded because of our disk, and offers more than cowbackd"
set_cowbackd 'queues = 1'
eventually 30 "unloading blkback" modprobe -r xen-blkback
guest_vcpus=2 create_guest_config vm "vdev=xvda,script=block-cow,format=raw,target=dscow:$work/vm.cow:$base"
# The kernel overlooks a device to which cowbackd comes first.
known_to_kernel() { [ -e "/sys/bus/xen-backend/devices/vbd-$id-51712" ]; }
for attempt in 1 2 3; do
    # The guest must not have chosen before blkback has come.
    xl create -p "$state_dir/vm.cfg"
    id=$(domid vm)
    ! known_to_kernel || break
    [ "$attempt" != 3 ] || fail "the kernel does not know the disk: this would prove nothing"
    destroy_guest vm
done
has_come() { [ -e /sys/bus/xen-backend/drivers/vbd ]; }
eventually 30 "blkback" has_come
# Whoever has loaded it has done so now.
udevadm settle --timeout=30
is_let_go() { [ ! -e "/sys/bus/xen-backend/drivers/vbd/vbd-$id-51712" ]; }
eventually 30 "blkback to be unbound from our disk" is_let_go
eventually 30 "what cowbackd offers" node_is "backend/vbd/$id/51712/multi-queue-max-queues" 1
assert_eq 2 "$(node "backend/vbd/$id/51712/state")" "state of our disk"
xl unpause vm
wait_up vm
assert_eq 1 "$(guest_run vm 'ls /sys/block/xvda/mq | wc -l')" "queues in the guest"
shutdown_guest vm
assert_image_clean "$work/vm.cow"
