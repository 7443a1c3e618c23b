# fio verifies what it wrote, in many block sizes with fsyncs, on a file system and on a raw disk
# shellcheck shell=bash

# Sizes are small: an emulated machine does some hundreds of I/Os a second.
mixed='--rw=randwrite --bssplit=512/20:1536/10:4k/30:12k/15:32k/15:256k/10 --blockalign=512 --fsync=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --do_verify=1 --ioengine=libaio --direct=1 --iodepth=16 --norandommap=0 --randrepeat=0 --minimal'

cowback create "$work/data.cow" --size 64M
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")" "$(overlay xvdb "$work/data.cow")"
wait_up vm

step "on the raw second disk"
assert_eq $((64 << 20)) "$(guest_run vm 'blockdev --getsize64 /dev/xvdb')" "size of the second disk"
guest_run vm "fio --name=raw --filename=/dev/xvdb --size=24M $mixed > /run/raw.fio && echo verified" 300

step "in a file on the root file system, which is on the base"
guest_run vm "fio --name=file --filename=/srv/fio --size=16M $mixed > /run/file.fio && echo verified" 300

step "buffered, then read back from the disk"
guest_run vm "fio --name=buffered --filename=/srv/buffered --size=8M --rw=randrw --bsrange=4k-64k --verify=crc32c --verify_fatal=1 --verify_state_save=0 --fsync=8 --ioengine=psync --minimal > /run/buffered.fio && echo verified" 300
guest_run vm 'sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum /srv/fio /srv/buffered > /srv/sums; echo 3 > /proc/sys/vm/drop_caches; sha256sum --check /srv/sums'

step "no error was seen anywhere"
assert_no_disk_errors vm
shutdown_guest vm
assert_image_clean "$work/vm.cow"
assert_image_clean "$work/data.cow"
