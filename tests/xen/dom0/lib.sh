# shellcheck shell=bash
# What a case can use. Sourced by dom0/case before the case itself; everything runs in dom0, as root.
#
# A case is a file that is run from top to bottom with `set -eEuo pipefail`: any command that fails, fails the case.
# $work is a folder of its own on /images, $state_dir one on tmpfs. Both go away afterwards, guests too.

base=/images/debian.img
guest_args='root=/dev/xvda rw console=hvc0 quiet loglevel=5 mitigations=off systemd.show_status=no sysrq_always_enabled'

# step TEXT: says on the host's terminal and in the case's log what comes next.
step() {
    printf '[%4d s]   %s\n' "$(uptime_s)" "$*" >> /share/out/progress
    printf '\n== %s (at %d s)\n' "$*" "$(uptime_s)"
}

uptime_s() {
    local uptime
    read -r uptime _ < /proc/uptime
    echo "${uptime%%.*}"
}

# control: this is the control run, without cowback.
control() { [ -e /share/control ]; }

fail() {
    printf 'FAIL: %s\n' "$*" >&2
    exit 1
}

assert_eq() {
    # assert_eq WANTED GOT WHAT
    [ "$1" = "$2" ] || fail "$3: wanted '$1', got '$2'"
}

assert_contains() {
    # assert_contains TEXT PART WHAT
    case $1 in *"$2"*) ;; *) fail "$3: '$2' is not in: $1" ;; esac
}

. "$(dirname "${BASH_SOURCE[0]}")/complaints.sh"
. "$(dirname "${BASH_SOURCE[0]}")/waiting.sh"
. "$(dirname "${BASH_SOURCE[0]}")/guests.sh"
. "$(dirname "${BASH_SOURCE[0]}")/backend.sh"
! control || . "$(dirname "${BASH_SOURCE[0]}")/control.sh"
