#!/bin/bash
# build-guest.sh MIRROR OUTDIR: debian.img, the raw base image that every guest's overlay is on: a small Debian with
# systemd, fio, the agent, and the two programs of guests that have nothing else. Needs root.
set -euo pipefail
mirror=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
. "$here/trim.sh"

root=$out/root
mkdir "$root"
# Nothing is to survive a power failure here: dpkg need not wait for the disk.
mmdebstrap --variant=minbase --include=systemd-sysv,udev,kmod,procps,fio,e2fsprogs,xenstore-utils,busybox-static \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    trixie "$root" "$mirror"

# The initrd has mounted the root, and there is nothing else.
: > "$root/etc/fstab"
echo guest > "$root/etc/hostname"
# Empty, not absent: each guest makes its own id, without the "first boot" run of systemd.
: > "$root/etc/machine-id"
units=$root/etc/systemd/system
install -m 755 -t "$root/usr/local/sbin" "$here"/../guest/{agent,small-init,small-poweroff}
install -m 644 "$here/../guest/agent.service" "$units/agent.service"
ln -s ../agent.service "$units/multi-user.target.wants/agent.service"
trim "$root"

# No lazy initialisation: the guest's kernel would otherwise write the tables into every overlay.
truncate -s 1G "$out/debian.img"
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 -N 32768 -J size=16 -d "$root" "$out/debian.img"
rm -rf "$root"
sha256sum < "$out/debian.img" | cut -d ' ' -f 1 > "$out/debian.img.sha256"
