# shellcheck shell=bash
# How often dom0 enters its kernel and Xen for a request: a pass of its own, since counting takes time. Sourced by story.sh.
#
# cowbackd's system calls are counted by the kernel (histograms in tracefs), dom0's hypercalls by Xen (its trace buffers). The
# hypercalls of the kernel's own backend are counted for comparison.

counts=/share/out/counts.jsonl
counted=(cowback blkback)
counted_works=(nothing first-write-1 rewrite-1 read-1 first-write-fsync-1 first-write-32 read-32 first-sequential-write
    sequential-read)
tracing=/sys/kernel/tracing
declare -A histograms=(
    [raw_syscalls/sys_enter]='hist:keys=common_pid,id.syscall:size=4096'
    [syscalls/sys_enter_ioctl]='hist:keys=common_pid,cmd.hex:size=4096'
    [io_uring/io_uring_queue_async_work]='hist:keys=common_pid:size=4096'
)

begin_counting() {
    local event
    for event in "${!histograms[@]}"; do echo "${histograms[$event]}" > "$tracing/events/$event/trigger"; done
    rm -f /run/trace
    # The classes TRC_SCHED, which says who runs where, and TRC_PV.
    xentrace -D -S 256 -e 0x0022f000 /run/trace 2> /run/xentrace.log &
    xentrace_pid=$!
    eventually 30 "records of Xen's trace" test -s /run/trace
}

# end_counting: leaves the histograms in /run/syscalls, /run/ioctls and /run/punts, and what Xen recorded in /run/trace.
end_counting() {
    local event
    kill -INT "$xentrace_pid"
    wait "$xentrace_pid" || true
    cat "$tracing/events/raw_syscalls/sys_enter/hist" > /run/syscalls
    cat "$tracing/events/syscalls/sys_enter_ioctl/hist" > /run/ioctls
    cat "$tracing/events/io_uring/io_uring_queue_async_work/hist" > /run/punts
    for event in "${!histograms[@]}"; do echo "!${histograms[$event]}" > "$tracing/events/$event/trigger"; done
}

# Each of these prints lines "NAME COUNT", several of the same name perhaps.

# system_calls: those of cowbackd's threads. An ioctl has the name of what it is for. `(to-kernel-worker)` is no call, but an
# operation that io_uring could not do at once and handed to a thread of the kernel.
system_calls() {
    local threads
    threads=" $(find "/proc/$(cowbackd_pid)/task" -mindepth 1 -maxdepth 1 -printf '%f ') "
    sed -n 's/^{ common_pid: *\([0-9]*\), id: *sys_\([a-z0-9_]*\) .*hitcount: *\([0-9]*\)$/\1 \2 \3/p' /run/syscalls |
        awk -v threads="$threads" 'index(threads, " " $1 " ") && $2 != "ioctl" { print $2, $3 }'
    sed -n 's/^{ common_pid: *\([0-9]*\), cmd: *\([0-9a-f]*\) .*hitcount: *\([0-9]*\)$/\1 \2 \3/p' /run/ioctls |
        awk -v threads="$threads" 'index(threads, " " $1 " ") { print ioctl_name(substr($2, length($2) - 3)), $3 }
            function ioctl_name(number) {
                if (number == "4700") return "map-grants"
                if (number == "4701") return "unmap-grants"
                if (number == "4708") return "copy-grants"
                if (number == "4504") return "notify"
                return "ioctl-" number
            }'
    sed -n 's/^{ common_pid: *\([0-9]*\) .*hitcount: *\([0-9]*\)$/\1 \2/p' /run/punts |
        awk -v threads="$threads" 'index(threads, " " $1 " ") { print "(to-kernel-worker)", $2 }'
}

# hypercalls: those of dom0. Of grants with what for.
hypercalls() {
    xenalyze --dump-all /run/trace 2> /run/xenalyze.log |
        sed -n 's/^.* d0v[0-9]* *hypercall *[0-9a-f]* (\([a-z0-9_]*\))/\1/p' |
        awk '{ print name(), 1 }
            function name() {
                if ($1 == "grant_table_op") return "grants:" $2
                return $1
            }'
}

# as_object: {"NAME": COUNT, ...} of such lines.
as_object() {
    awk '{ sum[$1] += $2 } END { for (name in sum) print name, sum[name] }' |
        jq -Rnc '[inputs | split(" ") | {key: .[0], value: (.[1] | tonumber)}] | from_entries'
}

# count_all: every work by cowbackd and by the kernel's backend.
count_all() {
    local name work
    mount -t tracefs tracefs "$tracing" 2> /dev/null || true
    for name in "${counted[@]}"; do
        attach "$name"
        work_on "$name" nothing 1
        for work in "${counted_works[@]}"; do
            begin_counting
            work_on "$name" "$work" 1
            end_counting
            printf '{"work":"%s","contender":"%s","fio":"%s","system_calls":%s,"hypercalls":%s}\n' "$work" "$name" \
                "$fio_line" "$(system_calls | as_object)" "$(hypercalls | as_object)" >> "$counts"
        done
        detach "$name"
    done
}
