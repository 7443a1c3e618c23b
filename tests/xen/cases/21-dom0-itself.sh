# dom0 attaches a disk to itself, mounts it, changes it, and gives it back
# shellcheck shell=bash

cowback create "$work/dom0.cow" --size 64M
mount_point=$state_dir/mounted
mkdir "$mount_point"

step "attach, make a file system, write"
attach_to_dom0 xvdf "$work/dom0.cow"
xl block-list 0
mkfs.ext4 -q /dev/xvdf
mount /dev/xvdf "$mount_point"
dd if=/dev/urandom of="$mount_point/data" bs=64k count=64 conv=fsync status=none
sha256sum < "$mount_point/data" > "$state_dir/sum"

step "the daemon is killed while the file system is mounted"
kill -9 "$(cowbackd_pid)"
dd if=/dev/urandom of="$mount_point/more" bs=64k count=16 conv=fsync status=none
umount "$mount_point"
detach_from_dom0 xvdf
assert_image_clean "$work/dom0.cow"

step "attach it again, read-only"
attach_to_dom0 xvdf "$work/dom0.cow" ro
mount -o ro,noload /dev/xvdf "$mount_point"
sha256sum < "$mount_point/data" | cmp - "$state_dir/sum"
umount "$mount_point"
detach_from_dom0 xvdf
# The device comes after the error, but for some of ext4's own words: "EXT4-fs (xvdf): I/O error while writing superblock".
errors=$(dmesg | grep -E '(I/O|EXT4-fs) error.*xvdf|xvdf.*I/O error' || true)
assert_eq "" "$errors" "errors in dom0's kernel log"
