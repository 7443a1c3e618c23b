#!/bin/bash
# build-images.sh GUESTDIR OUTDIR: images.img, dom0's second disk, mounted there on /images. It holds the base image and
# the checksum that the base must still have at the end of a run. Needs root, to keep the files root's.
set -euo pipefail
guest=$1 out=$2
mkdir "$out/root"
ln "$guest/debian.img" "$guest/debian.img.sha256" "$out/root/"
truncate -s 8G "$out/images.img"
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 -N 32768 -m 0 -d "$out/root" "$out/images.img"
rm -r "$out/root"
