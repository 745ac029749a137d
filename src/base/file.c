/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole files and folders: reading, durable replacement, making and removing trees. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

int gw_read_file(const char *path, size_t max, char **ret, size_t *ret_len)
{
	gw_autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
	gw_autofree char *buf = NULL;
	size_t len = 0, room = 4096;

	if (fd < 0)
		return -errno;
	for (;;) {
		char *bigger = realloc(buf, room + 1);
		ssize_t n;

		if (!bigger)
			return -ENOMEM;
		buf = bigger;
		n = read(fd, buf + len, room - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
		if (len > max)
			return -EFBIG;
		if (len == room)
			room *= 2;
	}
	buf[len] = 0;
	*ret = gw_steal(&buf);
	if (ret_len)
		*ret_len = len;
	return 0;
}

static int fsync_parent(const char *path)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(path, '/');
	gw_autofd int fd = -1;

	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

int gw_write_file_durable(const char *path, const void *data, size_t len, unsigned mode)
{
	char tmp[PATH_MAX];
	gw_autofd int fd = -1;
	int r;

	if ((size_t)snprintf(tmp, sizeof(tmp), "%s.new", path) >= sizeof(tmp))
		return -ENAMETOOLONG;
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return -errno;
	r = gw_write_full(fd, data, len, &GW_WAIT_NONE);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	if (r < 0) {
		unlink(tmp);
		return r;
	}
	return fsync_parent(path);
}

int gw_mkdir_p(const char *path, unsigned mode)
{
	char part[PATH_MAX];
	struct stat st;

	if ((size_t)snprintf(part, sizeof(part), "%s", path) >= sizeof(part))
		return -ENAMETOOLONG;
	for (char *p = part + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	if (mkdir(part, mode) < 0 && errno != EEXIST)
		return -errno;
	if (stat(part, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

static int remove_children(int dirfd)
{
	gw_autodir DIR *d = fdopendir(dirfd);
	struct dirent *e;
	int first = 0;

	if (!d) {
		close(dirfd);
		return -ENOMEM;
	}
	while ((e = readdir(d))) {
		int r = 0, child;

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (unlinkat(dirfd, e->d_name, 0) == 0)
			continue;
		if (errno != EISDIR && errno != EPERM) {
			r = -errno;
		} else {
			child = openat(dirfd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			r = child < 0 ? -errno : remove_children(child);
			if (r == 0 && unlinkat(dirfd, e->d_name, AT_REMOVEDIR) < 0)
				r = -errno;
		}
		if (r < 0 && r != -ENOENT && !first)
			first = r;
	}
	return first;
}

int gw_remove_tree(const char *path)
{
	int fd, r;

	if (unlink(path) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	r = remove_children(fd);
	if (r == 0 && rmdir(path) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}
