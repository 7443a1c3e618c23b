# Options of a target: a disk that is made as they say, odd paths, and sentences for what makes no sense
# shellcheck shell=bash

listed() { cowback list --json | jq -r ".[] | select(.vdev == \"xvdb\") | .$1"; }
has_disk() { guest_run vm "test -b /dev/$1"; }
has_no_disk() { ! guest_run vm "test -e /dev/$1"; }

detach() {
    xl block-detach vm xvdb
    eventually 60 "xvdb gone from the guest" has_no_disk xvdb
}

create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_up vm

step "a new disk without a base, with large blocks and sectors"
xl block-attach vm "$(disk xvdb "dscow,size=64M,block-size=64K,sector-size=4096,detect-zeroes=on:$work/data.cow")"
eventually 60 "xvdb in the guest" has_disk xvdb
assert_eq "67108864 4096" "$(guest_run vm 'blockdev --getsize64 --getss /dev/xvdb | paste -sd " "')" "size and sectors in the guest"
guest_run vm 'dd if=/dev/zero of=/dev/xvdb bs=1M count=64 oflag=direct status=none'
assert_eq 0 "$(listed allocated_bytes)" "what zeros take where they are detected: blocks"
[ "$(allocated_bytes "$work/data.cow")" -lt 1000000 ] || fail "zeros take $(allocated_bytes "$work/data.cow") bytes"
guest_run vm 'dd if=/dev/urandom of=/dev/xvdb bs=4k count=1 oflag=direct status=none; sync'
assert_eq 65536 "$(listed allocated_bytes)" "what 4 KiB take in blocks of 64 KiB"
detach
assert_eq 65536 "$(cowback info --json "$work/data.cow" | jq .block_size_bytes)" "block size"

step "read-only, though the specification says otherwise"
xl block-attach vm "$(disk xvdb "dscow,read-only:$work/data.cow")"
eventually 60 "xvdb in the guest" has_disk xvdb
assert_eq 1 "$(guest_run vm 'blockdev --getro /dev/xvdb')" "read-only in the guest"
detach

step "odd paths"
odd="$work/a b:c,d=e%41"
mkdir "$odd"
xl block-attach vm "$(disk xvdb "dscow,cache=host:$work/a b%3Ac,d=e%2541/x%3A.cow:$base")"
eventually 60 "xvdb in the guest" has_disk xvdb
[ -f "$odd/x:.cow" ] || fail "the image is not where it should be: $(ls "$odd" "$work")"
detach
assert_image_clean "$odd/x:.cow"

# refused WHAT PART TARGET
refused() {
    step "$1"
    xl_fails "$1" xl block-attach vm "$(disk xvdb "$3")"
    assert_contains "$xl_output" "$2" "output of xl"
    xl block-detach vm xvdb
}
refused "an option that there is not" 'there is no option "colour"' "dscow,colour=red:$work/new.cow:$base"
refused "other blocks than there are" "has blocks of 65536 bytes and not of 4096" "dscow,block-size=4K:$work/data.cow"
refused "an ambiguous target" "write %3A for a colon that belongs to a path" "dscow:$work/a:/b:/c"
step "two guests that write one image"
xl_fails "access=w!" xl block-attach vm "access=w!,$(disk xvdb "$work/data.cow")"
assert_contains "$xl_output" "unknown value for access" "output of xl"
refused "the image of another disk, once more" "is in use by" "$work/vm.cow"
[ ! -e "$work/new.cow" ] || fail "an image was made"
guest_run vm 'echo alive > /srv/alive && sync'
shutdown_guest vm
