/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables for people. */
#include "control/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define CELL_MAX 512

struct gw_table {
	const struct gw_column *columns;
	size_t n_columns;
	char **cells;
	size_t n_cells;
};

struct gw_table *gw_table_new(const struct gw_column *columns, size_t n)
{
	struct gw_table *t = calloc(1, sizeof(*t));

	if (t) {
		t->columns = columns;
		t->n_columns = n;
	}
	return t;
}

void gw_table_free(struct gw_table *t)
{
	if (!t)
		return;
	while (t->n_cells > 0)
		free(t->cells[--t->n_cells]);
	free(t->cells);
	free(t);
}

const char *gw_clean_text(char *buf, size_t len, const char *text)
{
	size_t at = 0, i;

	for (i = 0; text[i] && at + 1 < len; i++) {
		unsigned char c = (unsigned char)text[i], next = (unsigned char)text[i + 1];

		if (c == 0xc2 && next >= 0x80 && next < 0xa0) {
			i++;
			c = '?';
		}
		if (c < 0x20 || c == 0x7f)
			c = c == '\n' || c == '\t' ? ' ' : '?';
		buf[at++] = (char)c;
	}
	buf[at] = '\0';
	return buf;
}

size_t gw_text_width(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

void gw_table_cell(struct gw_table *t, const char *fmt, ...)
{
	char text[CELL_MAX], clean[CELL_MAX];
	char **grown;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	grown = realloc(t->cells, (t->n_cells + 1) * sizeof(*grown));
	if (!grown)
		return;
	t->cells = grown;
	t->cells[t->n_cells] = strdup(text[0] ? gw_clean_text(clean, sizeof(clean), text) : "-");
	if (t->cells[t->n_cells])
		t->n_cells++;
}

static size_t width_of(const struct gw_table *t, size_t column)
{
	size_t width = strlen(t->columns[column].title), i;

	for (i = column; i < t->n_cells; i += t->n_columns)
		width = GW_MAX(width, gw_text_width(t->cells[i]));
	return width;
}

static const char *text_at(const struct gw_table *t, size_t row, size_t column)
{
	const char *text =
		row == 0 ? t->columns[column].title : t->cells[(row - 1) * t->n_columns + column];

	return strcmp(text, " ") ? text : "";
}

/* One row; blanks are only written when something follows them. */
static void print_row(const struct gw_table *t, FILE *out, size_t row)
{
	size_t column, owed = 0;

	for (column = 0; column < t->n_columns; column++) {
		const char *text = text_at(t, row, column);
		size_t pad = width_of(t, column) - gw_text_width(text);

		if (t->columns[column].right)
			owed += pad;
		if (*text) {
			fprintf(out, "%*s%s", (int)owed, "", text);
			owed = 0;
		}
		owed += 2 + (t->columns[column].right ? 0 : pad);
	}
	putc('\n', out);
}

void gw_table_print(const struct gw_table *t, FILE *out, int indent)
{
	size_t row, rows = t->n_cells / t->n_columns;

	for (row = 0; row <= rows; row++) {
		fprintf(out, "%*s", indent, "");
		print_row(t, out, row);
	}
}
