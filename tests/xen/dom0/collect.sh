# shellcheck shell=bash
# Evidence, and the way back to a clean dom0. Sourced by the runners.

. "$(dirname "${BASH_SOURCE[0]}")/complaints.sh"

# kernel_complaints: the first warnings and errors of its own that dom0's kernel has logged since the last `collect`; fails if
# there is none.
kernel_complaints() { dmesg | grep -m 5 -E "$complaint_pattern"; }

# question_guests: has the kernels of guests that still run say on their consoles which tasks wait, and for what.
question_guests() {
    local id
    for id in $(timeout 20 xl list | awk 'NR > 1 && $2 != 0 { print $2 }'); do
        # All of it, and not only what is urgent, is to reach the console.
        timeout 20 xl sysrq "$id" 9
        timeout 20 xl sysrq "$id" w
    done
    sleep 2
}

# collect DIR: copies the logs of what has happened since the previous call into DIR.
collect() {
    local dir=$1 log
    mkdir -p "$dir/xen"
    timeout 20 xenstore-ls -f > "$dir/xenstore-ls" 2>&1
    timeout 20 xl list > "$dir/xl-list" 2>&1
    timeout 20 xl dmesg -c > "$dir/xl-dmesg" 2>&1
    dmesg -c > "$dir/dmesg" 2>&1
    journalctl --no-pager -o short-monotonic -u cowbackd.service --since "@${collected_at:-0}" > "$dir/cowbackd.log" 2>&1
    collected_at=$(date +%s)
    timeout 20 cowback list --json > "$dir/cowback-list.json" 2>&1
    for log in /var/log/xen/*.log /var/log/xen/console/*.log; do
        [ -s "$log" ] && cp "$log" "$dir/xen/" && : > "$log"
    done
    if [ -d "/run/cases/$(basename "$dir")" ]; then cp "/run/cases/$(basename "$dir")"/* "$dir/" 2> /dev/null; fi
    return 0
}

# failure_in_short DIR: why the case failed whose evidence is there: what its disks were doing, and the ends of the logs of its
# guests' consoles, of Xen, of the daemon, and of its own, last, since of a long output the end is kept.
failure_in_short() {
    local log guest
    echo "FAILED: $(basename "$1")"
    grep -E '"(device|connected|in_flight|reads|writes|waiting_for_space)":' "$1/cowback-list.json" | paste -sd ' ' |
        sed 's/"connected"/\n&/2g' | tr -d ',"' | tr -s ' ' | in_short disk 8
    for log in "$1"/xen/guest-*.log; do
        guest=$(basename "$log" .log)
        [ ! -e "$log" ] || in_short "$guest" 12 < "$log"
    done
    in_short xen 6 < "$1/xl-dmesg"
    in_short cowbackd 3 < "$1/cowbackd.log"
    in_short log 6 < "$1/log"
}

# in_short NAME LINES: the last lines of stdin.
in_short() { tail -n "$2" | tr -d '\r' | cut -c -130 | sed "s/^/    $1 | /"; }

# clean_up CASE: no guests, no images of the case, a running daemon without settings of its own.
clean_up() {
    local id
    for id in $(timeout 20 xl list 2> /dev/null | awk 'NR > 1 && $2 != 0 { print $2 }'); do
        timeout 60 xl destroy "$id" > /dev/null 2>&1
    done
    umount "/images/$1"/*/ 2> /dev/null
    chattr -R -i "/images/$1" 2> /dev/null
    rm -rf "/images/${1:?}" "/run/cases/${1:?}"
    ! rm /etc/cowback/cowbackd.toml 2> /dev/null || systemctl restart cowbackd.service
    [ -e /share/control ] || systemctl is-active --quiet cowbackd.service || systemctl restart cowbackd.service
    return 0
}
