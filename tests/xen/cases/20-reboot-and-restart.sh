# What a guest has written is there after a reboot, and after shutdown and a new start
# shellcheck shell=bash

guest_system=full

step "start a guest and write files"
create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_up vm
guest_run vm 'head -c 2000000 /dev/urandom > /srv/first && sha256sum /srv/first > /srv/first.sum && sync'
first_id=$(domid vm)

step "reboot inside the guest"
guest_run vm '(sleep 1; systemctl --no-block reboot) > /dev/null 2>&1 &'
wait_rebooted vm "$first_id"
guest_run vm 'sha256sum --check /srv/first.sum'
guest_run vm 'cp /srv/first /srv/second'

step "shut down (nothing synced by hand), check, start again"
shutdown_guest vm
assert_image_clean "$work/vm.cow"
start_guest vm
wait_up vm
guest_run vm 'sha256sum --check /srv/first.sum && cmp /srv/first /srv/second'
shutdown_guest vm

step "another guest looks at the disk with e2fsck"
create_guest inspector "$(overlay xvda "$work/inspector.cow" "$base")" "$(overlay xvdb "$work/vm.cow" "$base")"
wait_up inspector
guest_run inspector 'e2fsck -fn /dev/xvdb'
shutdown_guest inspector
assert_image_clean "$work/vm.cow"
