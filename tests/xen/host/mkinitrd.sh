#!/bin/bash
# mkinitrd.sh ROOT OUT MODULE...: writes an uncompressed initrd to OUT that loads the modules (and what they depend on)
# from the Debian tree at ROOT, mounts the root= of the kernel command line and switches to its init=, or /sbin/init.
# Debian's own initrd does the same in 40 MB and several emulated seconds.
set -euo pipefail
root=$1 out=$2
shift 2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{bin,lib,proc,sys,dev,mnt}
cp "$root/bin/busybox" "$work/bin/busybox"

version=$(basename "$(echo "$root"/lib/modules/*)")
for module in "$@"; do
    modprobe -d "$root" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' > "$work/paths"
while read -r path; do
    name=$(basename "$path" .xz)
    case $path in
        *.xz) xz -dc "$path" > "$work/lib/$name" ;;
        *) cp "$path" "$work/lib/$name" ;;
    esac
    echo "$name" >> "$work/lib/order"
done < "$work/paths"
rm "$work/paths"

cat > "$work/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
# parameters MODULE: what the kernel command line sets for it, as modprobe would: xen_blkfront.max_ring_page_order=2
parameters() {
    for word in $($b cat /proc/cmdline); do
        case $word in "$1".*) echo "${word#*.}" ;; esac
    done
}
while read -r module; do
    $b insmod "/lib/$module" $(parameters "$(echo "${module%.ko}" | $b tr - _)")
done < /lib/order
root= init=/sbin/init
for word in $($b cat /proc/cmdline); do
    case $word in
        root=*) root=${word#root=} ;;
        init=*) init=${word#init=} ;;
    esac
done
tries=0
while [ ! -b "$root" ] && [ $tries -lt 600 ]; do $b sleep 0.1; tries=$((tries + 1)); done
if ! $b mount -t ext4 -o rw,noatime "$root" /mnt; then
    echo "initrd: cannot mount $root" > /dev/console
    $b poweroff -f
fi
$b umount /proc /sys
$b mount -o move /dev /mnt/dev
exec $b switch_root /mnt "$init"
INIT
chmod +x "$work/init"
(cd "$work" && find . -mindepth 1 | cpio -o -H newc --quiet) > "$out"
