# One gate for people: `make check` before a commit, `make test` for everything. `make demo` shows the product on real Xen.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

nextest := $(shell command -v cargo-nextest 2> /dev/null)
scripts := $(shell git ls-files --cached --others --exclude-standard | xargs -r grep -lE '^\#!.*\b(ba)?sh$$|^\# shellcheck shell=' -- 2> /dev/null)

.PHONY: build programs demo check test api-test monitoring-test xen-test xen-nested-test xen-test-programs xen-shell crash fuzz fuzz-keep hotplug-test bench bench-report xen-bench xen-bench-report deb deps deps-build deps-check deps-xen deps-bench deps-deb fmt clippy unit-test package-test shellcheck

build: deps-build
	cargo build --release --locked -p cowback -p cowbackd

# Two guests on one base image on real Xen, in an emulated machine. Needs root or sudo the first time.
demo: build deps-xen
	tests/xen/demo

check: deps-build deps-check fmt clippy unit-test package-test shellcheck

# The disks of the emulated machine are made while there is something else to do. Whoever is not root may be asked for a password, and
# needs the terminal for that: then it is done later.
# The emulated machine leaves the host's processors idle for much of the time: there is room for what needs nothing else.
# Behind it fuzzers have a fifth to two thirds of the speed that they have by themselves, so they have more time there.
test: SECONDS = 45
test: deps-build deps-check deps-xen
	tests/side-by-side $(if $(filter 0,$(shell id -u)),tests/xen/prepare,true) -- $(MAKE) check api-test monitoring-test hotplug-test
	tests/side-by-side $(MAKE) SECONDS=$(SECONDS) fuzz crash -- $(MAKE) xen-test

# All programs and tests for them, at once: each choice of packages has its own features, so their dependencies would be built again.
programs: deps-build
	cargo build --workspace --all-targets --locked

# The control API against its own description.
api-test: programs deps-check
	tests/api/run

# Its metrics and the examples for monitoring, with a Prometheus.
monitoring-test: programs deps-check
	tests/monitoring/run

# Every rule of the engine broken once, every state that a power failure can leave, up to a bound: five minutes.
crash: deps-build
	tests/crash/broken-engine/run
	cargo run --release --locked -p crash

# Each target for so many seconds, as many at a time as there are processors. `make fuzz SECONDS=7200` for a long run,
# `make fuzz FUZZ='engine disk'` for some of them, `make fuzz-keep` puts what a run has reached into the corpus.
SECONDS ?= 60
fuzz: deps-build
	cargo clippy -p fuzz --all-targets --features libfuzzer --locked -- -D warnings
	tests/fuzz/run $(SECONDS) $(FUZZ)

fuzz-keep: deps-build
	tests/fuzz/run --keep $(FUZZ)

# Everything against raw files and qemu-nbd, side by side: a quarter of an hour on a machine that does nothing else. Needs
# root. BENCH_ARGS='--quick', '--only ROW', '--rounds N'.
bench: deps-build deps-bench
	cargo build --release --locked -p cowback -p cowbackd -p simxen-shim -p bench
	target/release/bench run --json target/bench/bench.json $(BENCH_ARGS)

# docs/performance.md, from what `make bench` has measured.
bench-report:
	cargo build --release --locked -p bench
	target/release/bench report target/bench/bench.json > target/bench/performance.md
	mv target/bench/performance.md docs/performance.md

# Xen's ways of giving a disk to a guest, side by side on real Xen in an emulated machine: three quarters of an hour on a machine that
# does nothing else. XEN_BENCH_ARGS='--quick', '--rounds N', '--rounds-2 N' (with two vcpus).
xen-bench: build deps-xen
	cargo build --release --locked -p bench
	tests/xen/bench/run $(XEN_BENCH_ARGS)
	target/release/bench xen-collect target/bench/xen --json target/bench/xen-bench.json

# docs/performance-xen.md, from what `make xen-bench` has measured.
xen-bench-report:
	cargo build --release --locked -p bench
	target/release/bench xen-report target/bench/xen-bench.json > target/bench/performance-xen.md
	mv target/bench/performance-xen.md docs/performance-xen.md

# The Debian package, in target/deb, and what lintian, shells and links say of it.
deb: build deps-deb
	cargo build --release --locked -p manuals
	packaging/debian/build target/deb
	packaging/debian/check target/deb/cowback_*.deb

# What dpkg runs as the package comes and goes: an upgrade or a removal must not strand guests. And its units.
package-test: programs deps-check
	packaging/debian/test $(or $(CARGO_TARGET_DIR),target)/debug/cowbackd
	packaging/test-units

hotplug-test:
	tests/hotplug/run

xen-test: build deps-xen xen-test-programs
	tests/xen/run

# PVH and HVM guests, on a machine with one processor. Not part of `make test`: it takes a quarter of an hour more.
xen-nested-test: build deps-xen xen-test-programs
	tests/xen/run --nested

# What cases run in dom0 beside the product, and the product's package, twice: one is an upgrade of the other.
xen-test-programs: deps-build deps-deb build
	cargo build --release --locked -p powerfail
	cargo build --release --locked -p xengnttab --example map_or_copy
	cargo build --release --locked -p manuals
	for version in 1 2; do COWBACK_DEB_VERSION=$$version packaging/debian/build target/deb/$$version; done
	packaging/debian/check target/deb/2/cowback_*.deb

# dom0's console with the product installed, to look around.
xen-shell: build deps-xen
	tests/xen/run --shell

fmt:
	cargo fmt --all --check

clippy: deps-build
	cargo clippy --workspace --all-targets --locked -- -D warnings

# The simulation tests run the daemon and the shim that are built here.
unit-test: programs
ifeq ($(nextest),)
	cargo test --workspace --locked
else
	cargo nextest run --workspace --locked
	cargo test --workspace --locked --doc
endif

shellcheck: deps-check
	shellcheck -x $(scripts)

deps: deps-build deps-check deps-xen deps-bench deps-deb

deps-build:
	@tests/xen/host/install build

deps-check:
	@tests/xen/host/install check

deps-xen:
	@tests/xen/host/install xen

deps-bench:
	@tests/xen/host/install bench

deps-deb:
	@tests/xen/host/install deb
