# SPDX-License-Identifier: LGPL-2.1-or-later
# Thin front of meson: every target stands alone on a fresh Debian 12 as root.
BUILD ?= build
PYTHON ?= /usr/bin/python3

.PHONY: all deps build guests demo test test-unit test-guest soak bench fuzz lint features install clean

all: build

# Installs what is missing; quick when nothing is.
deps:
	@tools/install-deps

build: deps
	@test -f $(BUILD)/build.ninja || CC=$${CC:-gcc} meson setup $(BUILD) --prefix=/usr
	@ninja -C $(BUILD)

# Kernel, initramfs, firmware guests and gauges below $(BUILD)/guest.
guests: deps
	@tools/guest/build $(BUILD)/guest

# Two hosts, a working guest, there and back.
demo: build guests
	@GW_BUILD=$(BUILD) GW_GUEST=$(BUILD)/guest $(PYTHON) tools/demo

test: test-unit test-guest

test-unit: build
	@meson test -C $(BUILD) --print-errorlogs

test-guest: build guests
	@GW_BUILD=$(BUILD) GW_GUEST=$(BUILD)/guest $(PYTHON) -m pytest -q tests/guest \
		--junitxml=$(BUILD)/test-guest.xml $(PYTEST_ARGS)

# The long runs: thirty in a row under each load, twenty moves to and fro.
soak: build guests
	@GW_REPEAT=30 GW_MOVES=20 GW_BUILD=$(BUILD) GW_GUEST=$(BUILD)/guest $(PYTHON) -m pytest -q tests/guest \
		-k "N3" --junitxml=$(BUILD)/soak.xml $(PYTEST_ARGS)

# Godwit and QEMU's own modes on the same guests; BENCH_ARGS=--quick takes three minutes.
bench: build guests
	@GW_BUILD=$(BUILD) GW_GUEST=$(BUILD)/guest $(PYTHON) tests/bench/run $(BENCH_ARGS)

clean:
	rm -rf build build-*
