# The largest rings that a disk may have, eight queues of sixteen pages: under load, and when the daemon is killed
# shellcheck shell=bash

set_cowbackd 'queues = 8'

# Linux takes memory for all segments that a request may have, for each of 8 * 512 slots: so these are to be as few as may be.
guest_args+=' xen_blkfront.max_ring_page_order=4 xen_blkfront.max_queues=8 xen_blkfront.max_indirect_segments=11'
guest_vcpus=8 guest_memory_mib=640 create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_up vm
frontend=/local/domain/$(domid vm)/device/vbd/51712
assert_eq 8 "$(node "$frontend/multi-queue-num-queues")" "queues"
assert_eq 4 "$(node "$frontend/ring-page-order")" "ring order"
assert_eq 8 "$(guest_run vm 'ls /sys/block/xvda/mq | wc -l')" "hardware queues in the guest"

# Of each queue of the guest's disk, how many answers it was told of.
interrupts() { guest_run vm "awk '/blkif/ { told = 0; for (cpu = 2; cpu <= 9; cpu++) told += \$cpu; print told }' /proc/interrupts"; }

step "under load, killed now and then"
interrupts > "$state_dir/interrupts-before"
assert_eq 8 "$(grep -c . "$state_dir/interrupts-before")" "queues with an interrupt of their own"
# A job on each processor is one on each queue.
guest_start vm 'until [ -e /run/enough ]; do fio --name=load --cpus_allowed=0-7 --cpus_allowed_policy=split --directory=/srv --rw=randwrite --bssplit=4k/60:32k/40 --fsync=32 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --ioengine=libaio --direct=1 --iodepth=32 --size=2M --numjobs=8 --minimal || exit; done'
eventually 120 "load in the guest" guest_run vm 'test -s /srv/load.7.0'
for round in $(seq 5); do
    kill_cowbackd
    guest_run vm "echo $round >> /srv/rounds && sync"
done
end_load vm
assert_eq 5 "$(guest_run vm 'grep -c . /srv/rounds')" "lines that the guest wrote after the kills"
interrupts | paste "$state_dir/interrupts-before" - > "$state_dir/interrupts"
cat "$state_dir/interrupts"
assert_eq 8 "$(awk '$2 - $1 >= 10' "$state_dir/interrupts" | grep -c .)" "queues that were used under load"
shutdown_guest vm
assert_image_clean "$work/vm.cow"
