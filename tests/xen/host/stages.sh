# shellcheck shell=bash
# The cached builds and what each is made from. Sourced after common.sh and packages.sh.

# Beside Xen and its tools: PV-GRUB, the QEMU of qdisks, and what else measurements need.
dom0_packages=(grub-xen-host qemu-system-xen qemu-utils linux-perf)
# Each Xen with the Debian that it comes in, dom0's kernel and tools included.
xen_version=${XEN:-4.20}
case $xen_version in
    4.20) debian=trixie dom0_stage=dom0 ;;
    4.17) debian=bookworm dom0_stage=older-dom0 ;;
    *) die "XEN=$xen_version: there are 4.20 and 4.17" ;;
esac
dom0_key=$(cat "$xen_tests"/host/{build-dom0,trim,mkinitrd,vmlinux,bootdisk}.sh <(echo "$debian $xen_version ${dom0_packages[*]}") | stage_key)
guest_key=$(stage_key "$xen_tests"/host/{build-guest,trim}.sh "$xen_tests"/guest/*)
images_key=$guest_key-$(stage_key "$xen_tests/host/build-images.sh")

# prepare_stages: builds what is not there.
prepare_stages() {
    local mirror
    install_packages "${xen_packages[@]}"
    mirror=$(debian_mirror)
    build_stage "$dom0_stage" "$dom0_key" "$xen_tests/host/build-dom0.sh" "$mirror" "$debian" "$xen_version" "${dom0_packages[@]}"
    build_stage guest "$guest_key" "$xen_tests/host/build-guest.sh" "$mirror"
    build_stage images "$images_key" "$xen_tests/host/build-images.sh" "$cache/guest-$guest_key"
}
