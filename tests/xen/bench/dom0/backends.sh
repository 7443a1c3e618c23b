# shellcheck shell=bash
# Who is measured. Sourced by story.sh.
#
# Each contender NAME has make_NAME, which makes a new disk and sets $spec to what `xl block-attach` is given beside
# its vdev, and drop_NAME, which takes it away. cowbackd goes past dom0's page cache with overlays, and so do the loop devices here
# (--direct-io=on). QEMU goes through it: xl's direct-io-safe makes it ask for Linux's native AIO, which Debian's build has not.

contenders=(cowback blkback qdisk qcow2 snapshot)
declare -A vdev=([cowback]=xvdb [blkback]=xvdc [qdisk]=xvdd [qcow2]=xvde [snapshot]=xvdf)

direct_loop() { losetup --find --show --direct-io=on "$@"; }

make_cowback() {
    cowback create "$ram/cowback.cow" --base "$ram/base.img" > /dev/null
    spec=backendtype=tap,script=block-cow,format=raw,target=$ram/cowback.cow
}
drop_cowback() {
    cowback check "$ram/cowback.cow" > /dev/null
    rm "$ram/cowback.cow"
}

make_blkback() {
    truncate -s "${disk_mib}M" "$ram/blkback.img"
    blkback_loop=$(direct_loop "$ram/blkback.img")
    spec=backendtype=phy,format=raw,target=$blkback_loop
}
drop_blkback() {
    losetup -d "$blkback_loop"
    rm "$ram/blkback.img"
}

make_qdisk() {
    truncate -s "${disk_mib}M" "$ram/qdisk.img"
    spec=backendtype=qdisk,format=raw,target=$ram/qdisk.img
}
drop_qdisk() { rm "$ram/qdisk.img"; }

make_qcow2() {
    qemu-img create -q -f qcow2 -b "$ram/base.img" -F raw "$ram/data.qcow2"
    spec=backendtype=qdisk,format=qcow2,target=$ram/data.qcow2
}
drop_qcow2() { rm "$ram/data.qcow2"; }

make_snapshot() {
    truncate -s $((disk_mib + 32))M "$ram/snapshot.cow"
    snapshot_origin=$(direct_loop --read-only "$ram/base.img")
    snapshot_cow=$(direct_loop "$ram/snapshot.cow")
    dmsetup create bench --table "0 $((disk_mib * 2048)) snapshot $snapshot_origin $snapshot_cow P 8"
    spec=backendtype=phy,format=raw,target=/dev/mapper/bench
}
drop_snapshot() {
    dmsetup remove --retry bench
    losetup -d "$snapshot_origin" "$snapshot_cow"
    rm "$ram/snapshot.cow"
}

has_disk() { guest_run bench "test -b /dev/$1"; }
has_no_disk() { ! guest_run bench "test -e /dev/$1"; }
no_backend() { ! xenstore-ls -f /local/domain/0/backend | grep -qF "/dev = \"$1\""; }

# attach NAME: a new disk of this contender, in the guest.
attach() {
    local name=$1 spec
    "make_$name"
    xl block-attach bench "vdev=${vdev[$name]},$spec"
    eventually 60 "${vdev[$name]} in the guest" has_disk "${vdev[$name]}"
}

# detach NAME
detach() {
    local name=$1
    xl block-detach bench "${vdev[$name]}"
    eventually 60 "${vdev[$name]} gone from the guest" has_no_disk "${vdev[$name]}"
    eventually 60 "${vdev[$name]} gone from xenstore" no_backend "${vdev[$name]}"
    "drop_$name"
}

# start_bench_guest VCPUS: a guest whose root is on blkback. The disk xvdz is there so that xl starts QEMU for the guest's qdisks.
start_bench_guest() {
    local attempt
    # xl gives QEMU ten seconds to come up, which is little when it has to be read from the disk.
    /usr/libexec/xen-qemu-system-i386 --version
    for attempt in 1 2 3; do
        ! guest_system=full guest_vcpus=$1 guest_memory_mib=384 create_guest bench \
            "vdev=xvda,backendtype=phy,format=raw,target=$base" \
            "vdev=xvdz,backendtype=qdisk,format=raw,target=$ram/placeholder.img" || break
        [ "$attempt" != 3 ] || fail "the guest could not be created"
        eventually 60 "the end of a guest that could not be created" guest_is_gone bench
    done
    wait_up bench
}
