# shellcheck shell=bash
# The measurements. Run in dom0 by dom0/case.

. /share/bench/settings
. /share/bench/ramdisk.sh
. /share/bench/backends.sh
. /share/bench/work.sh
. /share/bench/facts.sh
. /share/bench/measure.sh
. /share/bench/count.sh

step "make a RAM disk"
make_ram_disk
modprobe -a loop xen-blkback dm-snapshot

# begin_bench_guest VCPUS
begin_bench_guest() {
    start_bench_guest "$1"
    watch_replies
    [ -e /share/out/dom0.json ] || record_dom0
}

stop_bench_guest() {
    exec {replies}<&-
    destroy_guest bench
}

case $phase in
    measure)
        for vcpus in 1 2; do
            rounds=rounds_$vcpus
            [ "${!rounds}" != 0 ] || continue
            step "start a guest with $vcpus vcpus"
            begin_bench_guest "$vcpus"
            for ((round = 1; round <= ${!rounds}; round++)); do
                step "round $round of ${!rounds} with $vcpus vcpus"
                measure_round "$vcpus" "$round"
            done
            stop_bench_guest
        done
        ;;
    count)
        step "start a guest to count system calls and hypercalls"
        begin_bench_guest 1
        count_all
        stop_bench_guest
        ;;
esac
