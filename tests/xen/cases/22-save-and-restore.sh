# A guest with several disks is paused, renamed, saved and restored; a read-only disk is shared by two guests
# shellcheck shell=bash

step "a guest with three disks, one of them shared with another guest"
cowback create "$work/data.cow" --size 32M
cowback create "$work/shared.cow" --size 16M
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")" "$(overlay xvdb "$work/data.cow")" \
    "access=ro,$(overlay xvdc "$work/shared.cow")"
wait_up vm
create_guest other "$(overlay xvda "$work/other.cow" "$base")" "access=ro,$(overlay xvdb "$work/shared.cow")"
wait_up other
assert_eq 3 "$(xl block-list vm | grep -c "/$device_class/")" "lines of xl block-list"
guest_run other 'cmp -n 16777216 /dev/zero /dev/xvdb'
guest_run vm 'cmp -n 16777216 /dev/zero /dev/xvdc'
shutdown_guest other

step "pause, unpause, rename, under load"
guest_run vm 'dd if=/dev/urandom of=/srv/kept bs=64k count=16 conv=fsync status=none; sha256sum /srv/kept' > "$state_dir/sum"
guest_start vm 'until [ -e /run/enough ]; do fio --name=load --filename=/srv/load --size=4M --rw=randwrite --bssplit=512/20:4k/50:64k/30 --blockalign=512 --fsync=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --ioengine=libaio --direct=1 --iodepth=8 --minimal || exit; done'
eventually 60 "load in the guest" guest_run vm 'test -s /srv/load'
xl pause vm
xl unpause vm
xl rename vm renamed
guest_run renamed 'echo 3 > /proc/sys/vm/drop_caches; sha256sum /srv/kept' | cmp - "$state_dir/sum"
xl rename renamed vm

step "save, under load"
id=$(domid vm)
xl save vm "$work/vm.save"
eventually 60 "the saved guest is gone" guest_is_gone vm
for image in vm data; do assert_image_clean "$work/$image.cow"; done

step "restore"
xl restore "$work/vm.save"
[ "$(domid vm)" != "$id" ] || fail "the restored guest has its old number"
guest_run vm 'echo 3 > /proc/sys/vm/drop_caches; sha256sum /srv/kept' | cmp - "$state_dir/sum"
end_load vm
guest_run vm 'dd if=/dev/urandom of=/dev/xvdb bs=64k count=16 oflag=direct status=none'
shutdown_guest vm
for image in vm data shared; do assert_image_clean "$work/$image.cow"; done
