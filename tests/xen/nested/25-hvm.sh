# An HVM guest boots from its disk by way of QEMU, and then uses it by its own driver: one disk, seen twice
# shellcheck shell=bash

guest_type=hvm
listed() { cowback list --json | jq -r ".[0].$1"; }
has_no_emulated_disk() { [ "$(listed emulated_clients)" = 0 ]; }
# boots: waits for the guest, which must have read kernel and initrd through QEMU, and go on by its own driver.
boots() {
    wait_up vm 700
    cowback list
    [ "$(listed emulated_requests)" -gt 100 ] || fail "QEMU asked for $(listed emulated_requests) blocks only"
    assert_eq true "$(listed connected)" "the guest's own driver is connected"
    assert_contains "$(guest_run vm 'cat /proc/cmdline')" BOOT_IMAGE=vmlinuz "the boot loader's mark on the kernel's command line"
    eventually 60 "QEMU gives the emulated disk up" has_no_emulated_disk
}

step "a disk that a PC boots from"
cp --sparse=always /opt/guest/bootdisk.img "$work/pc.img"
dd if="$base" of="$work/pc.img" bs=1M seek="$(($(stat -c %s "$work/pc.img") >> 20))" conv=notrunc,sparse status=none
truncate -s +1M "$work/pc.img"

step "an HVM guest boots from it"
create_guest vm "$(overlay xvda "$work/vm.cow" "$work/pc.img")"
boots
before=$(listed emulated_requests)
guest_run vm 'dd if=/dev/urandom of=/srv/kept bs=64k count=32 conv=fsync status=none; sha256sum /srv/kept' > "$state_dir/sum"
assert_eq "$before" "$(listed emulated_requests)" "requests of QEMU while the guest uses its own driver"
[ "$(listed writes)" -gt 0 ] || fail "the guest's own driver wrote nothing"

step "the daemon is killed, and the guest does not notice"
kill -9 "$(cowbackd_pid)"
guest_run vm 'sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum /srv/kept' | cmp - "$state_dir/sum"
guest_run vm 'dd if=/dev/urandom of=/srv/more bs=64k count=32 conv=fsync status=none && sha256sum /srv/more' >> "$state_dir/sum"
# The next boot has a log of its own.
assert_no_disk_errors vm

step "it boots again, from what it wrote"
id=$(domid vm)
xl reboot vm
eventually_at @introduceDomain 120 "another domain" guest_is_another vm "$id"
boots
guest_run vm 'sha256sum /srv/kept /srv/more' | cmp - "$state_dir/sum"
assert_no_disk_errors vm

step "it is destroyed"
destroy_guest vm
assert_image_clean "$work/vm.cow"
left=$(ls /run/cowback/nbd)
assert_eq "" "$left" "sockets that are left"
