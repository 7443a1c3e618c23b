# What cannot be opened ends in a sentence at xl, and leaves nothing behind
# shellcheck shell=bash

# A disk that is refused, on a guest that need not boot. refused WHAT FILE CAUSE DISK: xl has to name FILE and CAUSE (a pattern).
refused() {
    local what=$1 file=$2 cause=$3 disk=$4
    step "$what"
    find "$work" | sort > "$state_dir/files.before"
    xl_fails "$what" create_guest bad "$disk"
    grep -F -- "$file" <<< "$xl_output" | grep -qiE -- "$cause" || fail "$what: no line of xl's names '$file' and '$cause'"
    guest_is_gone bad || fail "$what: there is a guest"
    find "$work" | sort > "$state_dir/files.after"
    diff "$state_dir/files.before" "$state_dir/files.after" || fail "$what: files have come or gone"
    assert_resources "$state_dir/idle" live
    assert_eq "$daemon" "$(cowbackd_pid)" "$what: process of cowbackd"
}

step "a good guest and a good overlay first"
create_guest good "$(overlay xvda "$work/good.cow" "$base")"
wait_multiuser good
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

refused "an overlay that another guest has open" "$work/good.cow" 'in use|already|locked|open' \
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
# xl leaves what it failed to attach half-made, whatever the backend; detaching takes it away, and then it can be tried again.
xl block-detach good xvdb
assert_resources "$state_dir/idle" live
guest_run good 'echo alive > /srv/alive && sync && ! test -e /dev/xvdb'
shutdown_guest good
assert_image_clean "$work/good.cow"
