# shellcheck shell=bash
# Makes a Debian tree boot fast under emulation, where each started program costs a tenth of a second or more. Sourced.

# Neither a dom0 that lives for minutes nor its guests need these.
masked_units=(
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
    systemd-tmpfiles-clean.timer systemd-update-done.service ldconfig.service systemd-hwdb-update.service
    systemd-journal-catalog-update.service systemd-logind.service systemd-pstore.service systemd-binfmt.service
    proc-sys-fs-binfmt_misc.automount getty-static.service systemd-random-seed.service
    systemd-udev-load-credentials.service systemd-sysusers.service systemd-tmpfiles-setup-dev-early.service
    systemd-tmpfiles-setup-dev.service kmod-static-nodes.service systemd-modules-load.service
    modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service
    modprobe@dm_mod.service modprobe@loop.service
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
    dev-hugepages.mount dev-mqueue.mount
    serial-getty@hvc0.service
)

# trim ROOT
trim() {
    local root=$1 units=$1/etc/systemd/system unit
    for unit in "${masked_units[@]}"; do ln -sf /dev/null "$units/$unit"; done
    # udev runs, but at boot it is asked about disks only, not about everything there is.
    mkdir -p "$units/systemd-udev-trigger.service.d" "$root/etc/systemd/journald.conf.d"
    printf '[Service]\nExecStart=\nExecStart=-udevadm trigger --action=add --subsystem-match=block\n' \
        > "$units/systemd-udev-trigger.service.d/disks-only.conf"
    printf '[Journal]\nStorage=volatile\n' > "$root/etc/systemd/journald.conf.d/volatile.conf"
    # A shell on the console, without waiting until udev knows the console.
    cat > "$units/console-shell@.service" <<'UNIT'
[Unit]
Description=Root shell on %I
After=multi-user.target
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
[Service]
ExecStart=-/sbin/agetty --autologin root --noclear %I linux
Restart=always
TTYPath=/dev/%I
KillMode=process
UNIT
    ln -s ../console-shell@.service "$units/multi-user.target.wants/console-shell@hvc0.service"
    chroot "$root" passwd -q -d root
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
}
