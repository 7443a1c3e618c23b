# shellcheck shell=bash
# The cached builds and what each is made from. Sourced after common.sh.

dom0_key=$(stage_key "$xen_tests"/host/{build-dom0,trim,mkinitrd,vmlinux}.sh)
# Measurements need more in dom0 than tests do; tests boot faster without it.
bench_dom0_packages=(qemu-system-xen qemu-utils linux-perf)
bench_dom0_key=$dom0_key-$(stage_key <<< "${bench_dom0_packages[*]}")
guest_key=$(stage_key "$xen_tests"/host/{build-guest,trim}.sh "$xen_tests"/guest/*)
images_key=$guest_key-$(stage_key "$xen_tests/host/build-images.sh")
