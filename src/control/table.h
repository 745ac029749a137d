/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables for people: columns as wide as they must be, numbers to the right, nothing that could upset a
 * terminal. */
#ifndef GW_CONTROL_TABLE_H
#define GW_CONTROL_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct gw_table;

struct gw_column {
	const char *title;
	bool right; /* numbers */
};

/* `columns` must outlive the table. Running out of memory later shows as missing cells. NULL: no memory. */
struct gw_table *gw_table_new(const struct gw_column *columns, size_t n);
void gw_table_free(struct gw_table *t);

/* Cells are added from left to right, row by row. An empty one shows as "-",
 * one that is a single blank as nothing. */
void gw_table_cell(struct gw_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prints titles and rows, each line after `indent` spaces; no trailing blanks. */
void gw_table_print(const struct gw_table *t, FILE *out, int indent);

/* Copies `text` without control characters (also those in UTF-8's C1 range). Returns buf. */
const char *gw_clean_text(char *buf, size_t len, const char *text);

/* Columns that `text` takes: characters, not bytes. */
size_t gw_text_width(const char *text);

#endif
