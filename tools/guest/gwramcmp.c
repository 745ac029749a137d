/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Compares two RAM files byte for byte, page by page; holes are zeros. Prints JSON, exits 1 when they differ. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define CHUNK_BYTES (64u * 1024)
#define SHOWN_MAX 16u

/* A file and where its next data lies, so that what is a hole on both sides is skipped. It is read, not
 * mapped: a read fault on a hole of a tmpfs file would allocate the page. */
struct ram {
	const char *path;
	int fd;
	uint64_t size;
	uint8_t chunk[CHUNK_BYTES];
	uint64_t data_begin, data_end; /* the extent at or after the last position asked for */
};

static void die(const char *path, const char *what)
{
	fprintf(stderr, "gwramcmp: %s: %s: %s\n", path, what, strerror(errno));
	exit(2);
}

static void ram_open(struct ram *r, const char *path)
{
	struct stat st;

	r->path = path;
	r->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (r->fd < 0 || fstat(r->fd, &st))
		die(path, "cannot open");
	r->size = (uint64_t)st.st_size;
}

/* The first byte at or after `at` that is not in a hole; the file's size when there is none. */
static uint64_t next_data(struct ram *r, uint64_t at)
{
	off_t begin, end;

	if (at < r->data_end)
		return at > r->data_begin ? at : r->data_begin;
	begin = lseek(r->fd, (off_t)at, SEEK_DATA);
	if (begin < 0 && errno == ENXIO) {
		r->data_begin = r->data_end = r->size;
		return r->size;
	}
	end = begin < 0 ? -1 : lseek(r->fd, begin, SEEK_HOLE);
	if (end < 0)
		die(r->path, "cannot find data and holes");
	r->data_begin = (uint64_t)begin;
	r->data_end = (uint64_t)end;
	return r->data_begin;
}

static void ram_read(struct ram *r, uint64_t at, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pread(r->fd, r->chunk + done, len - done, (off_t)(at + done));

		if (n <= 0)
			die(r->path, "cannot read");
		done += (size_t)n;
	}
}

struct result {
	uint64_t compared, different;
	uint64_t first[SHOWN_MAX];
};

static void compare_chunk(struct ram *a, struct ram *b, uint64_t at, size_t len, struct result *res)
{
	ram_read(a, at, len);
	ram_read(b, at, len);
	for (size_t off = 0; off < len; off += PAGE_BYTES) {
		res->compared++;
		if (!memcmp(a->chunk + off, b->chunk + off, PAGE_BYTES))
			continue;
		if (res->different < SHOWN_MAX)
			res->first[res->different] = (at + off) / PAGE_BYTES;
		res->different++;
	}
}

int main(int argc, char **argv)
{
	static struct ram a, b;
	struct result res = { 0 };

	if (argc != 3) {
		fprintf(stderr, "usage: gwramcmp FILE FILE\n");
		return 2;
	}
	ram_open(&a, argv[1]);
	ram_open(&b, argv[2]);
	if (a.size != b.size || a.size % PAGE_BYTES) {
		fprintf(stderr, "gwramcmp: sizes are %llu and %llu, not the same number of pages\n",
		        (unsigned long long)a.size, (unsigned long long)b.size);
		return 2;
	}
	for (uint64_t at = 0; at < a.size;) {
		uint64_t in_a = next_data(&a, at), in_b = next_data(&b, at);
		size_t len;

		at = (in_a < in_b ? in_a : in_b) / PAGE_BYTES * PAGE_BYTES;
		if (at >= a.size)
			break;
		len = a.size - at < CHUNK_BYTES ? (size_t)(a.size - at) : CHUNK_BYTES;
		compare_chunk(&a, &b, at, len, &res);
		at += len;
	}
	printf("{\"pages\": %llu, \"compared\": %llu, \"different\": %llu, \"first\": [",
	       (unsigned long long)(a.size / PAGE_BYTES), (unsigned long long)res.compared,
	       (unsigned long long)res.different);
	for (uint64_t i = 0; i < res.different && i < SHOWN_MAX; i++)
		printf("%s%llu", i ? ", " : "", (unsigned long long)res.first[i]);
	printf("]}\n");
	return res.different ? 1 : 0;
}
