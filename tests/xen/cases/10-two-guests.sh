# Two guests run at the same time from overlays on one base, and see only their own files
# shellcheck shell=bash

guest_system=full

step "start both guests"
create_guest one "$(overlay xvda "$work/one.cow" "$base")"
create_guest two "$(overlay xvda "$work/two.cow" "$base")"
wait_up one
wait_up two
assert_eq "running running" \
    "$(guest_run one 'systemctl is-active multi-user.target' | sed s/active/running/) $(guest_run two 'systemctl is-active multi-user.target' | sed s/active/running/)" \
    "both guests at the same time"
assert_eq /dev/xvda "$(guest_run one 'findmnt -n -o SOURCE /')" "root of guest one"
assert_eq /dev/xvda "$(guest_run two 'findmnt -n -o SOURCE /')" "root of guest two"

step "each writes its own files"
for name in one two; do
    guest_run "$name" "mkdir /srv/$name && for i in 1 2 3; do head -c 300000 /dev/urandom > /srv/$name/\$i; done && cd /srv && sha256sum $name/* > $name.sums && sync && echo 3 > /proc/sys/vm/drop_caches"
done
for name in one two; do
    guest_run "$name" "cd /srv && sha256sum --check $name.sums"
    assert_eq "$name $name.sums" "$(guest_run "$name" 'cd /srv && echo *')" "files that guest $name sees"
done

step "the overlays hold little, and are sparse"
base_size=$(stat -c %s "$base")
for name in one two; do
    image=$work/$name.cow
    held=$(allocated_bytes "$image")
    cowback info "$image"
    cowback info --json "$image" | jq -e .
    echo "$image: $held bytes on disk, apparent size $(stat -c %s "$image"), base $base_size"
    ! control || continue
    [ "$held" -gt 900000 ] || fail "$image holds $held bytes, less than the guest has written"
    [ "$held" -lt $((base_size / 8)) ] || fail "$image holds $held bytes: not a sparse overlay"
    [ "$held" -lt $(($(stat -c %s "$image") / 2)) ] || fail "$image is not sparse"
done

step "shut both down; the base has not changed"
shutdown_guest one
shutdown_guest two
for name in one two; do assert_image_clean "$work/$name.cow"; done
assert_eq "$(cat "$base.sha256")" "$(sha256sum < "$base" | cut -d ' ' -f 1)" "SHA-256 of $base"
