# The Debian package is installed, upgraded under a guest's load, removed and purged: guests and images are not harmed
# shellcheck shell=bash

status_of() { dpkg-query -W -f '${db:Status-Status} ${Version}' cowback 2> /dev/null || true; }
older=(/share/product/cowback_1_*.deb)
newer=(/share/product/cowback_2_*.deb)

step "take away what the other cases have used"
systemctl disable --now cowbackd.service
rm -rf /usr/bin/cowback /usr/sbin/cowbackd /usr/lib/cowback /etc/xen/scripts/block-cow /usr/lib/systemd/system/cowbackd.service
systemctl daemon-reload
again() { bash /share/dom0/install; }
trap again EXIT

step "install"
dpkg -i "${older[@]}"
assert_contains "$(status_of)" "installed 1" "status of the package"
assert_eq active "$(systemctl is-active cowbackd.service || true)" "the daemon"
assert_eq enabled "$(systemctl is-enabled cowbackd.service || true)" "the daemon at boot"
cowbackd --check-config
cowback --version
ldd /usr/sbin/cowbackd

step "is the host fit"
cowback doctor "$work"

step "what Prometheus reads"
metrics() {
    local reply
    exec {reply}<> /dev/tcp/127.0.0.1/9573
    printf 'GET /metrics HTTP/1.0\r\n\r\n' >&"$reply"
    cat <&"$reply"
    exec {reply}>&-
}
! systemctl --quiet is-enabled cowback-metrics.socket || fail "the port of the metrics is open before anybody asked for it"
systemctl enable --now cowback-metrics.socket
assert_contains "$(metrics)" "200 OK" "answer of the metrics' port"
assert_contains "$(metrics)" "cowback_" "metrics"

step "upgrade under a guest's load"
guest_system=full create_guest vm "$(overlay xvda "$work/vm.cow" "$base")"
wait_up vm
guest_id=$(domid vm)
guest_start vm 'until [ -e /run/enough ]; do fio --name=load --filename=/srv/load --size=4M --rw=randwrite --bssplit=512/20:4k/50:64k/30 --blockalign=512 --fsync=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --ioengine=libaio --direct=1 --iodepth=8 --rate_iops=100 --minimal || exit; done'
eventually 60 "load in the guest" guest_run vm 'test -s /srv/load'
before=$(cowbackd_pid)
echo "# changed here" >> /etc/cowback/cowbackd.toml
# What a daemon of another version has left.
foreign=/run/cowback/disks/vbd3-99-51712
{ printf 'COWRUNST\377\0\0\0'; head -c 52 /dev/zero; printf 'backend/vbd3/99/51712'; } > "$foreign"
! dpkg -i "${newer[@]}" 2> "$state_dir/refusal" || fail "it was upgraded although a guest could not go on"
cat "$state_dir/refusal"
assert_contains "$(cat "$state_dir/refusal")" "vbd3/99/51712" "what dpkg says"
assert_contains "$(status_of)" "installed 1" "status of the package after a refused upgrade"
# dpkg has the older one's scripts start it again.
assert_eq active "$(systemctl is-active cowbackd.service || true)" "the daemon after a refused upgrade"
rm -f "$foreign"
guest_run vm 'echo refused > /srv/upgrade && sync'
before=$(cowbackd_pid)
! dpkg -r cowback 2> "$state_dir/refusal" || fail "it was removed although a guest has a disk"
assert_contains "$(cat "$state_dir/refusal")" "vbd" "what dpkg says"
assert_eq "$before" "$(cowbackd_pid)" "the daemon after a refused removal"
dpkg -i "${newer[@]}"
assert_contains "$(status_of)" "installed 2" "status of the package"
after=$(cowbackd_pid)
[ "$before" != "$after" ] || fail "the old daemon still runs"
grep -qx '# changed here' /etc/cowback/cowbackd.toml || fail "the configuration was replaced"
end_load vm
assert_eq "$guest_id" "$(domid vm)" "domain of the guest"

step "remove, and purge"
assert_contains "$(metrics)" "cowback_" "metrics after the upgrade"
shutdown_guest vm
assert_image_clean "$work/vm.cow"
# Whoever writes to an image changes its times.
files() { find "$work" -printf '%p %i %s %b %m %T@ %C@\n' | sort; }
files > "$state_dir/files"
dpkg -r cowback
assert_contains "$(status_of)" "config-files" "status of the package"
assert_eq inactive "$(systemctl is-active cowbackd.service || true)" "the daemon"
[ -e /etc/cowback/cowbackd.toml ] || fail "the configuration went away with a mere removal"
dpkg -P cowback
assert_eq "" "$(status_of)" "status of the package"
assert_eq inactive "$(systemctl is-active cowback-metrics.socket || true)" "the port of the metrics"
for path in /etc/cowback /usr/lib/cowback /etc/xen/scripts/block-cow /usr/sbin/cowbackd /usr/bin/cowback; do
    [ ! -e "$path" ] || fail "$path is left"
done
files | cmp - "$state_dir/files"
