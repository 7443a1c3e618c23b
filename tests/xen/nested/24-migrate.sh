# A PVH guest moves to another domain of the same host under load, and sees every bit that it wrote before
# shellcheck shell=bash

guest_type=pvh guest_system=full
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_up vm
guest_run vm 'dd if=/dev/urandom of=/srv/kept bs=64k count=16 conv=fsync status=none; sha256sum /srv/kept' > "$state_dir/sum"
guest_start vm 'until [ -e /run/enough ]; do fio --name=load --filename=/srv/load --size=4M --rw=randwrite --bssplit=512/20:4k/50:64k/30 --blockalign=512 --fsync=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --ioengine=libaio --direct=1 --iodepth=8 --minimal || exit; done'
eventually 60 "load in the guest" guest_run vm 'test -s /srv/load'

for round in 1 2; do
    step "move $round"
    id=$(domid vm)
    # With an empty -s it is a command that is given, not a host.
    xl migrate -s "" vm "xl migrate-receive"
    [ "$(domid vm)" != "$id" ] || fail "the guest is in the domain where it was"
    guest_run vm 'echo 3 > /proc/sys/vm/drop_caches; sha256sum /srv/kept' | cmp - "$state_dir/sum"
    assert_eq 1 "$(cowback list --json | jq length)" "disks that are served"
done

step "the load ends without an error"
end_load vm
shutdown_guest vm
assert_image_clean "$work/vm.cow"
left=$(ls /run/cowback/lent)
assert_eq "" "$left" "notes that are left"
left=$(ls /run/cowback/disks)
assert_eq "" "$left" "run states that are left"
