# What cannot be opened ends in a sentence at xl, and leaves nothing behind
# shellcheck shell=bash

# journal_since CURSOR: what the daemon has logged since.
journal_since() { journalctl --no-pager -o cat -u cowbackd.service --after-cursor "$1"; }
journal_cursor() { journalctl -n 1 -o json -u cowbackd.service | jq -r .__CURSOR; }

# A disk that is refused, on a guest that need not boot. refused WHAT FILE CAUSE DISK: xl has to name FILE and CAUSE (a pattern),
# and the daemon's journal these and the device.
refused() {
    local what=$1 file=$2 cause=$3 disk=$4 cursor
    step "$what"
    cursor=$(journal_cursor)
    find "$work" | sort > "$state_dir/files.before"
    xl_fails "$what" create_guest bad "$disk"
    grep -F -- "$file" <<< "$xl_output" | grep -qiE -- "$cause" || fail "$what: no line of xl's names '$file' and '$cause'"
    journal_since "$cursor" | grep -E "backend/$device_class/[0-9]+/51712" | grep -F -- "$file" | grep -qiE -- "$cause" ||
        fail "$what: no line of the journal names the device, '$file' and '$cause'"
    guest_is_gone bad || fail "$what: there is a guest"
    find "$work" | sort > "$state_dir/files.after"
    diff "$state_dir/files.before" "$state_dir/files.after" || fail "$what: files have come or gone"
    assert_resources "$state_dir/idle" live
    assert_eq "$daemon" "$(cowbackd_pid)" "$what: process of cowbackd"
}

step "a good guest and a good overlay first"
create_guest good "$(overlay xvda "$work/good.cow" "$base")"
wait_up good
daemon=$(cowbackd_pid)
record_resources "$state_dir/idle" live

refused "a base that is missing" "$work/missing.img" 'no such file|not found|does not exist' \
    "$(overlay xvda "$work/new.cow" "$work/missing.img")"

head -c 2000000 /dev/urandom > "$work/noise.cow"
refused "an image that is not dscow" "$work/noise.cow" 'not a dscow|magic' "$(overlay xvda "$work/noise.cow" "$base")"

cowback create "$work/corrupt.cow" --base "$base"
# Both header slots keep their magic and lose some of what follows.
for slot in 0 4096; do
    head -c 64 /dev/urandom | dd of="$work/corrupt.cow" bs=1 seek=$((slot + 24)) conv=notrunc status=none
done
refused "an image whose header is corrupt" "$work/corrupt.cow" 'corrupt|checksum|crc|header' \
    "$(overlay xvda "$work/corrupt.cow" "$base")"

head -c 4194304 /dev/urandom > "$work/changing.img"
cowback create "$work/changed.cow" --base "$work/changing.img"
head -c 4096 /dev/urandom | dd of="$work/changing.img" conv=notrunc status=none
touch -d '+1 hour' "$work/changing.img"
refused "a base that has changed since" "$work/changing.img" 'changed|modified|fingerprint' \
    "$(overlay xvda "$work/changed.cow" "$work/changing.img")"

refused "an overlay that another guest has open" "$work/good.cow" \
    "in use by process $daemon \(cowbackd\), as xvda of domain $(domid good) " \
    "$(overlay xvda "$work/good.cow" "$base")"

mkdir "$work/directory"
refused "a directory" "$work/directory" 'directory' "$(overlay xvda "$work/directory" "$base")"

cowback create "$work/immutable.cow" --base "$base"
chattr +i "$work/immutable.cow"
refused "no permission to write" "$work/immutable.cow" 'not permitted|permission|read-only' \
    "$(overlay xvda "$work/immutable.cow" "$base")"
chattr -i "$work/immutable.cow"

mkdir "$work/mount"
mount -t tmpfs -o size=8m none "$work/mount"
cowback create "$work/mount/frozen.cow" --base "$base"
mount -o remount,ro "$work/mount"
refused "a read-only file system" "$work/mount/frozen.cow" 'read-only' "$(overlay xvda "$work/mount/frozen.cow" "$base")"
umount "$work/mount"

step "the same by hot plug: the running guest does not notice"
xl_fails "block-attach of noise" xl block-attach good "$(overlay xvdb "$work/noise.cow" "$base")"
assert_contains "$xl_output" "$work/noise.cow" "output of xl block-attach"
assert_contains "$(node "$(backend_path good 51728)/hotplug-error")" "$work/noise.cow: is not a dscow image" "the node hotplug-error"
# xl leaves what it failed to attach half-made, whatever the backend; detaching takes it away, and then it can be tried again.
xl block-detach good xvdb
assert_resources "$state_dir/idle" live
guest_run good 'echo alive > /srv/alive && sync && ! test -e /dev/xvdb'

step "another program has the image"
cowback create "$work/exported.cow" --base "$base"
cowback export --json --socket "$state_dir/nbd.sock" "$work/exported.cow" > "$state_dir/export" 2>&1 &
exporter=$!
# The socket is there before the image is open.
exported() { grep -q '"ready":true' "$state_dir/export"; }
eventually 30 "an export" exported
xl_fails "block-attach of an exported image" xl block-attach good "$(overlay xvdb "$work/exported.cow")"
echo "$xl_output"
assert_contains "$xl_output" "$work/exported.cow: cannot be locked for writing: it is in use by" "output of xl block-attach"
kill "$exporter"
xl block-detach good xvdb

step "no daemon: xl names the device"
systemctl stop cowbackd.service
xl_fails "block-attach without a daemon" xl block-attach good "$(overlay xvdb "$work/exported.cow")"
# Of the class vbd3 libxl waits itself for the backend, and not for the script.
if [ "$device_class" = vbd3 ]; then
    assert_contains "$xl_output" "unable to add device with path $(backend_path good 51728)" "output of xl block-attach"
else
    assert_contains "$xl_output" "is cowbackd running" "output of xl block-attach"
fi
systemctl start cowbackd.service
xl block-detach good xvdb
eventually 60 "the guest's disk is served again" guest_run good 'dd if=/dev/urandom of=/srv/alive bs=4k count=4 conv=fsync status=none'
shutdown_guest good
assert_image_clean "$work/good.cow"
