#!/bin/bash
# bootdisk.sh VMLINUZ INITRD OUT: the beginning of a disk that a PC boots from, as that of an HVM guest must be: boot sector, table
# of partitions, and a partition of FAT with boot loader, kernel and initrd. The second partition is to follow at once: 1 GiB,
# a file system of the guests' base image. Nothing is mounted.
set -euo pipefail
kernel=$1 initrd=$2 out=$3
boot_mib=64 system_mib=1024
arguments='root=/dev/xvda2 rw console=hvc0 quiet loglevel=5 mitigations=off systemd.show_status=no'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
boot=$work/boot.img
truncate -s "${boot_mib}M" "$boot"
# The boot loader finds itself by the number of sectors before its partition.
mkfs.vfat -h 2048 "$boot" > /dev/null
cat > "$work/syslinux.cfg" <<CONFIG
serial 0 115200
say the boot loader runs
default linux
label linux
    kernel vmlinuz
    append initrd=initrd $arguments
CONFIG
# Firmware reads slowly.
gzip -1 < "$initrd" > "$work/initrd"
mcopy -i "$boot" "$kernel" ::vmlinuz
mcopy -i "$boot" "$work/initrd" ::initrd
mcopy -i "$boot" "$work/syslinux.cfg" ::syslinux.cfg
syslinux --install "$boot"

truncate -s "$((1 + boot_mib + system_mib))M" "$out"
sfdisk --quiet "$out" <<PARTITIONS
label: dos
start=1MiB, size=${boot_mib}MiB, type=c, bootable
start=$((1 + boot_mib))MiB, size=${system_mib}MiB, type=83
PARTITIONS
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$out" bs=440 count=1 conv=notrunc status=none
dd if="$boot" of="$out" bs=1M seek=1 conv=notrunc,sparse status=none
truncate -s "$((1 + boot_mib))M" "$out"
