# xenstore shows the life of a disk as other backends show it, and xl block-list is right
# shellcheck shell=bash

cowback create "$work/data.cow" --size 48M
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_up vm
root=$(backend_path vm 51712)
front=$(node "$root/frontend")

step "a connected disk"
xenstore-ls -f "$root"
xenstore-ls -f "$front"
assert_eq 4 "$(node "$root/state")" "backend state"
assert_eq 4 "$(node "$front/state")" "frontend state"
assert_eq connected "$(node "$root/hotplug-status")" "hotplug-status"
# QEMU finds a disk of the class vbd3 at a socket.
path=$work/vm.cow
[ "$device_class" = vbd ] || path=/run/cowback/nbd/vbd3-$(domid vm)-51712.sock
control || assert_eq "$path" "$(node "$root/physical-device-path")" "physical-device-path"
assert_eq "" "$(node "$root/hotplug-error")" "hotplug-error"
assert_eq $(($(stat -c %s "$base") / 512)) "$(node "$root/sectors")" "sectors"
assert_eq 512 "$(node "$root/sector-size")" "sector-size"
assert_eq 0 "$(node "$root/info")" "info of a writable disk"
for feature in feature-flush-cache feature-persistent; do
    assert_eq 1 "$(node "$root/$feature")" "$feature"
done
control || for feature in feature-barrier feature-discard; do
    assert_eq 1 "$(node "$root/$feature")" "$feature"
done
control || assert_eq 4096 "$(node "$root/discard-granularity")" "discard-granularity"
control || assert_eq 256 "$(node "$root/feature-max-indirect-segments")" "feature-max-indirect-segments"
# What is not offered is said, too, so that nothing that the kernel's blkback may have left counts.
control || assert_eq 0 "$(node "$root/discard-secure")" "discard-secure"
[ -n "$(node "$root/physical-sector-size")" ] || fail "no physical-sector-size"
for limit in max-ring-page-order multi-queue-max-queues; do
    [ -n "$(node "$root/$limit")" ] || fail "no $limit"
done

step "xl block-list"
xl block-list vm | tee "$state_dir/block-list"
# Vdev BE handle state evt-ch ring-ref BE-path
read -r vdev be _ state _ _ path < <(tail -n 1 "$state_dir/block-list")
assert_eq "51712 0 4 ${root}" "$vdev $be $state $path" "line of xl block-list"

step "a read-only disk says so"
xl block-attach vm "access=ro,$(overlay xvdb "$work/data.cow")"
second=$(backend_path vm 51728)
eventually 60 "state 4 of the second disk" node_is "$second/state" 4
assert_eq 4 "$(node "$second/info")" "info of a read-only disk"
control || assert_eq 0 "$(node "$second/feature-discard")" "feature-discard of a read-only disk"
assert_eq $(((48 << 20) / 512)) "$(node "$second/sectors")" "sectors of the second disk"
assert_eq 1 "$(guest_run vm 'cat /sys/block/xvdb/ro')" "read-only flag in the guest"
assert_eq 2 "$(xl block-list vm | grep -c backend/vbd)" "lines of xl block-list"

step "a detached disk leaves no nodes"
xl block-detach vm xvdb
eventually 30 "removal of $second" node_is "$second/state" ""
assert_eq 1 "$(xl block-list vm | grep -c backend/vbd)" "lines of xl block-list"

step "nor does a guest that has ended"
domain=$(domid vm)
shutdown_guest vm
eventually 30 "removal of $root" node_is "$root/state" ""
if xenstore-ls -f /local/domain/0/backend 2> /dev/null | grep -E "/vbd3?/$domain/"; then
    fail "nodes of domain $domain are left"
fi
