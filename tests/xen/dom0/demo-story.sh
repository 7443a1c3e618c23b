# shellcheck shell=bash
# Two guests boot from one base image, each writes, neither sees the other, the base stays as it was.
# Run by dom0/case, so any command that fails ends the demonstration.

guest_system=full
took() { echo $(($(uptime_s) - $1)); }
mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }

step "dom0 is up ($(xl info | awk '/^xen_version/ { print "Xen " $3 } /^release/ { print "Linux " $3 }' | paste -sd ' ')); install cowback"
control || bash /share/dom0/install > /share/out/install.log 2>&1

step "xl create alice, xl create bob: overlays on $base that do not exist yet"
grep_disk() { grep '^disk' "$state_dir/$1.cfg"; }
started=$(uptime_s)
create_guest alice "$(overlay xvda "$work/alice.cow" "$base")"
step "  $(grep_disk alice)"
create_guest bob "$(overlay xvda "$work/bob.cow" "$base")"
step "  $(grep_disk bob)"
wait_up alice
wait_up bob
boot_s=$(took "$started")
xl list
step "both guests are in multi-user, / on $(guest_run alice 'findmnt -n -o SOURCE /'), after $boot_s s"

step "each guest writes and syncs its own file"
started=$(uptime_s)
for name in alice bob; do
    guest_run "$name" "head -c 1000000 /dev/urandom > /srv/$name && sync && echo 3 > /proc/sys/vm/drop_caches"
    assert_eq "$name" "$(guest_run "$name" 'cd /srv && echo *')" "what guest $name sees in /srv"
done
write_s=$(took "$started")

step "alice reboots; its file is still there"
sum=$(guest_run alice 'sha256sum < /srv/alice')
id=$(domid alice)
started=$(uptime_s)
guest_run alice '(sleep 1; systemctl --no-block reboot) > /dev/null 2>&1 &'
wait_rebooted alice "$id"
reboot_s=$(took "$started")
assert_eq "$sum" "$(guest_run alice 'sha256sum < /srv/alice')" "checksum of alice's file"

step "a second disk comes and goes while bob runs"
cowback create "$work/data.cow" --size 32M
has_xvdb() { guest_run bob 'test -b /dev/xvdb'; }
has_no_xvdb() { ! guest_run bob 'test -e /dev/xvdb'; }
xl block-attach bob "$(overlay xvdb "$work/data.cow")"
eventually 60 "xvdb in bob" has_xvdb
guest_run bob 'echo hello | dd of=/dev/xvdb bs=512 conv=sync,fsync status=none'
xl block-detach bob xvdb
eventually 60 "xvdb gone from bob" has_no_xvdb

if ! control; then
    step "a base that is missing: xl says so, and no guest and no file is left"
    xl_fails "a missing base" create_guest carol "$(overlay xvda "$work/carol.cow" "$work/no-such.img")"
    step "  $(grep -o 'script: .*' <<< "$xl_output" | head -n 1)"
    guest_is_gone carol || fail "there is a guest carol"
    [ ! -e "$work/carol.cow" ] || fail "there is an overlay for carol"

    step "cowbackd is restarted; bob goes on"
    guest_run bob 'echo before > /srv/restart && sync'
    systemctl restart cowbackd.service
    guest_run bob 'echo after >> /srv/restart && sync && echo 3 > /proc/sys/vm/drop_caches && grep -c . /srv/restart'
fi

step "bob is destroyed in the middle of writing, and created again"
sum_bob=$(guest_run bob 'sha256sum < /srv/bob')
guest_start bob 'while :; do dd if=/dev/urandom of=/srv/load bs=64k count=64 conv=fsync status=none; done'
eventually 60 "load in bob" guest_run bob 'test -s /srv/load'
destroy_guest bob
start_guest bob
wait_up bob
assert_eq "$sum_bob" "$(guest_run bob 'sha256sum < /srv/bob')" "checksum of bob's file"

step "shut both down; check both overlays and the base"
started=$(uptime_s)
shutdown_guest alice
shutdown_guest bob
assert_image_clean "$work/alice.cow"
assert_image_clean "$work/bob.cow"
assert_eq "$(cat "$base.sha256")" "$(sha256sum < "$base" | cut -d ' ' -f 1)" "SHA-256 of $base"
check_s=$(took "$started")

cat >> /share/out/progress <<REPORT

$(control || cowback info "$work/alice.cow" | sed 's/^/  /')

  base         $base, $(mib "$(stat -c %s "$base")"), SHA-256 as before
  alice        $(mib "$(allocated_bytes "$work/alice.cow")") on disk, clean
  bob          $(mib "$(allocated_bytes "$work/bob.cow")") on disk, clean
  timings      both guests booted $boot_s s, wrote $write_s s, reboot $reboot_s s, shutdown and checks $check_s s
               (in an emulated machine, without hardware virtualisation)

  PASS
REPORT
