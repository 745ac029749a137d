/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Suggestions for misspelt words. */
#include <stddef.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli.h"

#define WORD_MAX 31

/* Letters to insert, remove, replace or swap with their neighbour to make `b` of `a` (optimal string
 * alignment). Words longer than WORD_MAX count as far apart. */
static unsigned distance(const char *a, const char *b)
{
	unsigned d[WORD_MAX + 1][WORD_MAX + 1];
	size_t la = strlen(a), lb = strlen(b), i, j;

	if (la > WORD_MAX || lb > WORD_MAX)
		return WORD_MAX;
	for (i = 0; i <= la; i++)
		d[i][0] = (unsigned)i;
	for (j = 0; j <= lb; j++)
		d[0][j] = (unsigned)j;
	for (i = 1; i <= la; i++) {
		for (j = 1; j <= lb; j++) {
			unsigned replace = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);

			d[i][j] = GW_MIN(replace, GW_MIN(d[i - 1][j], d[i][j - 1]) + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d[i][j] = GW_MIN(d[i][j], d[i - 2][j - 2] + 1);
		}
	}
	return d[la][lb];
}

const char *cli_closest(const char *word, const char *const *names)
{
	unsigned best = (unsigned)GW_MIN(3, strlen(word) / 2 + 1);
	const char *found = NULL;

	for (; *names; names++) {
		/* A beginning is a better hint than a similar sound. */
		unsigned far = strlen(word) >= 3 && !strncmp(word, *names, strlen(word)) ?
			               0 : distance(word, *names);

		if (far < best) {
			best = far;
			found = *names;
		}
	}
	return found;
}
