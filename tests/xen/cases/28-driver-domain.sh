# Another domain than dom0 serves a guest's disk: cowbackd and `xl devd` in a driver domain
# shellcheck shell=bash

root=$state_dir/root
mkdir "$root"

step "put Xen's tools and the product on the driver domain's disk, from dom0"
attach_to_dom0 xvdf "dscow:$work/storage.cow:$base"
mount /dev/xvdf "$root"
give_back() {
    umount "$root"
    detach_from_dom0 xvdf
}
trap give_back EXIT
# copy_to_root: takes along the paths that it reads, as far as they exist here and are no folders.
copy_to_root() {
    local path
    while read -r path; do
        if [ -L "$path" ] || [ -f "$path" ]; then printf '%s\n' "$path"; fi
    done | tar -C / -cf - -T - 2> /dev/null | tar -C "$root" -xkf - --keep-directory-symlink 2> /dev/null || true
}
mapfile -t tools < <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'libxen*' 'xen-utils*' 2> /dev/null | sed -n 's/^installed //p')
dpkg -L "${tools[@]}" | grep -vE '/(doc|man|boot)/|hvmloader|\.py$' | copy_to_root
xl_program=$(find /usr/lib/xen-*/bin/xl)
ldd "$xl_program" | awk '$3 ~ "^/" { print $3 }' | while read -r library; do
    printf '%s\n' "$library"
    readlink -f "$library"
done | copy_to_root
printf '%s\n' /usr/bin/cowback /usr/sbin/cowbackd /etc/xen/scripts/block-cow /usr/lib/systemd/system/cowbackd.service \
    /usr/lib/cowback/libxenevtchn.so | copy_to_root
find "/lib/modules/$(uname -r)" -maxdepth 1 -name 'modules.*' | copy_to_root
find "/lib/modules/$(uname -r)/kernel/drivers/xen" | copy_to_root
echo 'xenfs /proc/xen xenfs defaults 0 0' >> "$root/etc/fstab"
cat > "$root/etc/systemd/system/modules.service" <<'UNIT'
[Unit]
Description=What programs need of Xen
Before=cowbackd.service
[Service]
Type=oneshot
ExecStart=/sbin/modprobe -a xen-evtchn xen-gntdev
UNIT
cat > "$root/etc/systemd/system/devd.service" <<'UNIT'
[Unit]
Description=Hotplug scripts of disks that this domain serves
After=cowbackd.service proc-xen.mount
[Service]
ExecStartPre=/bin/mkdir -p /var/log/xen /run/xen
ExecStart=/usr/sbin/xl devd -F
UNIT
for unit in modules devd cowbackd; do
    unit_file=/etc/systemd/system/$unit.service
    [ -e "$root$unit_file" ] || unit_file=/usr/lib/systemd/system/$unit.service
    ln -sf "$unit_file" "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
done
trap - EXIT
give_back

step "start the driver domain; the base is a disk of its own"
cowback create "$work/base.cow" --base "$base"
guest_system=full create_guest_config storage "$(overlay xvda "$work/storage.cow")" "access=ro,$(disk xvdb "$work/base.cow")"
echo 'driver_domain = 1' >> "$state_dir/storage.cfg"
start_guest storage
wait_up storage
guest_run storage 'systemctl --no-pager status cowbackd devd; journalctl --no-pager -b -u cowbackd -u devd | tail -n 30; ls -l /dev/xen /proc/xen; systemctl is-active cowbackd devd'

step "a guest boots from a disk that the driver domain serves"
create_guest_config vm "vdev=xvda,backend=storage,script=block-cow,format=raw,target=dscow:/srv/vm.cow:/dev/xvdb"
if ! start_guest vm; then
    guest_run storage 'journalctl --no-pager -b -u cowbackd -u devd | tail -n 30; cat /var/log/xen/*; cowback list --json'
    fail "the guest did not start"
fi
wait_up vm
guest_run vm 'fio --name=v --filename=/srv/v --size=4M --rw=randwrite --bs=4k --iodepth=8 --ioengine=libaio --direct=1 --verify=crc32c --fsync=16 --minimal > /dev/null && echo verified'
guest_run storage 'cowback list'
assert_eq "[]" "$(cowback list --json | jq -c "[.[] | select(.domid == $(domid vm))]")" "disks of the guest that dom0 serves"
[ "$(cowback list --json | jq length)" = 2 ] || fail "dom0 serves other disks than the driver domain's two"

step "the daemon of the driver domain is killed under load"
guest_start vm 'until [ -e /run/enough ]; do fio --name=load --filename=/srv/load --size=4M --rw=randwrite --bs=4k --iodepth=8 --ioengine=libaio --direct=1 --verify=crc32c --fsync=16 --minimal > /dev/null || exit; done'
eventually 60 "load in the guest" guest_run vm 'test -s /srv/load'
# shellcheck disable=SC2016 # for the driver domain's shell
for round in 1 2 3; do
    guest_run storage 'systemctl show -p MainPID --value cowbackd > /run/killed; kill -9 $(cat /run/killed)'
    guest_run vm "echo $round >> /srv/rounds && sync"
    guest_run storage '[ "$(systemctl show -p MainPID --value cowbackd)" != "$(cat /run/killed)" ] && echo another daemon'
done
assert_eq 3 "$(guest_run storage 'journalctl --no-pager -b -u cowbackd | grep -c "adopting the frontend"')" "daemons that took the guest over"
end_load vm

complaints=$(guest_run storage "dmesg | grep -E '$complaint_pattern' || true")
assert_eq "" "$complaints" "warnings of the driver domain's kernel"

step "a disk that the driver domain refuses: its journal says so, and xl in dom0 does not wait for it"
xl block-attach vm "vdev=xvdc,backend=storage,${backend_type}script=block-cow,format=raw,target=/srv/none.cow"
said_why() { guest_run storage 'journalctl --no-pager -b -u cowbackd | grep "/srv/none.cow: does not exist"'; }
eventually 60 "the reason in the driver domain's journal" said_why
guest_run vm '! test -e /dev/xvdc'
xl block-detach vm xvdc
eventually 60 "the refused disk gone" guest_run storage '! cowback list --json | grep -q none.cow'

step "detach and destroy reach the driver domain"
guest_run storage 'cowback create /srv/more.cow --size 16M'
xl block-attach vm "vdev=xvdc,backend=storage,${backend_type}script=block-cow,format=raw,target=/srv/more.cow"
eventually 60 "xvdc in the guest" guest_run vm 'test -b /dev/xvdc'
guest_run vm 'dd if=/dev/urandom of=/dev/xvdc bs=64k count=16 oflag=direct 2> /dev/null'
xl block-detach vm xvdc
eventually 60 "xvdc gone from the driver domain's daemon" guest_run storage '! cowback list --json | grep -q more.cow'
guest_run storage 'cowback check /srv/more.cow'
shutdown_guest vm
eventually 60 "no disk left in the driver domain" guest_run storage 'cowback list --json | grep -qx "\[\]"'
guest_run storage 'cowback check /srv/vm.cow'
shutdown_guest storage
assert_image_clean "$work/storage.cow"
