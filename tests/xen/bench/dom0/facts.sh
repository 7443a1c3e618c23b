# shellcheck shell=bash
# What is measured, and how it does its I/O. Sourced by story.sh.

# record_dom0: the versions of everything.
record_dom0() {
    jq -n --arg xen "$(xl info | awk '/^xen_version/ { print $3 }')" --arg kernel "$(uname -r)" \
        --arg qemu "$(qemu-img --version | awk 'NR == 1 { print $3 }')" \
        --arg fio "$(guest_run bench 'fio --version')" \
        '{xen: $xen, kernel: $kernel, qemu: $qemu, fio: $fio}' > /share/out/dom0.json
}

# record_files: who has which of the images open, and whether past the page cache, as the kernel says.
record_files() {
    local process descriptor file flags loop
    for process in /proc/[0-9]*; do
        for descriptor in "$process"/fd/*; do
            file=$(readlink "$descriptor") || continue
            case $file in "$ram"/*) ;; *) continue ;; esac
            flags=$(awk '/^flags:/ { print $2 }' "$process/fdinfo/${descriptor##*/}")
            record_file "$(cat "$process/comm")" "$file" $((8#$flags & 8#40000))
        done
    done
    for loop in /sys/block/loop*/loop; do
        [ -d "$loop" ] || continue
        file=$(cat "$loop/backing_file")
        case $file in "$ram"/*) record_file loop "$file" "$(cat "$loop/dio")" ;; esac
    done
}

record_file() {
    jq -nc --arg who "$1" --arg file "${2##*/}" --argjson direct "$([ "$3" = 0 ] && echo false || echo true)" \
        '{who: $who, file: $file, direct: $direct}' >> /share/out/files.jsonl
}
