# shellcheck shell=bash
# Two guests boot from one base image, each writes, neither sees the other, the base stays as it was.
# Run by dom0/case, so any command that fails ends the demonstration.

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
wait_multiuser alice
wait_multiuser bob
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
rebooted() { [ "$(domid alice)" != "$id" ] && guest_is_up alice; }
eventually 240 "reboot of alice" rebooted
reboot_s=$(took "$started")
assert_eq "$sum" "$(guest_run alice 'sha256sum < /srv/alice')" "checksum of alice's file"

step "shut both down; check both overlays and the base"
started=$(uptime_s)
shutdown_guest alice
shutdown_guest bob
assert_image_clean "$work/alice.cow"
assert_image_clean "$work/bob.cow"
assert_eq "$(cat "$base.sha256")" "$(sha256sum < "$base" | cut -d ' ' -f 1)" "SHA-256 of $base"
check_s=$(took "$started")

cat >> /share/out/progress <<REPORT

  base         $base, $(mib "$(stat -c %s "$base")"), SHA-256 as before
  alice        $(mib "$(allocated_bytes "$work/alice.cow")") on disk, clean
  bob          $(mib "$(allocated_bytes "$work/bob.cow")") on disk, clean
  timings      both guests booted $boot_s s, wrote $write_s s, reboot $reboot_s s, shutdown and checks $check_s s
               (in an emulated machine, without hardware virtualisation)

  PASS
REPORT
