# The daemon is killed again and again under a guest's load: the guest goes on
# shellcheck shell=bash

# On storage that answers at once, the daemon does itself what it has a thread of the kernel do elsewhere: so there is a disk on
# either.
memory=$work/memory
mkdir "$memory"
modprobe brd rd_nr=1 rd_size=$((64 << 10))
mkfs.ext4 -q /dev/ram0
mount /dev/ram0 "$memory"
# Can be repeated, wherever it has stopped.
give_up_memory() {
    { ! mountpoint -q "$memory" || umount "$memory"; } &&
        { [ ! -e /dev/ram0 ] || rmmod brd; }
}
cowback create "$memory/data.cow" --size 32M
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")" "$(overlay xvdb "$memory/data.cow")"
wait_up vm
guest_id=$(domid vm)
path=$(backend_path vm 51712)
guest_start vm 'until [ -e /run/enough ]; do fio --rw=randwrite --bssplit=512/20:4k/50:64k/30 --blockalign=512 --fsync=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --ioengine=libaio --direct=1 --iodepth=8 --minimal --name=load --filename=/srv/load --size=4M --name=memory --filename=/dev/xvdb --size=32M --io_size=2M --randrepeat=0 || exit; done'
eventually 60 "load in the guest" guest_run vm 'test -s /srv/load'
# Of what cowbackd has written, the kernel counts here what no io_uring did. Event channels and logs take a few bytes each.
writes_itself() { [ "$(awk '$1 == "wchar:" { print $2 }' "/proc/$(cowbackd_pid)/io")" -ge $((256 << 10)) ]; }
eventually 60 "256 KiB that the daemon writes itself" writes_itself

watch_state "$path/state"
for round in $(seq 20); do
    kill_cowbackd
    # Each fifth is killed while it takes over, the others when the guest has been served by them.
    [ $((round % 5)) -eq 0 ] || guest_run vm "echo $round >> /srv/rounds && sync"
done
assert_eq 4 "$(node "$path/state")" "backend state after 20 kills"

step "the load ends without an error"
end_load vm
assert_eq "16" "$(guest_run vm 'grep -c . /srv/rounds')" "lines that the guest wrote after the kills"
assert_eq "$guest_id" "$(domid vm)" "domain of the guest"

step "xenstore never showed the guest another state"
kill "$watcher"
assert_eq 1 "$(wc -l < "$state_dir/state-events")" "writes to $path/state"
shutdown_guest vm
assert_image_clean "$work/vm.cow"
assert_image_clean "$memory/data.cow"
left=$(ls /run/cowback/disks)
assert_eq "" "$left" "run states that are left"
eventually 30 "giving up the storage in memory" give_up_memory
