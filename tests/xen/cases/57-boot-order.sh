# Guests that xendomains starts find the daemon up; a daemon that starts late takes up what waits for it
# shellcheck shell=bash

guest_system=full

step "both are started at once, as when the host boots"
systemctl stop cowbackd.service
create_guest_config vm "$(overlay xvda "$work/vm.cow" "$base")"
mkdir -p /etc/xen/auto
ln -s "$state_dir/vm.cfg" /etc/xen/auto/vm.cfg
assert_contains "$(systemctl show -p Before --value cowbackd.service)" xendomains.service "what cowbackd is started before"
systemctl restart cowbackd.service xendomains.service
wait_up vm
rm /etc/xen/auto/vm.cfg
shutdown_guest vm

step "xl is there first, the daemon comes seconds later"
systemctl stop cowbackd.service
(sleep 4; systemctl start cowbackd.service) &
start_guest vm
wait
wait_up vm
shutdown_guest vm
assert_image_clean "$work/vm.cow"
