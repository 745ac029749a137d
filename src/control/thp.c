/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon's own tmpfs with huge pages, for where the operator names none. */
#include "control/thp.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"

/* What ram_dir may hold is what the operator wants VMs to have; never more than the machine has. */
static uint64_t size_limit(const char *ram_dir)
{
	struct sysinfo machine;
	struct statfs fs;
	uint64_t limit;

	if (sysinfo(&machine) < 0)
		return 0;
	limit = (uint64_t)machine.totalram * machine.mem_unit;
	if (statfs(ram_dir, &fs) == 0 && fs.f_blocks) /* a tmpfs without a limit has no blocks */
		limit = GW_MIN(limit, (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize);
	return limit;
}

char *gw_thp_mount(const char *ram_dir)
{
	unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	char path[600], options[100];
	struct stat st, parent;
	bool there;

	snprintf(path, sizeof(path), "%s/thp", ram_dir);
	if (gw_mkdir_p(path, 0700) < 0 || stat(path, &st) < 0 || stat(ram_dir, &parent) < 0)
		return NULL;
	there = st.st_dev != parent.st_dev; /* by an earlier life, whose VMs may live in it */
	snprintf(options, sizeof(options), "huge=always,mode=0700,size=%" PRIu64, size_limit(ram_dir));
	if (mount("godwit-thp", path, "tmpfs", there ? flags | MS_REMOUNT : flags, options) == 0)
		return strdup(path);
	if (there) { /* mostly: there is more in it than that */
		gw_log_warning(NULL, "cannot limit %s to the size of %s: %s", path, ram_dir, strerror(errno));
		return strdup(path);
	}
	gw_log_info(NULL, "no tmpfs with huge pages (%s): pages = thp is not available", strerror(errno));
	rmdir(path);
	return NULL;
}

void gw_thp_unmount(const char *path)
{
	gw_autodir DIR *d = opendir(path);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.')
			return;
	if (d)
		closedir(gw_steal(&d));
	if (umount(path) == 0)
		rmdir(path);
}
