# shellcheck shell=bash
# One measurement. Sourced by story.sh.

samples=/share/out/samples.jsonl

coproc CPUTIME { exec /share/bench/cputime; }

# cpu_times: sets $dom0_ns and $guest_ns, the processor time that dom0 and the guest have had so far, by Xen's account. Starts
# no program.
cpu_times() {
    local times i
    echo >&"${CPUTIME[1]}"
    read -ra times <&"${CPUTIME[0]}"
    for ((i = 0; i < ${#times[@]}; i += 2)); do
        case ${times[i]} in
            0) dom0_ns=${times[i + 1]} ;;
            "$guest_id") guest_ns=${times[i + 1]} ;;
        esac
    done
}

# watch_replies: from now on a line can be read from $replies whenever the guest's agent has answered. Waiting for it costs
# nothing, where guest_run asks ten times a second.
watch_replies() {
    guest_id=$(domid bench)
    exec {replies}< <(exec xenstore-watch "/local/domain/$guest_id/data/reply")
    read -r -u "$replies"
}

# guest_fio ARGUMENTS: runs fio in the guest; sets $fio_line to what it printed, and $dom0_ns and $guest_ns to the
# processor time that passed meanwhile.
guest_fio() {
    local path=/local/domain/$guest_id/data sequence before_dom0 before_guest reply
    sequence=$(uptime_s)-$RANDOM$RANDOM
    # The guest takes longer to start fio than the account takes to read.
    xenstore-write "$path/command" "$sequence fio $1"
    cpu_times
    before_dom0=$dom0_ns before_guest=$guest_ns
    while :; do
        read -r -t 300 -u "$replies" || fail "the guest did not answer to: fio $1"
        cpu_times
        reply=$(xenstore-read "$path/reply")
        [ "${reply%% *}" != "$sequence" ] || break
    done
    dom0_ns=$((dom0_ns - before_dom0)) guest_ns=$((guest_ns - before_guest))
    fio_line=$(xenstore-read "$path/output/0")
    [ "$reply" = "$sequence 0 1" ] || fail "fio $1: $fio_line"
}

# work_on CONTENDER WORK VCPUS: does the work once.
work_on() {
    local arguments
    fio_arguments "$2" "$3"
    guest_fio "--filename=/dev/${vdev[$1]} $arguments"
}

# measure VCPUS ROUND WORK CONTENDER: the same, and keeps what was measured.
#
# What was written through dom0's page cache, QEMU's disks and what dom0 itself keeps, is written back before: half a minute later
# the kernel would do it, on the account of whoever is being measured then.
measure() {
    sync
    work_on "$4" "$3" "$1"
    printf '{"vcpus":%d,"round":%d,"work":"%s","contender":"%s","dom0_ns":%d,"guest_ns":%d,"fio":"%s"}\n' \
        "$1" "$2" "$3" "$4" "$dom0_ns" "$guest_ns" "$fio_line" >> "$samples"
}

# measure_round VCPUS ROUND: all works; each is done by all contenders one after the other, and each round begins with another.
measure_round() {
    local vcpus=$1 round=$2 name work turn
    for name in "${contenders[@]}"; do
        attach "$name"
        # The first one has to read fio.
        work_on "$name" nothing "$vcpus"
    done
    [ -s /share/out/files.jsonl ] || record_files
    for work in nothing "${works[@]}"; do
        for ((turn = 0; turn < ${#contenders[@]}; turn++)); do
            measure "$vcpus" "$round" "$work" "${contenders[(turn + round) % ${#contenders[@]}]}"
        done
    done
    for name in "${contenders[@]}"; do detach "$name"; done
}
