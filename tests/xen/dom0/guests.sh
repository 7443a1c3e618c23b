# shellcheck shell=bash
# Guests: start, stop, run commands in them. Sourced by lib.sh.

# `xl` takes backendtype=tap since Xen 4.19. Before, and without it, what has a script is a device of the class vbd.
device_class=vbd3 backend_type=backendtype=tap,
[ "$(cat /sys/hypervisor/version/minor)" -ge 19 ] || device_class=vbd backend_type=

# disk VDEV TARGET: prints the disk specification of a target.
disk() { printf 'vdev=%s,%sscript=block-cow,format=raw,target=%s\n' "$1" "$backend_type" "$2"; }

# overlay VDEV IMAGE [BASE]: prints the disk specification of an overlay.
overlay() {
    local target=$2
    [ -z "${3:-}" ] || target=dscow:$2:$3
    disk "$1" "$target"
}

# create_guest NAME DISK...: starts a guest whose system is on its xvda, with agent. `xl`'s output goes to $state_dir/NAME.xl.
# $guest_type says what it is (pv, the default, pvh or hvm), $guest_vcpus and $guest_memory_mib how large, and $guest_system what it
# starts: `small`, the default, nothing but the agent; `full`, all of Debian.
create_guest() {
    create_guest_config "$@"
    start_guest "$1"
}

# create_guest_config NAME DISK...: writes its configuration, $state_dir/NAME.cfg, and starts nothing.
create_guest_config() {
    local name=$1 disk disks=
    shift
    for disk in "$@"; do disks+="'$disk', "; done
    cat > "$state_dir/$name.cfg" <<CONFIG
name = '$name'
type = '${guest_type:-pv}'
$(guest_boot "$name")
memory = ${guest_memory_mib:-256}
vcpus = ${guest_vcpus:-1}
on_reboot = 'restart'
on_crash = 'destroy'
disk = [ ${disks%, } ]
CONFIG
}

# guest_boot NAME: prints the lines of a configuration that say how the guest boots. The kernels of PV and PVH guests are in dom0;
# what an HVM guest boots is on its disk, and its firmware and boot loader write to a serial port.
guest_boot() {
    case ${guest_type:-pv} in
        hvm) printf '%s\n' "boot = 'c'" "vga = 'none'" 'vnc = 0' 'usb = 0' "serial = 'file:/var/log/xen/console/serial-$1.log'" ;;
        *)
            local extra=$guest_args
            [ "${guest_system:-small}" = full ] || extra+=' init=/usr/local/sbin/small-init'
            printf '%s\n' "kernel = '/opt/guest/vmlinux'" "ramdisk = '/opt/guest/initrd'" "extra = '$extra'"
            ;;
    esac
}

# start_guest NAME: starts a guest whose configuration is there.
start_guest() {
    local name=$1
    if ! xl create "$state_dir/$name.cfg" > "$state_dir/$name.xl" 2>&1; then
        cat "$state_dir/$name.xl"
        return 1
    fi
}

# domid NAME: the guest's number; fails if there is none of this name. `xl` takes long to start, so what it has said once
# is only looked at again.
declare -A domids
domid() {
    local id=${domids[$1]:-}
    if [ -n "$id" ] && [ "$(xenstore-read "/local/domain/$id/name" 2> /dev/null)" = "$1" ]; then
        echo "$id"
    else
        xl domid "$1" 2> /dev/null
    fi
}

guest_is_up() {
    local id
    id=$(domid "$1") && [ "$(xenstore-read "/local/domain/$id/data/state" 2> /dev/null)" = up ]
}

guest_is_there() { xl domid "$1" > /dev/null 2>&1; }

# guest_is_another NAME DOMID: there is a guest of this name, and its number is another one.
guest_is_another() {
    local id
    id=$(xl domid "$1" 2> /dev/null) && [ "$id" != "$2" ]
}

guest_is_gone() { ! guest_is_there "$1"; }

# wait_up NAME [SECONDS]: waits until the guest's agent listens; in a full system, after multi-user.target.
wait_up() {
    local what="guest $1 to be up (its console: /var/log/xen/console/guest-$1.log)"
    guest_is_there "$1" || eventually_at @introduceDomain "${2:-240}" "$what" guest_is_there "$1"
    domids[$1]=$(xl domid "$1")
    eventually_at "/local/domain/${domids[$1]}/data/state" "${2:-240}" "$what" guest_is_up "$1"
}

