# shellcheck shell=bash
# What all host-side scripts share: where things are, how to say things, how to become root. Sourced, not run.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
xen_tests=$repo/tests/xen
cache=$repo/target/xen/cache
run_dir=$repo/target/xen/run
results=$repo/target/xen/results

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        die "this needs root or sudo: $*"
    fi
}

# stage_key FILE...: names a cached build by the content of what it is made from.
stage_key() {
    cat "$@" | sha256sum | cut -c 1-12
}

# built_stage NAME KEY: prints the folder of a finished cached build, fails if there is none.
built_stage() {
    local dir=$cache/$1-$2
    [ -f "$dir/.complete" ] && printf '%s\n' "$dir"
}

# build_stage NAME KEY COMMAND...: runs COMMAND with a fresh folder appended to its arguments, as root, and keeps the
# folder only if the command succeeds: an interrupted build is never mistaken for a finished one. Who comes while another builds waits.
build_stage() {
    local name=$1 key=$2 dir=$cache/$1-$2 started=$SECONDS turn
    shift 2
    mkdir -p "$cache"
    exec {turn}> "$cache/$name.lock"
    flock --nonblock "$turn" || { say "$name: waiting for another that builds it"; flock "$turn"; }
    build_in_turn "$@"
    exec {turn}>&-
}

# build_in_turn COMMAND...: what build_stage does, with its variables, once nobody else is at it.
build_in_turn() {
    if [ -f "$dir/.complete" ]; then
        say "$name: cached"
        return
    fi
    say "$name: building (once; kept in ${dir#"$repo"/})"
    as_root rm -rf "$cache/$name"-*
    mkdir "$dir.partial"
    if ! "$@" "$dir.partial" > "$cache/$name.log" 2>&1; then
        tail -n 40 "$cache/$name.log" >&2
        die "$name could not be built; the whole log is in $cache/$name.log"
    fi
    as_root touch "$dir.partial/.complete"
    mv "$dir.partial" "$dir"
    say "$name: built in $((SECONDS - started)) s"
}
