# SPDX-License-Identifier: LGPL-2.1-or-later
# Thin front of meson: every target stands alone on a fresh Debian 12 as root.
BUILD ?= build
PYTHON ?= /usr/bin/python3
SECONDS ?= 60
export BUILD
GUEST_ENV = GW_BUILD=$(BUILD) GW_GUEST=$(BUILD)/guest
PYTEST = $(GUEST_ENV) $(PYTHON) -m pytest -p no:cacheprovider

.PHONY: all deps deps-test build guests demo test test-unit test-guest soak bench fuzz lint features install clean

all: build

# Installs what is missing; quick when nothing is.
deps:
	@tools/install-deps

deps-test: deps
	@tools/install-deps tools/packages-test.txt

build: deps
	@test -f $(BUILD)/build.ninja || CC=$${CC:-gcc} meson setup $(BUILD) --prefix=/usr
	@ninja -C $(BUILD)

# Kernel, initramfs, firmware guests and gauges below $(BUILD)/guest.
guests: deps
	@tools/guest/build $(BUILD)/guest

# Two hosts, a working guest, there and back.
demo: build guests
	@$(GUEST_ENV) $(PYTHON) tools/demo

# Everything, in stages; ends with "N passed, N failed". STAGES="build unit" runs only these, PYTEST_ARGS goes to
# the guest tests.
test: deps-test
	@$(PYTHON) tools/run-tests $(STAGES)

test-unit: deps-test
	@$(PYTHON) tools/run-tests build source unit

test-guest: deps-test
	@$(PYTHON) tools/run-tests build guests guest

# The long runs: thirty in a row under each load, twenty moves to and fro.
soak: deps-test build guests
	@GW_REPEAT=30 GW_MOVES=20 $(PYTEST) -q tests/guest -k "N3 or N7_N8 or byte_for_byte" --junitxml=$(BUILD)/soak.xml $(PYTEST_ARGS)

# Godwit and QEMU's own modes on the same guests, about an hour; BENCH_ARGS=--quick takes three minutes, --resume goes on.
bench: build guests
	@$(GUEST_ENV) $(PYTHON) tests/bench/run $(BENCH_ARGS)

# Each parser for SECONDS with libFuzzer; TARGETS="fuzz_codec" runs only these.
fuzz: deps-test
	@SECONDS_EACH=$(SECONDS) tools/fuzz $(TARGETS)

# Static analysis, and what every file must have.
lint: deps-test build
	@tools/lint

# Every requirement, and whether the test that proves it passed in the last `make test`.
features:
	@$(PYTHON) tools/features $(BUILD)/test-results.json

# DESTDIR is obeyed. Uses the prefix that $(BUILD) was set up with, /usr by default.
install: build
	@DESTDIR="$(DESTDIR)" meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-clang $(BUILD)-fuzz
