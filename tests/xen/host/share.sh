# shellcheck shell=bash
# One run: the folder shared with dom0, the emulated machine's life, and what is kept of it. Sourced by `run`.

share=$run_dir/share
release=${CARGO_TARGET_DIR:-$repo/target}/release

# product_check: there is something to test, and it is newer than nothing: no case is ever skipped for lack of it.
product_check() {
    local file
    for file in "$release/powerfail" "$release/examples/map_or_copy" "$repo"/target/deb/{1,2}/cowback_*.deb; do
        [ "$mode" != tests ] || [ -f "$file" ] || die "$file is missing: run make xen-test-programs first"
    done
    for file in "$release/cowback" "$release/cowbackd" "$repo/hotplug-scripts/block-cow" \
        "$repo/packaging/cowbackd.service"; do
        [ -f "$file" ] || die "$file is missing: run cargo build --release first"
    done
}

# Cases that Xen 4.17 cannot run, and why.
declare -A not_on_4_17=(
    [25-hvm]="since disks without backendtype=tap have no socket, at which QEMU would find them"
    [58-xentop]="since xentop shows there what the kernel's blkback serves, and nothing else"
)

# make_share MODE PATTERN...
make_share() {
    local mode=$1 file pattern name
    shift
    rm -rf "$run_dir"
    mkdir -p "$share"/{product,cases,out}
    if [ -n "$control" ]; then
        touch "$share/control"
    else
        cp "$release/cowback" "$release/cowbackd" "$repo/hotplug-scripts/block-cow" \
            "$repo/packaging/cowbackd.service" "$share/product/"
    fi
    cp -r "$xen_tests/dom0" "$share/"
    echo "$mode" > "$share/mode"
    echo "$case_timeout_s" > "$share/case-timeout-s"
    [ -z "${COMINGS:-}" ] || echo "$COMINGS" > "$share/comings"
    [ -z "${DESTRUCTIONS:-}" ] || echo "$DESTRUCTIONS" > "$share/destructions"
    touch "$share/out/progress"
    [ "$mode" = tests ] || return 0
    for file in "$cases_dir"/*.sh; do
        [ $# -gt 0 ] || cp "$file" "$share/cases/"
        for pattern in "$@"; do
            case $(basename "$file" .sh) in *$pattern*) cp "$file" "$share/cases/" ;; esac
        done
    done
    [ "$xen_version" != 4.17 ] || for name in "${!not_on_4_17[@]}"; do
        [ -f "$share/cases/$name.sh" ] || continue
        say "NOT RUN on Xen $xen_version: $name, ${not_on_4_17[$name]}"
        rm "$share/cases/$name.sh"
    done
    [ -n "$(ls "$share/cases")" ] || die "no case matches: $*"
    # Cases run them; they are no part of the product.
    cp "$release/powerfail" "$release/examples/map_or_copy" "$repo"/target/deb/{1,2}/cowback_*.deb "$share/product/"
}

# take_over_passed: what has passed in the attempt before need not pass again.
take_over_passed() {
    local marker
    for marker in "$results"/*/passed; do
        [ ! -e "$marker" ] || cp -r "$(dirname "$marker")" "$share/out/"
    done
}

# run_emulated_machine: boots, shows progress as it comes, and ends when dom0 powers off or hangs.
run_emulated_machine() {
    local started=$SECONDS tail_pid
    say "booting Xen in QEMU (no hardware virtualisation needed)"
    "${qemu[@]}" -serial "file:$run_dir/console.log" -monitor none < /dev/null > "$run_dir/qemu.log" 2>&1 &
    qemu_pid=$!
    tail -n +1 -f "$share/out/progress" &
    tail_pid=$!
    trap 'kill "$qemu_pid" "$tail_pid" 2> /dev/null || true' EXIT
    hung=
    while kill -0 "$qemu_pid" 2> /dev/null; do
        if [ ! -s "$share/out/progress" ] && [ $((SECONDS - started)) -ge "$boot_timeout_s" ]; then
            hung="dom0 did not come up within $boot_timeout_s s"
        elif [ $((SECONDS - started)) -ge "$total_timeout_s" ]; then
            hung="not finished after $total_timeout_s s"
        fi
        if [ -n "$hung" ]; then
            kill "$qemu_pid"
            break
        fi
        sleep 1
    done
    wait "$qemu_pid" || true
    sleep 1
    kill "$tail_pid"
    trap - EXIT
}

keep_results() {
    rm -rf "$results"
    mkdir -p "$results"
    cp -r "$share/out/." "$results/"
    cp "$run_dir/console.log" "$run_dir/qemu.log" "$results/"
    rm -f "$run_dir"/*.qcow2
}

# emulator_fault: a fault of the emulation, and no failure of a case. Two are known, and anything else is none:
#
# The machine ended early. Linux patches its own code by way of breakpoints; with a thread per processor, QEMU sometimes still runs a
# breakpoint that another processor has already taken away, and dom0 panics with "Oops: int3". Nothing that runs in dom0 can
# cause this.
#
# A guest's kernel crashed with flags that no processor has: those of x86 above bit 21 are always zero. They are the processor's
# own, kept by Xen, and nothing outside of Xen can write them. Guests of cases that passed nevertheless excuse nothing.
emulator_fault() {
    local folder not_passed=()
    for folder in "$results"/*/; do
        [ -e "$folder/passed" ] || not_passed+=("$folder")
    done
    if [ ! -s "$results/summary" ]; then
        grep -q 'Oops: int3' "$results/console.log"
    else
        # Without a folder grep would search this one.
        [ ${#not_passed[@]} != 0 ] && ! grep -q ' passed, 0 failed$' "$results/summary" &&
            grep -rqE 'EFLAGS: (0[1-9a-f]|[1-9a-f].|00[4-9a-f])' "${not_passed[@]}" --include='guest-*.log'
    fi
}

# report: prints the outcome, alone on the last line, and exits with it.
report() {
    if [ ! -s "$results/summary" ]; then
        say "FAILED: ${hung:-the emulated machine ended before its runner did}; the end of its console:"
        tail -n 25 "$results/console.log" "$results/qemu.log"
        say "logs: ${results#"$repo"/}"
        say "0 passed, 1 failed"
        exit 1
    fi
    say "logs: ${results#"$repo"/}"
    [ ! -e "$results/failures" ] || cat "$results/failures"
    cat "$results/summary"
    grep -qE '^[1-9][0-9]* passed, 0 failed$' "$results/summary"
}
