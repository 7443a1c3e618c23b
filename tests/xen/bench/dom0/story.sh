# shellcheck shell=bash
# The measurements. Run in dom0 by dom0/case.

. /share/bench/settings
. /share/bench/ramdisk.sh
. /share/bench/backends.sh
. /share/bench/work.sh
. /share/bench/facts.sh
. /share/bench/measure.sh

step "make a RAM disk of 64 MiB disks"
make_ram_disk
modprobe -a loop xen-blkback dm-snapshot

for vcpus in 1 2; do
    rounds=rounds_$vcpus
    [ "${!rounds}" != 0 ] || continue
    step "start a guest with $vcpus vcpus"
    start_bench_guest "$vcpus"
    [ -e /share/out/dom0.json ] || record_dom0
    watch_replies
    for ((round = 1; round <= ${!rounds}; round++)); do
        step "round $round of ${!rounds} with $vcpus vcpus"
        measure_round "$vcpus" "$round"
    done
    exec {replies}<&-
    destroy_guest bench
done
