# The daemon is shut in as its unit says, and works: systemd's own score, and what it can and cannot reach
# shellcheck shell=bash

step "systemd's score of the unit"
systemd-analyze security --no-pager cowbackd.service | tee "$state_dir/security"
score=$(sed -n 's/^.*Overall exposure level for cowbackd.service: \([0-9.]*\).*/\1/p' "$state_dir/security")
awk -v score="$score" 'BEGIN { exit !(score != "" && score <= 2.5) }' || fail "exposure $score, and 2.5 at most is wanted"

step "what the daemon has"
status=/proc/$(cowbackd_pid)/status
# Bit 1 is CAP_DAC_OVERRIDE.
assert_eq 0000000000000002 "$(awk '/^CapBnd:/ { print $2 }' "$status")" "capabilities that it can have"
assert_eq 1 "$(awk '/^NoNewPrivs:/ { print $2 }' "$status")" "no new privileges"
assert_eq 2 "$(awk '/^Seccomp:/ { print $2 }' "$status")" "system calls are filtered"
inside() { nsenter -t "$(cowbackd_pid)" -m -n -- "$@"; }
assert_eq "lo" "$(inside tail -n +3 /proc/net/dev | cut -d : -f 1 | tr -d ' ')" "network devices"
! inside touch /usr/bin/new 2> /dev/null || fail "it can write to /usr"
! inside touch /etc/new 2> /dev/null || fail "it can write to /etc"
! inside touch /run/systemd/new 2> /dev/null || fail "it can write to systemd's own folder"
assert_eq "" "$(inside cat /etc/shadow 2> /dev/null || true)" "passwords that it can read"
assert_eq 755 "$(stat -c %a /run/cowback/disks)" "mode of the folder by which commands know who waits for a daemon"
! inside sh -c 'echo 1 > /proc/sys/kernel/sysrq' 2> /dev/null || fail "it can change the kernel's settings"
# The list of devices holds for whoever is in the unit's cgroup.
in_cgroup() {
    local cgroup
    cgroup=/sys/fs/cgroup$(cut -d : -f 3 "/proc/$(cowbackd_pid)/cgroup")
    bash -c 'echo $$ > "$1/cgroup.procs" && exec bash -c "$2"' - "$cgroup" "$1"
}
bash -c ': < /dev/mem'
in_cgroup ': < /dev/zero'
in_cgroup ': < /dev/xen/xenbus'
! in_cgroup ': < /dev/mem' || fail "it can open /dev/mem"

step "an image of somebody else's, on a file and on a device, beside blkback"
cowback create "$work/other.cow" --base "$base"
chown nobody "$work/other.cow"
chmod 600 "$work/other.cow"
modprobe loop
truncate -s 96M "$work/device"
device=$(losetup --find --show "$work/device")
cowback create "$device" --size 64M
create_guest vm "$(overlay xvda "$work/other.cow")"
wait_up vm
modprobe xen-blkback
xl block-attach vm "vdev=xvdb,script=block-cow,target=$device"
has_disk() { guest_run vm 'test -b /dev/xvdb'; }
eventually 60 "xvdb in the guest" has_disk
guest_run vm 'dd if=/dev/urandom of=/dev/xvdb bs=64k count=16 oflag=direct status=none'
xl block-detach vm xvdb
shutdown_guest vm
assert_image_clean "$work/other.cow"
assert_image_clean "$device"
losetup -d "$device"
