# shellcheck shell=bash
# The cached builds and what each is made from. Sourced after common.sh.

dom0_key=$(stage_key "$xen_tests"/host/{build-dom0,trim,mkinitrd,vmlinux}.sh)
guest_key=$(stage_key "$xen_tests"/host/{build-guest,trim}.sh "$xen_tests"/guest/*)
images_key=$guest_key-$(stage_key "$xen_tests/host/build-images.sh")
