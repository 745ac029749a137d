/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The entry point that every fuzz target defines: libFuzzer's, and that of replay_main.c. */
#ifndef GW_TESTS_REPLAY_H
#define GW_TESTS_REPLAY_H

#include <stddef.h>
#include <stdint.h>

/* Returns 0; a fault is a crash. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
