# shellcheck shell=bash
# What block-cow uses of Xen's block-common.sh, with the same habits: stderr goes to a log, and a command that fails
# unhandled ends the script through fatal. Writes to xenstore are noted in a file.
exec 2>> "$FIXTURE_LOG.stderr"

# shellcheck disable=SC2034
command=$1

xenstore_write() {
    while [ $# -gt 0 ]; do
        echo "write ${1#/local/domain/0/backend/vbd3/1/51712/} = $2" >> "$FIXTURE_LOG"
        shift 2
    done
}

fatal() {
    xenstore_write "$XENBUS_PATH/hotplug-error" "$*" "$XENBUS_PATH/hotplug-status" error
    exit 1
}

success() {
    xenstore_write "$XENBUS_PATH/hotplug-status" connected
}

trap 'fatal "$0 failed; error detected."' ERR