# wait_rebooted NAME DOMID [SECONDS]: waits until the guest has another number than DOMID, and is up.
wait_rebooted() {
    eventually_at @introduceDomain "${3:-240}" "reboot of guest $1" guest_is_another "$1" "$2"
    wait_up "$1" "${3:-240}"
}

# guest_run NAME COMMAND [SECONDS]: runs COMMAND in the guest with bash; prints its output (of a long one, the end), returns
# its exit code.
guest_run() {
    local name=$1 command=$2 deadline=$((SECONDS + ${3:-180})) id path sequence reply exit_code pieces piece nodes=()
    local events watcher
    id=$(domid "$name") || fail "guest $name is not running"
    path=/local/domain/$id/data
    sequence=$SECONDS-$RANDOM$RANDOM
    printf '%s$ %s\n' "$name" "$command" >&2
    begin_watch "$path/reply"
    xenstore-write -R "$path/command" "$sequence $command"
    until next_event && reply=$(xenstore-read "$path/reply" 2> /dev/null) && [ "${reply%% *}" = "$sequence" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "guest $name did not answer to: $command"
    done
    end_watch
    read -r _ exit_code pieces <<< "$reply"
    for ((piece = 0; piece < pieces; piece++)); do nodes+=("$path/output/$piece"); done
    [ "$pieces" = 0 ] || { xenstore-read -R "${nodes[@]}"; echo; }
    return "$exit_code"
}

# guest_start NAME COMMAND: starts COMMAND in the guest, in the background, with its output in /run/background.log there.
guest_start() {
    guest_run "$1" "( ( $2 ) > /run/background.log 2>&1; echo ended with \$? >> /run/background.log ) &"
}

# end_load NAME: ends the load that guest_start started and that goes on until there is /run/enough. Nothing of it may have failed.
end_load() {
    guest_run "$1" 'touch /run/enough'
    eventually 300 "end of the load of guest $1" guest_run "$1" 'grep ended /run/background.log'
    guest_run "$1" 'cat /run/background.log; grep -q "ended with 0" /run/background.log'
    assert_no_disk_errors "$1"
}

# assert_no_disk_errors NAME: the guest's kernel has told of no error of a disk or of a file system.
assert_no_disk_errors() {
    local errors
    # In an argument, or with `local`, it would not count that the guest does not answer.
    errors=$(guest_run "$1" 'dmesg | grep -iE "I/O error|blk_update|EXT4-fs error|Buffer I/O" || true') ||
        fail "no log of guest $1's kernel"
    assert_eq "" "$errors" "errors in the log of guest $1's kernel"
}

# shutdown_guest NAME: an orderly shutdown, asked for from dom0.
shutdown_guest() {
    xl shutdown "$1"
    eventually_at @releaseDomain 180 "shutdown of guest $1" guest_is_gone "$1"
}

destroy_guest() {
    xl destroy "$1"
    eventually 60 "destruction of guest $1" guest_is_gone "$1"
}

# xl_fails WHAT COMMAND...: runs an xl command that has to fail, leaves its output in $xl_output.
xl_fails() {
    local what=$1
    shift
    if xl_output=$("$@" 2>&1); then
        fail "$what: '$*' succeeded, but must not"
    fi
    printf '%s\n' "$xl_output"
}

# attach_to_dom0 VDEV TARGET [ACCESS]: dom0 attaches a disk to itself, as /dev/VDEV.
attach_to_dom0() {
    modprobe xen-blkfront
    xl block-attach 0 "access=${3:-rw},$(disk "$1" "$2")"
    eventually 60 "$1 in dom0" test -b "/dev/$1"
}

# detach_from_dom0 VDEV
detach_from_dom0() {
    # A probe of udev's that meets the end of the disk would leave an error in the kernel's log.
    udevadm settle --timeout=30
    xl block-detach 0 "$1"
    eventually 60 "$1 gone from dom0" test ! -e "/dev/$1"
}
