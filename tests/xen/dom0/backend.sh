# shellcheck shell=bash
# The backend seen from outside: its nodes in xenstore, and what its process holds. Sourced by lib.sh.

# backend_path NAME VDEV-NUMBER (51712 = xvda, 51728 = xvdb)
backend_path() { printf '/local/domain/0/backend/%s/%s/%s\n' "$device_class" "$(domid "$1")" "$2"; }

# node PATH: the value of a xenstore node, empty if there is none.
node() { xenstore-read "$1" 2> /dev/null || true; }

node_is() { [ "$(node "$1")" = "$2" ]; }

# watch_state PATH: begins to record what becomes of a state, a line per event, in $state_dir/state-events; sets $watcher to the
# process. The first line is the watch's own event: what comes later is not missed.
watch_state() {
    xenstore-watch "$1" > "$state_dir/state-events" &
    watcher=$!
    eventually 30 "a watch of $1" test -s "$state_dir/state-events"
}

cowbackd_pid() { systemctl show -p MainPID --value cowbackd.service; }

# cowbackd_is_another PID: there is a daemon, and another one than this process.
cowbackd_is_another() {
    local pid
    pid=$(cowbackd_pid) && [ "${pid:-0}" != 0 ] && [ "$pid" != "$1" ]
}

# kill_cowbackd: as an error of its own, or the kernel for want of memory, would; waits until systemd has started the next one.
kill_cowbackd() {
    local before
    before=$(cowbackd_pid)
    [ "${before:-0}" != 0 ] || fail "there is no daemon to kill"
    kill -9 "$before"
    eventually 60 "the daemon after process $before" cowbackd_is_another "$before"
}

# set_cowbackd SETTING...: restarts the daemon with these settings only, a line each. After the case it is as before (`clean_up`).
set_cowbackd() {
    local file=/etc/cowback/cowbackd.toml
    mkdir -p "${file%/*}"
    printf '%s\n' "$@" > "$file"
    systemctl restart cowbackd.service
}

# held_resources [live]: what cowbackd, Xen and xenstore hold for guests, in a form that can be compared. `live`: there is a guest;
# without grant mappings, of which its disk may come to use more at any time.
held_resources() {
    local pid
    pid=$(cowbackd_pid)
    echo "descriptors of cowbackd:"
    # By kind: numbers of sockets and pipes differ between two equal situations.
    find "/proc/$pid/fd" -type l -printf '%l\n' | sed 's/\[[0-9]*\]/[]/' | sort | uniq -c
    [ "${1:-}" = live ] || echo "grant mappings of cowbackd: $(grep -c gntdev "/proc/$pid/maps" || true)"
    echo "devices of cowbackd: $(cowback list --json | jq -c 'if type == "array" then length else (.devices | length) end')"
    echo "run state:"
    find /run/cowback -mindepth 1 | sort
    held_in_xen
}

held_in_xen() {
    local program channels
    program=$(find /usr/lib/xen-*/bin/lsevtchn) || fail "there is no lsevtchn"
    channels=$("$program" 0) || fail "$program failed"
    # Those to dom0 itself are xenstored's.
    echo "event channels to guests: $(grep -i interdomain <<< "$channels" | grep -vc 'Remote Domain 0,' || true)"
    echo "backend nodes:"
    xenstore-ls -f /local/domain/0/backend 2> /dev/null | grep -E '/vbd3?/[0-9]+/' | cut -d = -f 1 || true
}

# record_resources FILE [live]: records what is held once it has stopped changing.
record_resources() {
    local file=$1 deadline=$(($(uptime_s) + 30))
    held_resources "${2:-}" > "$file"
    until sleep 2 && held_resources "${2:-}" > "$file.next" && cmp -s "$file" "$file.next"; do
        [ "$(uptime_s)" -lt "$deadline" ] || fail "what the backend holds keeps changing"
        mv "$file.next" "$file"
    done
    rm "$file.next"
    cat "$file"
    # A count that misses a guest's channels would miss what is left of them, too.
    [ "${2:-}" != live ] || grep -q '^event channels to guests: [1-9]' "$file" || fail "no event channel of the guest was counted"
}

# assert_resources FILE [live]: waits until what is held is again what record_resources has recorded.
assert_resources() {
    local deadline=$(($(uptime_s) + 30))
    until held_resources "${2:-}" > "$state_dir/resources.now" && cmp -s "$1" "$state_dir/resources.now"; do
        if [ "$(uptime_s)" -ge "$deadline" ]; then
            diff "$1" "$state_dir/resources.now" || true
            fail "what the backend holds has not returned to where it was (above: < before, > now)"
        fi
        sleep 0.5
    done
}

# allocated_bytes FILE: what it takes on disk.
allocated_bytes() { echo $(($(stat -c %b "$1") * $(stat -c %B "$1"))); }

# assert_image_clean IMAGE: `cowback check` finds nothing.
assert_image_clean() {
    local exit_code=0
    cowback check "$1" || exit_code=$?
    assert_eq 0 "$exit_code" "exit code of cowback check $1"
}
