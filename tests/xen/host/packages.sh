# shellcheck shell=bash
# Installs the host packages that are missing. Sourced after common.sh.

xen_packages=(qemu-system-x86 qemu-utils mmdebstrap debian-archive-keyring cpio kmod e2fsprogs xz-utils zstd)
build_packages=(build-essential pkg-config libxen-dev libclang-dev)
check_packages=(shellcheck)

# install_packages PACKAGE...: installs those that are not there, and says so.
install_packages() {
    local missing=() package
    command -v dpkg-query > /dev/null || die "not a Debian-like host; install by hand: $*"
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2> /dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing missing host packages with apt: ${missing[*]}"
    as_root apt-get update -q < /dev/null > /dev/null || die "apt-get update failed"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" \
        < /dev/null > /dev/null || die "apt-get could not install: ${missing[*]}"
}

# debian_mirror: prints the mirror to build from: $DEBIAN_MIRROR, else the one this host's apt uses, else Debian's own.
debian_mirror() {
    local site=${DEBIAN_MIRROR:-}
    # shellcheck disable=SC2016 # apt's own format string
    [ -n "$site" ] || site=$(apt-get indextargets --format '$(SITE)' 'Label: Debian' 2> /dev/null | head -n 1)
    printf '%s\n' "${site:-http://deb.debian.org/debian}"
}
