# shellcheck shell=sh
# What cowbackd keeps of each disk for the next cowbackd to go on with. `maintainer-scripts` puts this into the package's scripts.
#
# A run state begins with "COWRUNST", its version is at byte 8 in the host's order, and the device's name is at byte 64, in at
# most 128 bytes. These stay where they are in all versions: backend/runstate/src/layout.rs.

# One a line: version, device, who needs it, file. Nobody does if the device is gone, which no daemon was there to see.
run_states() {
    # Where it is said to be, else where it is.
    folder=$(sed -n "s/^[[:space:]]*runtime-dir[[:space:]]*=[[:space:]]*[\"']\([^\"']*\)[\"'].*/\1/p" \
        "${DPKG_ROOT:-}/etc/cowback/cowbackd.toml" 2> /dev/null) || true
    for file in "${DPKG_ROOT:-}${folder:-/run/cowback}"/disks/*; do
        [ "$(dd if="$file" bs=8 count=1 2> /dev/null | tr -d '\0')" = COWRUNST ] || continue
        version=$(od -A n -t u4 -j 8 -N 4 "$file" 2> /dev/null | tr -d ' ')
        # Its disk was closed just now.
        [ -n "$version" ] || continue
        device=$(dd if="$file" bs=64 skip=1 count=2 2> /dev/null | tr -d '\0')
        printf '%s\t%s\t%s\t%s\n' "$version" "$device" "$(user_of "$device")" "$file"
    done
}

# The guest of a device such as backend/vbd3/5/51712.
user_of() {
    domain=${1%/*}
    domain=${domain##*/}
    # Xen's commands need not be there, and xenstored need not answer: then it has to be taken for one that is there.
    if in_xenstore domid > /dev/null && ! in_xenstore "$1/state" > /dev/null; then
        echo nobody
    elif name=$(in_xenstore "/local/domain/$domain/name"); then
        echo "guest $name"
    else
        echo "guest of domain $domain"
    fi
}

in_xenstore() {
    timeout 5 xenstore-read "$1" 2> /dev/null
}
