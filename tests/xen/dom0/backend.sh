# shellcheck shell=bash
# The backend seen from outside: its nodes in xenstore, and what its process holds. Sourced by lib.sh.

# backend_path NAME VDEV-NUMBER (51712 = xvda, 51728 = xvdb)
backend_path() { printf '/local/domain/0/backend/vbd3/%s/%s\n' "$(domid "$1")" "$2"; }

# node PATH: the value of a xenstore node, empty if there is none.
node() { xenstore-read "$1" 2> /dev/null || true; }

node_is() { [ "$(node "$1")" = "$2" ]; }

cowbackd_pid() { systemctl show -p MainPID --value cowbackd.service; }

# held_resources: what cowbackd, Xen and xenstore hold for guests, in a form that can be compared.
held_resources() {
    local pid
    pid=$(cowbackd_pid)
    echo "descriptors of cowbackd:"
    # By kind: numbers of sockets and pipes differ between two equal situations.
    find "/proc/$pid/fd" -type l -printf '%l\n' | sed 's/\[[0-9]*\]/[]/' | sort | uniq -c
    echo "grant mappings of cowbackd: $(grep -c gntdev "/proc/$pid/maps" || true)"
    echo "interdomain event channels of dom0: $(/usr/lib/xen-4.20/bin/lsevtchn 0 | grep -ci interdomain || true)"
    echo "backend nodes:"
    xenstore-ls -f /local/domain/0/backend 2> /dev/null | grep -E '/vbd3?/[0-9]+/' | cut -d = -f 1 || true
    echo "devices of cowbackd: $(cowback list --json | jq -c 'if type == "array" then length else . end')"
    echo "run state:"
    find /run/cowback -mindepth 1 | sort
}

resources_are() {
    held_resources > "$state_dir/resources.now"
    cmp -s "$1" "$state_dir/resources.now"
}

# assert_resources FILE: waits until what is held is again what `held_resources > FILE` has recorded.
assert_resources() {
    local deadline=$(($(uptime_s) + 30))
    until resources_are "$1"; do
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
