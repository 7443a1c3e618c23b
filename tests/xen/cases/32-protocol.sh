# What Linux negotiates: queues, larger rings, indirect requests, discard, sectors of 4096 bytes, grants that are not kept
# shellcheck shell=bash

cowback create "$work/plain.cow" --size 64M
cowback create "$work/large.cow" --size 64M --sector-size 4096
guest_args+=' xen_blkfront.max_ring_page_order=2'
guest_vcpus=2 create_guest vm "$(overlay xvda "$work/vm.cow" "$base")" "$(overlay xvdb "$work/plain.cow")" \
    "$(overlay xvdc "$work/large.cow")"
wait_up vm
frontend_node() { node "/local/domain/$(domid vm)/device/vbd/$1"; }
queue_node() { guest_run vm "cat /sys/block/$1/queue/$2"; }
fio_verified() {
    guest_run vm "fio --name=$1 --filename=/dev/$1 --size=${2:-16M} --rw=randwrite --bssplit=4k/60:64k/30:256k/10 --fsync=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --ioengine=libaio --direct=1 --iodepth=32 --numjobs=1 --minimal > /run/$1.fio && echo verified" 300
}

step "two queues with rings of four pages"
assert_eq 2 "$(frontend_node 51728/multi-queue-num-queues)" "queues"
assert_eq 2 "$(frontend_node 51728/ring-page-order)" "ring order"
assert_eq 2 "$(guest_run vm 'ls /sys/block/xvdb/mq | wc -l')" "hardware queues in the guest"

step "requests of more than eleven segments"
[ "$(queue_node xvdb max_hw_sectors_kb)" -gt 44 ] || fail "the guest does not use indirect requests"
fio_verified xvdb

step "discard: blocks are given back, in the guest's words"
assert_eq 4096 "$(queue_node xvdb discard_granularity)" "discard granularity"
before=$(stat -c %b "$work/plain.cow")
guest_run vm 'blkdiscard /dev/xvdb && sync'
after=$(stat -c %b "$work/plain.cow")
[ "$after" -lt $((before / 4)) ] || fail "blocks of 512 bytes before the discard: $before, after: $after"
assert_eq 0 "$(guest_run vm "cmp -n $((32 << 20)) /dev/xvdb /dev/zero && echo 0")" "what is left on the disk"
guest_run vm '! blkdiscard --secure /dev/xvdb' || fail "a secure discard was done"

step "sectors of 4096 bytes"
assert_eq 4096 "$(queue_node xvdc logical_block_size)" "logical block size"
assert_eq 512 "$(queue_node xvdb logical_block_size)" "logical block size of the other disk"
fio_verified xvdc
guest_run vm 'mkfs.ext4 -q /dev/xvdc && mount -o discard /dev/xvdc /mnt && cp /usr/bin/bash /mnt && sync && cmp /usr/bin/bash /mnt/bash && rm /mnt/bash && fstrim /mnt && umount /mnt && fsck.ext4 -fn /dev/xvdc'

assert_no_disk_errors vm
shutdown_guest vm

step "a guest that does not keep its grants"
guest_args+=' xen_blkfront.feature_persistent=0'
create_guest vm "$(overlay xvda "$work/vm.cow")" "$(overlay xvdb "$work/plain.cow")"
wait_up vm
assert_eq 0 "$(frontend_node 51728/feature-persistent)" "feature-persistent"
fio_verified xvdb
assert_no_disk_errors vm
shutdown_guest vm
for image in vm plain large; do assert_image_clean "$work/$image.cow"; done
