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
    dev-hugepages.mount dev-mqueue.mount run-lock.mount tmp.mount
    serial-getty@hvc0.service systemd-remount-fs.service systemd-sysctl.service systemd-user-sessions.service
    systemd-tmpfiles-setup.service systemd-journal-flush.service remote-fs.target
)
# Each is a program started at every boot and at every daemon-reload. Only fstab's does something here.
masked_generators=(
    systemd-debug-generator systemd-getty-generator systemd-gpt-auto-generator systemd-hibernate-resume-generator
    systemd-rc-local-generator systemd-run-generator systemd-ssh-generator systemd-system-update-generator
    systemd-sysv-generator systemd-tpm2-generator
)

# trim ROOT
trim() {
    local root=$1 units=$1/etc/systemd/system name
    for name in "${masked_units[@]}"; do ln -sf /dev/null "$units/$name"; done
    mkdir -p "$root/etc/systemd/system-generators"
    for name in "${masked_generators[@]}"; do ln -s /dev/null "$root/etc/systemd/system-generators/$name"; done
    ln -sf /usr/lib/systemd/system/multi-user.target "$units/default.target"
    # Setting up a sandbox takes the emulated machine longer than the service itself.
    for name in systemd-journald systemd-udevd; do
        mkdir -p "$units/$name.service.d"
        printf '%s\n' '[Service]' SystemCallFilter= RestrictAddressFamilies= RestrictNamespaces=no \
            RestrictRealtime=no RestrictSUIDSGID=no MemoryDenyWriteExecute=no LockPersonality=no ProtectHostname=no \
            ProtectClock=no ProtectKernelLogs=no PrivateMounts=no PrivateDevices=no PrivateTmp=no \
            SystemCallArchitectures= NoNewPrivileges=no ProtectProc=default IPAddressDeny= \
            > "$units/$name.service.d/no-sandbox.conf"
    done
    # udev runs, but at boot it is asked about disks only, not about everything there is.
    mkdir -p "$units/systemd-udev-trigger.service.d" "$root/etc/systemd/journald.conf.d"
    printf '[Service]\nExecStart=\nExecStart=-udevadm trigger --action=add --subsystem-match=block\n' \
        > "$units/systemd-udev-trigger.service.d/disks-only.conf"
    printf '[Journal]\nStorage=volatile\n' > "$root/etc/systemd/journald.conf.d/volatile.conf"
    # A shell on the console for people who ask for it (`shell` on the kernel's command line).
    cat > "$units/console-shell@.service" <<'UNIT'
[Unit]
Description=Root shell on %I
ConditionKernelCommandLine=shell
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
