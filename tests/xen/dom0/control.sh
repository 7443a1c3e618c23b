# shellcheck shell=bash
# The control experiment (`run --control`): the same cases with the kernel's blkback and raw copies in place of cowback and
# overlays. What fails here too is a fault of the harness or of the case. Sourced by lib.sh, after everything else.

modprobe -a loop xen-blkback

overlay() {
    local vdev=$1 image=$2 from=${3:-}
    [ -e "$image" ] || [ -z "$from" ] || cp --sparse=always "$from" "$image"
    printf 'vdev=%s,format=raw,target=%s\n' "$vdev" "$image"
}

cowback() {
    case $1 in
        create) truncate -s "$4" "$2" ;;
        *) echo '{}' ;;
    esac
}

backend_path() { printf '/local/domain/0/backend/vbd/%s/%s\n' "$(domid "$1")" "$2"; }

cowbackd_pid() { echo 1; }

held_resources() { held_in_xen; }
