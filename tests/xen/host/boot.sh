# shellcheck shell=bash
# Boots Xen and dom0 in QEMU without hardware virtualisation. Sourced after common.sh and stages.sh.

# What QEMU emulates badly is left out of its processor: without these, dom0 does not come up (la57, pku, smap, smep, umip)
# or PVH and HVM guests crash (rdtscp, xsave).
qemu_cpu=max,-la57,-pku,-smap,-smep,-umip,-rdtscp,-xsave,-avx,-avx2
# How many it has, for Xen, dom0 and guests together.
processors=2
xen_args="dom0_mem=2048M,max:2048M com1=115200,8n1 console=com1 loglvl=warning guest_loglvl=warning"
dom0_args="root=/dev/vda rw console=hvc0 net.ifnames=0 mitigations=off nokaslr quiet loglevel=3 systemd.show_status=no"

# boot_command SHARE: sets the array `qemu`, without a console. The disks are overlays in the run folder: what is cached
# is never written. SHARE appears in dom0 as /share.
boot_command() {
    local share=$1 dom0=$cache/$dom0_stage-$dom0_key disk
    qemu-img create -q -f qcow2 -b "$dom0/dom0.img" -F raw "$run_dir/dom0.qcow2"
    qemu-img create -q -f qcow2 -b "$cache/images-$images_key/images.img" -F raw "$run_dir/images.qcow2"
    qemu=(
        qemu-system-x86_64 -machine q35 -accel "tcg,thread=multi" -cpu "$qemu_cpu" -smp "$processors" -m 4096
        -display none -no-reboot -nodefaults
        -kernel "$dom0/xen" -append "$xen_args dom0_max_vcpus=$processors" -initrd "$dom0/vmlinuz $dom0_args,$dom0/dom0-initrd"
        -virtfs "local,path=$share,mount_tag=share,security_model=none,id=share"
    )
    for disk in dom0 images; do
        qemu+=(-drive "file=$run_dir/$disk.qcow2,format=qcow2,if=none,id=$disk,cache=unsafe,discard=unmap"
            -device "virtio-blk-pci,drive=$disk")
    done
}
