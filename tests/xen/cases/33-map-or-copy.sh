# Granted pages are read by mapping and by copying them; what each costs is shown
# shellcheck shell=bash

modprobe -a xen-gntdev xen-gntalloc
/share/product/map_or_copy 500 | tee "$state_dir/costs"
assert_eq 3 "$(grep -c 'copying' "$state_dir/costs")" "sizes that were measured"
