# The daemon is killed while slow storage works on requests: dom0's kernel has nothing of the guest's left over
# shellcheck shell=bash
#
# Each kill meets requests that take 400 ms more. dom0's kernel cannot unmap a page of a killed process that storage still
# works on: it warns (which fails every case), and later refuses I/O on such pages.

slow=$work/slow
mkdir "$slow"
truncate -s 64M "$work/slow.ext4"
mkfs.ext4 -q "$work/slow.ext4"
modprobe -a loop dm-delay
slow_loop=$(losetup --find --show --direct-io=on "$work/slow.ext4")
delayed() { echo "0 $(blockdev --getsz "$slow_loop") delay $slow_loop 0 $1"; }
dmsetup create --noudevsync slow --table "$(delayed 0)"
dmsetup mknodes slow
mount /dev/mapper/slow "$slow"
# Can be repeated, wherever it has stopped.
give_up_storage() {
    { ! mountpoint -q "$slow" || umount "$slow"; } &&
        { ! dmsetup info slow > /dev/null 2>&1 || dmsetup remove --noudevsync slow; } &&
        losetup -d "$slow_loop"
}

cowback create "$slow/data.cow" --size 16M
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")" "$(overlay xvdb "$slow/data.cow")"
wait_up vm
guest_run vm 'dd if=/dev/urandom of=/run/data bs=1M count=8 2> /dev/null && dd if=/run/data of=/dev/xvdb bs=1M oflag=direct conv=fsync 2> /dev/null'
dmsetup reload slow --table "$(delayed 400)"
dmsetup suspend slow && dmsetup resume slow

guest_start vm 'until [ -e /run/enough ]; do dd if=/dev/xvdb of=/run/back bs=512k count=16 iflag=direct && cmp /run/data /run/back && dd if=/run/data of=/dev/xvdb bs=512k count=16 oflag=direct || exit; done'
in_flight() { cowback list --json | jq -e '.[] | select(.vdev == "xvdb") | .in_flight > 0' > /dev/null; }
image_fd=$(find "/proc/$(cowbackd_pid)/fd" -lname "$slow/data.cow" -printf '%f\n' | head -n 1)
flags=$(awk '/^flags/ { print $2 }' "/proc/$(cowbackd_pid)/fdinfo/$image_fd")
# O_DIRECT of asm-generic/fcntl.h
[ $((flags & 040000)) != 0 ] || fail "the image is not open past the page cache (flags $flags): this would prove nothing"
took_over() {
    journalctl --unit cowbackd --boot --since "@$begun" --output cat | grep -cE 'executing [0-9]+ requests again .*/51728' || true
}
half_met() { [ "$(took_over)" -ge 3 ]; }
begun=$(date +%s)
for round in $(seq 6); do
    eventually 60 "requests under way before kill $round" in_flight
    kill_cowbackd
done
eventually 60 "requests under way at half of the kills" half_met

step "the guest has read and written what it should"
end_load vm
shutdown_guest vm
assert_image_clean "$slow/data.cow"
eventually 30 "giving up the slow storage" give_up_storage
