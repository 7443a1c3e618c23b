#!/bin/bash
# build-dom0.sh MIRROR DEBIAN XEN [PACKAGE...] OUTDIR: the dom0 disk (dom0.img), what boots it (xen, vmlinuz, dom0-initrd) and what
# boots guests (guest-vmlinux, guest-initrd; also inside the disk under /opt/guest, with bootdisk.img for HVM guests). The packages
# named are in it too.
# Needs root.
#
# dom0 gets Xen's runtime libraries only. libxen-dev stays out on purpose: the product must not need it there.
set -euo pipefail
mirror=$1 debian=$2 xen=$3 out=${*: -1}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/trim.sh"

packages=(
    linux-image-amd64 "xen-hypervisor-$xen-amd64" "xen-utils-$xen" xenstore-utils
    systemd-sysv udev kmod procps e2fsprogs xfsprogs dmsetup busybox-static jq strace
    "${@:4:$#-4}"
)
root=$out/root
mkdir "$root"
# Nothing is to survive a power failure here: dpkg need not wait for the disk.
# shellcheck disable=SC2016 # $1 is for the hook
mmdebstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools"; echo "update_initramfs=no" > "$1/etc/initramfs-tools/update-initramfs.conf"' \
    --dpkgopt=force-confold \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/lib/modules/*/kernel/drivers/gpu/*' \
    --dpkgopt='path-exclude=/usr/lib/modules/*/kernel/drivers/media/*' \
    --dpkgopt='path-exclude=/usr/lib/modules/*/kernel/sound/*' \
    --dpkgopt='path-exclude=/usr/lib/modules/*/kernel/drivers/net/wireless/*' \
    "$debian" "$root" "$mirror"

echo '/dev/vdb /images ext4 defaults,noatime 0 0' > "$root/etc/fstab"
mkdir -p "$root/images" "$root/share" "$root/opt/guest"
echo dom0 > "$root/etc/hostname"
units=$root/etc/systemd/system
# Guest consoles are evidence: keep them.
mkdir -p "$root/var/log/xen/console"
echo 'XENCONSOLED_ARGS=--log=guest' >> "$root/etc/default/xen"
cat > "$units/harness.service" <<'UNIT'
[Unit]
Description=Run what the host shares
After=xen.service xendomains.service local-fs.target
Wants=xen.service
[Service]
Type=oneshot
ExecStart=/bin/mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /share
ExecStart=/bin/bash /share/dom0/start
TimeoutStartSec=infinity
UNIT
ln -s ../harness.service "$units/multi-user.target.wants/harness.service"

cp "$root"/boot/vmlinuz-* "$out/vmlinuz"
gzip -dc "$root/boot/xen-$xen-amd64.gz" > "$out/xen"
"$here/mkinitrd.sh" "$root" "$out/dom0-initrd" virtio_pci virtio_blk ext4
"$here/mkinitrd.sh" "$root" "$out/guest-initrd" xen-blkfront ext4
"$here/vmlinux.sh" "$out/vmlinuz" "$out/guest-vmlinux"
cp "$out/guest-vmlinux" "$root/opt/guest/vmlinux"
cp "$out/guest-initrd" "$root/opt/guest/initrd"
"$here/bootdisk.sh" "$out/vmlinuz" "$out/guest-initrd" "$root/opt/guest/bootdisk.img"
trim "$root"
# Older packages of Xen have scripts of System V instead of units.
[ -e "$root/usr/lib/systemd/system/xen.service" ] || rm "$root/etc/systemd/system-generators/systemd-sysv-generator"
rm -rf "${root:?}"/boot/*

truncate -s 4G "$out/dom0.img"
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 -N 131072 -d "$root" "$out/dom0.img"
rm -rf "$root"
