# SPDX-License-Identifier: LGPL-2.1-or-later
# Thin front of meson: every target stands alone on a fresh Debian 12 as root.
BUILD ?= build
PYTHON ?= /usr/bin/python3

.PHONY: all deps build guests demo test test-unit test-guest bench fuzz lint features install clean

all: build

# Installs what is missing; quick when nothing is.
deps:
	@tools/install-deps

build: deps
	@test -f $(BUILD)/build.ninja || CC=$${CC:-gcc} meson setup $(BUILD) --prefix=/usr
	@ninja -C $(BUILD)

clean:
	rm -rf build build-*
