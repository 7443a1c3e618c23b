# shellcheck shell=bash
# Installs the host packages that are missing. Sourced after common.sh.

# dosfstools, fdisk, mtools, syslinux: a disk that HVM guests boot from.
xen_packages=(qemu-system-x86 qemu-utils mmdebstrap debian-archive-keyring cpio kmod e2fsprogs xz-utils zstd
    dosfstools fdisk mtools syslinux syslinux-common)
build_packages=(build-essential pkg-config libxen-dev libclang-dev)
# qemu-utils, libnbd-bin, fio: tests show that qemu-img refuses a base in use, and that these NBD clients are served.
# strace: kills commands at each of their writes.
# e2fsprogs, xfsprogs, mount: images on file systems with and without large files, and on devices that are mounted.
# systemd: reads the unit, and says how exposed it is.
# tmux: the terminal of `cowback top`.
# python3: another reader of images, and the environment of schemathesis. curl: the control API as a person asks it.
check_packages=(shellcheck systemd tmux qemu-utils libnbd-bin fio strace e2fsprogs xfsprogs mount python3 python3-venv curl)
# The package of the product, and its check, completions of all shells included.
deb_packages=(debhelper dpkg-dev lintian zsh fish)
# linux-perf: where the time of the daemon's worker goes.
bench_packages=(fio qemu-utils libnbd-bin valgrind linux-perf e2fsprogs xfsprogs util-linux mount mmdebstrap debian-archive-keyring)

# install_packages PACKAGE...: installs those that are not there, and says so.
install_packages() {
    command -v dpkg-query > /dev/null || die "not a Debian-like host; install by hand: $*"
    local missing
    # Installing one package can remove another whose version does not fit it, so what is missing is looked at again.
    for _ in 1 2 3; do
        mapfile -t missing < <(missing_packages "$@")
        [ ${#missing[@]} -gt 0 ] || return 0
        say "installing missing host packages with apt: ${missing[*]}"
        as_root apt-get update -q < /dev/null > /dev/null || die "apt-get update failed"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" \
            < /dev/null > /dev/null || die "apt-get could not install: ${missing[*]}"
    done
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} = 0 ] || die "these packages do not fit together here: $*"
}

missing_packages() {
    local package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2> /dev/null | grep -qx installed || echo "$package"
    done
}

# debian_mirror: prints the mirror to build from: $DEBIAN_MIRROR, else the one that this host's apt uses.
debian_mirror() {
    local site=${DEBIAN_MIRROR:-}
    [ -n "$site" ] || site=$(apt_mirror)
    if [ -z "$site" ]; then
        # apt tells only of lists that it has fetched.
        as_root apt-get update -q < /dev/null > /dev/null || die "apt-get update failed"
        site=$(apt_mirror)
    fi
    [ -n "$site" ] || die "apt here has no Debian mirror; name one in DEBIAN_MIRROR"
    printf '%s\n' "$site"
}

apt_mirror() {
    # shellcheck disable=SC2016 # apt's own format string
    apt-get indextargets --format '$(SITE)' 'Label: Debian' 2> /dev/null | head -n 1
}
