# Disks come and go many times, and guests are destroyed at work: what is held returns to where it was
# shellcheck shell=bash

# COMINGS=200 DESTRUCTIONS=100 attach and detach, and destroy guests, that often. It takes three quarters of an hour, so the bounds have to be
# raised: XEN_CASE_TIMEOUT_S=9000 XEN_TOTAL_TIMEOUT_S=9500.
comings=$(cat /share/comings 2> /dev/null || echo 16)
destructions=$(cat /share/destructions 2> /dev/null || echo 3)

step "a guest whose disk stays"
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_up vm

private_memory_kib() { awk '/^RssAnon:/ { print $2 }' "/proc/$(cowbackd_pid)/status"; }

step "attach and detach a second disk $comings times"
cowback create "$work/data.cow" --size 32M
disk=$(overlay xvdb "$work/data.cow")
connected() { node_is "$(backend_path vm 51728)/state" 4; }
come_and_go() {
    xl block-attach vm "$disk"
    eventually 60 "xvdb is connected" connected
    [ "$1" != write ] ||
        guest_run vm "dd if=/dev/urandom of=/dev/xvdb bs=4k count=64 conv=fsync status=none"
    xl block-detach vm xvdb
}
# What is made once is made before anything is compared.
come_and_go write
record_resources "$state_dir/with-guest" live
memory_before=$(private_memory_kib)
for round in $(seq "$comings"); do
    # A command in the guest takes longer than all the rest.
    how="idle"
    [ $((round % 8)) != 0 ] || how="write"
    come_and_go "$how"
done
assert_resources "$state_dir/with-guest" live
memory=$(private_memory_kib)
echo "memory of cowbackd: $memory_before KiB, then $memory KiB"
[ "$memory" -le $((memory_before + 1024)) ] || fail "cowbackd grew from $memory_before KiB to $memory KiB"
assert_image_clean "$work/data.cow"

step "destroy the guest at work, $destructions times"
load='while :; do dd if=/dev/urandom of=/srv/load bs=64k count=64 conv=fsync status=none; done'
destroy_at_work() {
    guest_start vm "$load"
    eventually 60 "load in the guest" guest_run vm 'test -s /srv/load'
    destroy_guest vm
}
destroy_at_work
record_resources "$state_dir/without-guest"
if grep -E '/vbd3?/|(mappings|devices|channels).*: *[1-9]' "$state_dir/without-guest"; then
    fail "there is no guest, and yet something is held (above)"
fi
for _ in $(seq 2 "$destructions"); do
    start_guest vm
    wait_up vm
    destroy_at_work
    assert_resources "$state_dir/without-guest"
done
assert_image_clean "$work/vm.cow"
