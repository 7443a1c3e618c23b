# shellcheck shell=bash
# The memory disk that all images are on, so that what is compared is software. Sourced by story.sh.

ram=/ram
disk_mib=128

make_ram_disk() {
    modprobe brd rd_nr=1 rd_size=$((640 << 10))
    # All of it is allocated before, so that no one pays for it.
    dd if=/dev/zero of=/dev/ram0 bs=1M oflag=direct status=none 2> /dev/null || true
    mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0,nodiscard -m 0 /dev/ram0
    mkdir -p "$ram"
    mount -o noatime /dev/ram0 "$ram"
    # What overlays are over: a disk full of data.
    head -c ${disk_mib}M /dev/urandom > "$ram/base.img"
    truncate -s 1M "$ram/placeholder.img"
    sync
}
