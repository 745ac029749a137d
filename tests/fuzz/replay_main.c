/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs a fuzz target on each file named, and on each file of the folders named: corpus as a test. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "replay.h"

#define INPUT_MAX_BYTES (16u << 20)

static unsigned files_run;

static int run_file(const char *path)
{
	gw_autofree char *data = NULL;
	gw_autofree uint8_t *exact = NULL;
	size_t len;
	int r = gw_read_file(path, INPUT_MAX_BYTES, &data, &len);

	exact = r == 0 ? malloc(len ? len : 1) : NULL;
	if (!exact) {
		fprintf(stderr, "cannot read %s\n", path);
		return 1;
	}
	memcpy(exact, data, len); /* no byte behind the end: an overrun is seen by the sanitizer */
	LLVMFuzzerTestOneInput(exact, len);
	files_run++;
	return 0;
}

static int run_path(const char *path)
{
	gw_autodir DIR *dir = opendir(path);
	struct dirent *e;
	int failed = 0;

	if (!dir)
		return run_file(path);
	while (!failed && (e = readdir(dir))) {
		char file[4096];

		snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
		if (e->d_name[0] != '.')
			failed = run_path(file);
	}
	return failed;
}

int main(int argc, char **argv)
{
	int failed = argc < 2;

	for (int i = 1; i < argc && !failed; i++)
		failed = run_path(argv[i]);
	printf("%u inputs\n", files_run);
	return failed || !files_run;
}
