# Power fails at every moment of a workload, on ext4, on XFS and on a bare device: no promise is broken
# shellcheck shell=bash

# The writes of a workload are logged by the kernel's log-writes target; `powerfail` replays the log (docs/testing.md).
# Everything is in files on one RAM disk, with XFS on it, since there a state to look at is a clone and not a copy.
powerfail=/share/product/powerfail
scratch=$state_dir/scratch
mount_point=$state_dir/mnt
logged=powerfail

modprobe -a loop xfs dm-log-writes
modprobe brd rd_nr=1 rd_size=$((1 << 20))
mkdir -p "$scratch" "$mount_point"
mkfs.xfs -q -f /dev/ram0
mount /dev/ram0 "$scratch"
# Devices come and go at each step: nothing here needs udev's links to them, and nobody else is to hold them open.
udevadm settle
udevadm control --stop-exec-queue

# on_file_system KIND SIZE SEED CHAIN BLOCK-SIZE LOSSES [SABOTAGE]
on_file_system() {
    local kind=$1 size=$2 loop
    start_run "$kind" "$size" "$mount_point/images" "${@:3}"
    loop=$(loop_device "$scratch/data")
    mkfs."$kind" -q "$loop"
    mount -t "$kind" "$loop" "$mount_point"
    mkdir "$mount_point/images"
    "$powerfail" prepare "${setting[@]}"
    umount "$mount_point"
    losetup -d "$loop"
    cp --reflink=always "$scratch/data" "$scratch/replay"
    start_logging
    mount -t "$kind" "/dev/mapper/$logged" "$mount_point"
    work
    umount "$mount_point"
    stop_logging
    # XFS does not replay a block of metadata whose first sector is as new as its log, so it does not survive one that is torn.
    local untorn_sectors=1
    [ "$kind" != xfs ] || untorn_sectors=8
    check --file-system "$kind" --mount-point "$mount_point" --image "$mount_point/images/disk.cow" --untorn-sectors "$untorn_sectors"
}

# on_device SIZE SEED CHAIN BLOCK-SIZE LOSSES [SABOTAGE]
on_device() {
    start_run device "$1" "$scratch/images" "${@:2}"
    mkdir "$scratch/images"
    "$powerfail" prepare "${setting[@]}"
    cp --reflink=always "$scratch/data" "$scratch/replay"
    start_logging
    work --device "/dev/mapper/$logged"
    stop_logging
    check
}

# start_run WHERE SIZE FOLDER SEED CHAIN BLOCK-SIZE LOSSES [SABOTAGE]
start_run() {
    started=$(uptime_s) seed=$4 losses=$7 sabotage=${8:-}
    run=$1-$seed${sabotage:+-$sabotage}
    journal=$state_dir/$run.journal
    setting=(--dir "$3" --seed "$seed" --chain "$5" --block-size "$6" --journal "$journal")
    rm -rf "${scratch:?}"/*
    truncate -s "$2" "$scratch/data" "$scratch/crashed"
    truncate -s 512M "$scratch/log"
}

# loop_device FILE: attaches FILE and prints its device.
loop_device() { losetup --find --show "$1"; }

start_logging() {
    data_loop=$(loop_device "$scratch/data")
    log_loop=$(loop_device "$scratch/log")
    dmsetup create --noudevsync "$logged" --table "0 $(blockdev --getsz "$data_loop") log-writes $data_loop $log_loop"
    dmsetup mknodes "$logged"
}

work() {
    local output
    output=$("$powerfail" work "${setting[@]}" --marks-to "$logged" ${sabotage:+--sabotage "$sabotage"} "$@")
    assert_eq "executors: io_uring, threads, io_uring" "$output" "what did the I/O"
}

stop_logging() {
    local status
    status=$(dmsetup status "$logged")
    case $status in *logging_disabled*) fail "the kernel stopped logging" ;; esac
    # Of the log, the sectors in use; a mark is still to come.
    log_sectors=$((${status##* } + 16))
    dmsetup remove --noudevsync "$logged"
    losetup -d "$data_loop" "$log_loop"
}

check() {
    local crashed output=$state_dir/$run.check
    crashed=$(loop_device "$scratch/crashed")
    if ! "$powerfail" check --log "$scratch/log" --journal "$journal" --replay "$scratch/replay" \
        --crashed "$scratch/crashed" --device "$crashed" --seed "$seed" --losses "$losses" \
        ${sabotage:+--expect-violation} "$@" > "$output"; then
        cat "$output"
        head -c $((log_sectors * 512)) "$scratch/log" | gzip > "$state_dir/$run.log.gz"
        fail "$run: see above; the log of writes is kept beside this log"
    fi
    losetup -d "$crashed"
    tail -n 5 "$output"
    step "  ${sabotage:+$sabotage is noticed; }$(tail -n 1 "$output") ($(($(uptime_s) - started)) s)"
}

step "ext4, raw base, blocks of 4 KiB"
on_file_system ext4 64M 1 raw 4096 1
step "XFS, a chain, blocks of 64 KiB"
on_file_system xfs 320M 2 dscow 65536 1
step "a bare device, raw base, blocks of 4 KiB"
on_device 16M 3 raw 4096 2
step "a bare device, a chain, blocks of 64 KiB"
on_device 16M 7 dscow 65536 2
step "broken rules of order"
on_file_system ext4 64M 4 raw 4096 0 no-sync
on_device 16M 5 raw 4096 3 no-data-sync
on_device 16M 6 raw 4096 0 bitmap-first

umount "$scratch"
udevadm control --start-exec-queue
