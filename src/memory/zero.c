/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The zero test: most pages that hold data are told by their first line, the rest by 32-byte vectors. */
#include <string.h>

#include "memory/ram.h"

typedef uint64_t vec __attribute__((vector_size(32)));

/* gcc makes one version for machines with AVX2 and one without; the loader chooses. clang's callers would need the
 * attribute too, and the thread sanitizer does not survive being called by the loader. */
#if defined(__clang__) || defined(__SANITIZE_THREAD__)
#define CLONES
#else
#define CLONES __attribute__((target_clones("avx2", "default")))
#endif

CLONES bool gw_page_is_zero(const void *page)
{
	const vec *v = page;
	const uint64_t *w = page;

	if (w[0] || (w[GW_PAGE_BYTES / 16] | w[GW_PAGE_BYTES / 8 - 1])) /* three cache lines only where one says nothing */
		return false;
	for (size_t i = 0; i < GW_PAGE_BYTES / sizeof(vec); i += 8) {
		vec a = v[i] | v[i + 1] | v[i + 2] | v[i + 3] | v[i + 4] | v[i + 5] | v[i + 6] | v[i + 7];

		if (a[0] | a[1] | a[2] | a[3])
			return false;
	}
	return true;
}
