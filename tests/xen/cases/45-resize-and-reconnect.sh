# The disks of a running guest grow, and the guest's driver goes away and comes back, also after kills of the daemon
# shellcheck shell=bash

mib=$((1 << 20))
cowback create "$work/data.cow" --size 32M
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")" "$(overlay xvdb "$work/data.cow")"
wait_up vm
id=$(domid vm)
path=$(backend_path vm 51728)

# write_mib PLACE: random data there, which the guest keeps a sum of. check_mib PLACE: it is there.
write_mib() { guest_run vm "dd if=/dev/urandom of=/run/mib.$1 bs=1M count=1 status=none && dd if=/run/mib.$1 of=/dev/xvdb bs=1M seek=$1 oflag=direct conv=fsync,notrunc status=none"; }
check_mib() { guest_run vm "dd if=/dev/xvdb bs=1M skip=$1 count=1 iflag=direct status=none | cmp - /run/mib.$1"; }
has_size() { [ "$(guest_run vm "blockdev --getsize64 /dev/$1 2> /dev/null")" = "$2" ]; }

step "the second disk grows from 32 to 64 MiB"
write_mib 0
write_mib 31
assert_eq $((32 * mib)) "$(guest_run vm 'blockdev --getsize64 /dev/xvdb')" "size before"
watch_state "$path/state"
result=$(cowback resize --json "$work/data.cow" 64M)
assert_eq "${path#/local/domain/0/}" "$(jq -r .device <<< "$result")" "device that has grown"
eventually 60 "the new size in the guest" has_size xvdb $((64 * mib))
assert_eq $((64 * mib / 512)) "$(guest_run vm 'cat /sys/block/xvdb/size')" "sectors in the guest's sysfs"
assert_contains "$(guest_run vm 'dmesg | grep xvdb')" "detected capacity change from 65536 to 131072" "the guest's kernel log"
assert_eq $((64 * mib / 512)) "$(node "$path/sectors")" "sectors in xenstore"
write_mib 63
for place in 0 31 63; do check_mib $place; done
assert_eq 0 "$(guest_run vm 'dd if=/dev/xvdb bs=1M skip=40 count=1 status=none | tr -d "\0" | wc -c')" "bytes of what is new that are not zero"
kill "$watcher"
assert_eq 2 "$(wc -l < "$state_dir/state-events")" "events of $path/state: the watch's own, and state 4 once more"

step "the root file system grows"
before=$(guest_run vm 'df --output=size -B1M / | tail -n 1')
cowback resize "$work/vm.cow" +256M
grows() { guest_run vm 'resize2fs /dev/xvda' && [ "$(guest_run vm 'df --output=size -B1M / | tail -n 1')" -gt $((before + 200)) ]; }
eventually 120 "a larger root file system" grows
guest_run vm 'dd if=/dev/urandom of=/srv/after bs=1M count=8 conv=fsync status=none && sha256sum /srv/after > /srv/sum && sync'

step "what is not possible is refused, and changes nothing"
refusal=$(cowback resize "$work/data.cow" 16M 2>&1) && fail "a disk was made smaller: $refusal"
assert_contains "$refusal" "$work/data.cow: cannot be made smaller" "refusal"
assert_contains "$refusal" "${path#/local/domain/0/}" "refusal"
assert_eq $((64 * mib / 512)) "$(node "$path/sectors")" "sectors in xenstore after a refusal"

# Linux cannot bind xen-blkfront to a device again that it was unbound from, with any backend: the kernel's record of the
# device stays in state 6. So the device is taken off the guest's bus and put back, which makes a new record. The guest may not
# read it before the backend is in state 2: a new driver that finds it in state 6 closes at once.
frontend=/local/domain/$id/device/vbd/51728
has_xvdb() { guest_run vm 'test -b /dev/xvdb'; }
reload_driver() {
    local backend
    backend=$(node "$frontend/backend")
    guest_run vm 'echo vbd-51728 > /sys/bus/xen/drivers/vbd/unbind'
    eventually 60 "state 6 of the backend" node_is "$path/state" 6
    guest_run vm '! test -e /dev/xvdb'
    xenstore-rm "$frontend"
    xenstore-write "$frontend" ''
    xenstore-chmod "$frontend" n0
    xenstore-write "$frontend/backend" "$backend" "$frontend/backend-id" 0 "$frontend/virtual-device" 51728 \
        "$frontend/device-type" disk "$frontend/state" 1
    eventually 60 "state 2 of the backend" node_is "$path/state" 2
    xenstore-chmod -r "$frontend" "n$id" r0
    xenstore-write "$frontend/device-type" disk
    eventually 60 "state 4 of the backend" node_is "$path/state" 4
    eventually 60 "xvdb in the guest" has_xvdb
}

# The image is opened anew each time, for another owner.
held() { held_resources live | sed -E 's/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/OWNER/'; }
holds_as_before() { held | diff "$state_dir/reconnected" -; }
for round in 1 2 3 4; do
    step "the driver goes away and comes back, round $round"
    reload_driver
    eventually 60 "the size in the guest" has_size xvdb $((64 * mib))
    for place in 0 31 63; do check_mib $place; done
    write_mib $((round * 10))
    check_mib $((round * 10))
    [ "$round" != 1 ] || held > "$state_dir/reconnected"
done
eventually 30 "what the backend holds to be as after the first round" holds_as_before

step "the daemon is killed in the middle of growing, and the next one tells"
for size in 72 80 88 96; do
    before=$(cowbackd_pid)
    cowback resize "$work/data.cow" "${size}M" &
    resizing=$!
    kill -9 "$before"
    wait "$resizing" || true
    eventually 60 "another daemon" cowbackd_is_another "$before"
    check_mib 63
    # Whatever became of the first one.
    again() { cowback resize "$work/data.cow" "${size}M"; }
    eventually 60 "a daemon that grows the disk" again
    eventually 60 "the size in the guest" has_size xvdb $((size * mib))
    write_mib $((size - 1))
    check_mib $((size - 1))
done
guest_run vm 'sha256sum -c /srv/sum'
assert_no_disk_errors vm
shutdown_guest vm
assert_image_clean "$work/vm.cow"
assert_image_clean "$work/data.cow"
