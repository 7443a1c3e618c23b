# PV guests boot the kernel that is on their disk: by pygrub, which dom0 runs, and by PV-GRUB, a guest of its own kind
# shellcheck shell=bash

mount_point=$state_dir/mounted
mkdir "$mount_point"

step "put a kernel on the disk, from dom0"
attach_to_dom0 xvdf "dscow:$work/vm.cow:$base"
mount /dev/xvdf "$mount_point"
mkdir -p "$mount_point/boot/grub"
cp /opt/guest/vmlinux /opt/guest/initrd "$mount_point/boot/"
cat > "$mount_point/boot/grub/grub.cfg" <<CONFIG
set default=0
set timeout=0
menuentry 'guest' {
    linux /boot/vmlinux $guest_args booted=from-disk
    initrd /boot/initrd
}
CONFIG
umount "$mount_point"
detach_from_dom0 xvdf

# boot_from_disk SETTING: the guest's configuration says this instead of naming a kernel.
boot_from_disk() {
    create_guest_config vm "$(overlay xvda "$work/vm.cow")"
    sed -i -E '/^(kernel|ramdisk|extra) /d' "$state_dir/vm.cfg"
    echo "$1" >> "$state_dir/vm.cfg"
    start_guest vm
    wait_up vm
    assert_contains "$(guest_run vm 'cat /proc/cmdline')" booted=from-disk "command line of the guest's kernel"
    assert_no_disk_errors vm
    shutdown_guest vm
    assert_image_clean "$work/vm.cow"
}

step "pygrub"
boot_from_disk "bootloader = 'pygrub'"
assert_eq "" "$(xl block-list 0 2> /dev/null | tail -n +2)" "disks that dom0 still has"

step "PV-GRUB"
boot_from_disk "kernel = '/usr/lib/grub-xen/grub-x86_64-xen.bin'"
