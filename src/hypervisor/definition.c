/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parses, checks and formats the VM definition.
 *
 * The INI syntax is inih's. Three of its limits are worked around in the line reader below: lines are
 * at most 199 characters (a longer value is kept aside and a stand-in is given to inih), the handler is
 * not told of a section without keys (an extra line is put in after each header), nor of line numbers.
 */
#include "hypervisor/definition.h"

#include <ini.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "hypervisor/definition_keys.h"

#define LINE_MAX_CHARS 8192
#define SECTION_MAX_CHARS 48 /* inih cuts longer ones without a word */
#define PART_NAME_MAX 31
#define NAMES_MAX 8
/* Stands for "a section begins here"; control characters cannot come from the text. */
#define SECTION_KEY "\001section"
#define BLANKS " \t\r"

_Static_assert(GW_VM_DISKS_MAX <= NAMES_MAX && GW_VM_NICS_MAX <= NAMES_MAX &&
               GW_VM_SERIALS_MAX <= NAMES_MAX, "room for section names");

struct parse {
	struct gw_vm_def *def;
	struct gw_error *err;
	int failed; /* negative errno of the first error */

	const char *at; /* the rest of the text */
	unsigned line;
	bool announce; /* a section header was just read */
	char *long_value;

	int section; /* enum gw_def_section_kind, -1 before the first */
	void *object;
	uint64_t keys_seen;
	unsigned n_of[GW_DEF_SECTIONS];
	char names[GW_DEF_SECTIONS][NAMES_MAX][PART_NAME_MAX + 1];
};

__attribute__((format(printf, 3, 4)))
static int fail(struct parse *p, int code, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	if (p->failed)
		return p->failed;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	p->failed = gw_error_set(p->err, code, "line %u: %s", p->line, text);
	return p->failed;
}

/* ---- lines ---- */

/* As inih does it: ';' after a blank begins a comment. */
static size_t without_comment(const char *text, size_t len)
{
	for (size_t i = 1; i < len; i++)
		if (text[i] == ';' && strchr(BLANKS, text[i - 1]))
			len = i;
	while (len && strchr(BLANKS, text[len - 1]))
		len--;
	return len;
}

static void put_aside(struct parse *p, char *buf, size_t size, const char *line, size_t len)
{
	size_t key = 0;

	while (key < len && line[key] != '=' && line[key] != ':')
		key++;
	if (key == len || key + 5 > size) {
		fail(p, -EINVAL, "neither a [section] nor 'key = value'");
		return;
	}
	snprintf(buf, size, "%.*s=.\n", (int)key, line);
	line += key + 1;
	len -= key + 1;
	while (len && strchr(BLANKS, *line)) {
		line++;
		len--;
	}
	p->long_value = strndup(line, len);
	if (!p->long_value)
		fail(p, -ENOMEM, "out of memory");
}

static void check_header(struct parse *p, const char *line, size_t len)
{
	const char *end = memchr(line, ']', len);

	if (!end)
		fail(p, -EINVAL, "'[' without ']'");
	else if (end - line > SECTION_MAX_CHARS)
		fail(p, -EINVAL, "section name too long");
	else if (without_comment(line, len) != (size_t)(end - line) + 1)
		fail(p, -EINVAL, "text after ']'");
	p->announce = true;
}

static void pass_line(struct parse *p, char *buf, size_t size, const char *line, size_t len)
{
	bool comment = len == 0 || *line == ';' || *line == '#';

	free(gw_steal(&p->long_value));
	if (len > LINE_MAX_CHARS)
		fail(p, -EINVAL, "longer than %d characters", LINE_MAX_CHARS);
	else if (comment)
		snprintf(buf, size, "\n");
	else if (*line == '[')
		check_header(p, line, len);
	else
		len = without_comment(line, len);
	if (!p->failed && !comment && *line != '[' && !memchr(line, '=', len) && !memchr(line, ':', len))
		fail(p, -EINVAL, "neither a [section] nor 'key = value'");
	if (p->failed || comment)
		return;
	if (len + 2 > size)
		put_aside(p, buf, size, line, len);
	else
		snprintf(buf, size, "%.*s\n", (int)len, line);
}

/* inih's reader, in the manner of fgets(). Leading blanks are dropped: inih would take the line for a
 * continuation of the value before it. */
static char *read_line(char *buf, int size, void *stream)
{
	struct parse *p = stream;
	size_t len;

	if (p->failed)
		return NULL;
	if (p->announce) {
		p->announce = false;
		snprintf(buf, (size_t)size, SECTION_KEY "=1\n");
		return buf;
	}
	if (!*p->at)
		return NULL;
	p->line++;
	p->at += strspn(p->at, BLANKS);
	len = strcspn(p->at, "\n");
	buf[0] = 0;
	pass_line(p, buf, (size_t)size, p->at, len && p->at[len - 1] == '\r' ? len - 1 : len);
	p->at += len;
	if (*p->at)
		p->at++;
	return p->failed ? NULL : buf;
}

/* ---- sections and keys ---- */

static int begin_part(struct parse *p, int kind, const char *name)
{
	const struct gw_def_section *s = &gw_def_sections[kind];
	unsigned n = p->n_of[kind];

	if (!gw_def_is_name(name, PART_NAME_MAX))
		return fail(p, -EINVAL, "[%s NAME] needs a name (up to %d of a-z A-Z 0-9 _ . -)", s->name,
		            PART_NAME_MAX);
	for (unsigned i = 0; i < n; i++)
		if (strcmp(p->names[kind][i], name) == 0)
			return fail(p, -EINVAL, "[%s %s] is there twice", s->name, name);
	if (n == s->max)
		return fail(p, -EINVAL, "more than %u [%s] sections", s->max, s->name);
	memcpy(p->names[kind][n], name, strlen(name) + 1);
	switch (kind) {
	case GW_DEF_DISK:
		p->object = &p->def->disks[p->def->n_disks++];
		break;
	case GW_DEF_NIC:
		p->object = &p->def->nics[p->def->n_nics++];
		break;
	default:
		p->object = &p->def->channels[p->def->n_channels];
		p->def->channels[p->def->n_channels].name = strdup(name);
		if (!p->def->channels[p->def->n_channels++].name)
			return fail(p, -ENOMEM, "out of memory");
	}
	p->n_of[kind]++;
	return 0;
}

static int begin_section(struct parse *p, const char *text)
{
	size_t len = strcspn(text, BLANKS);
	const char *name = text + len + strspn(text + len, BLANKS);

	p->keys_seen = 0;
	for (int kind = 0; kind < GW_DEF_SECTIONS; kind++) {
		const struct gw_def_section *s = &gw_def_sections[kind];

		if (strlen(s->name) != len || strncmp(s->name, text, len) != 0)
			continue;
		p->section = kind;
		if (s->named)
			return begin_part(p, kind, name);
		if (*name)
			return fail(p, -EINVAL, "[%s] takes no name", s->name);
		if (p->n_of[kind]++)
			return fail(p, -EINVAL, "[%s] is there twice", s->name);
		p->object = p->def;
		return 0;
	}
	return fail(p, -EINVAL, "unknown section [%s] (known: vm, boot, disk NAME, nic NAME, channel NAME, "
	            "qemu)", text);
}

static int unknown_key(struct parse *p, const struct gw_def_section *s, const char *name)
{
	char known[256] = "";
	size_t used = 0;

	for (const struct gw_def_key *k = s->keys; k->name; k++)
		used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "",
		                         k->name);
	return fail(p, -EINVAL, "unknown key '%.64s' in [%s] (known: %s)", name, s->name,
	            used ? known : "none");
}

static int set_key(struct parse *p, const char *name, const char *value)
{
	const struct gw_def_section *s = &gw_def_sections[p->section];
	const char *why = "cannot be stored";
	int r;

	for (unsigned i = 0; s->keys[i].name; i++) {
		const struct gw_def_key *k = &s->keys[i];

		if (strcmp(k->name, name) != 0)
			continue;
		if (!*value || *value == ';')
			return fail(p, -EINVAL, "%s: no value", name);
		if (p->keys_seen & 1ull << i && p->section != GW_DEF_QEMU)
			return fail(p, -EINVAL, "%s is there twice", name);
		p->keys_seen |= 1ull << i;
		r = k->set((char *)p->object + k->offset, value, &why);
		return r < 0 ? fail(p, r, "%s: '%.64s' %s", name, value, why) : 0;
	}
	return unknown_key(p, s, name);
}

static int on_pair(void *userdata, const char *section, const char *name, const char *value)
{
	struct parse *p = userdata;

	if (p->failed)
		return 0;
	if (strcmp(name, SECTION_KEY) == 0)
		return begin_section(p, section) == 0;
	if (p->section < 0)
		return fail(p, -EINVAL, "a key before the first [section]") == 0;
	return set_key(p, name, p->long_value ? p->long_value : value) == 0;
}

/* ---- defaults and checks of the whole ---- */

static int make_uuid(char *ret)
{
	unsigned char b[16];
	int n;

	if (getrandom(b, sizeof(b), 0) != (ssize_t)sizeof(b))
		return -EIO;
	b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
	b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
	n = 0;
	for (unsigned i = 0; i < sizeof(b); i++)
		n += sprintf(ret + n, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
	return 0;
}

/* The same VM gets the same addresses wherever its definition is read. */
static char *make_mac(const char *uuid, unsigned index)
{
	uint32_t hash = 2166136261u;
	char *mac = NULL;

	for (const char *c = uuid; *c; c++)
		hash = (hash ^ (unsigned char)*c) * 16777619u;
	hash = (hash ^ hash >> 24) + index;
	if (asprintf(&mac, "52:54:00:%02x:%02x:%02x", hash >> 16 & 0xff, hash >> 8 & 0xff, hash & 0xff) < 0)
		return NULL;
	return mac;
}

static int fill(char **field, const char *value)
{
	if (!*field)
		*field = strdup(value);
	return *field ? 0 : -ENOMEM;
}

static int fill_defaults(struct gw_vm_def *def)
{
	int r = def->uuid[0] ? 0 : make_uuid(def->uuid);

	if (!def->cpus)
		def->cpus = 1;
	r = r ? r : fill(&def->machine, "q35");
	for (unsigned i = 0; i < def->n_disks && r == 0; i++) {
		r = fill(&def->disks[i].format, "raw");
		r = r ? r : fill(&def->disks[i].cache, "none");
	}
	for (unsigned i = 0; i < def->n_nics && r == 0; i++) {
		r = fill(&def->nics[i].model, "virtio-net-pci");
		if (r == 0 && !def->nics[i].mac) {
			def->nics[i].mac = make_mac(def->uuid, i);
			r = def->nics[i].mac ? 0 : -ENOMEM;
		}
	}
	return r;
}

static int check_whole(const struct gw_vm_def *def, struct gw_error *err)
{
	if (!def->name[0])
		return gw_error_set(err, -EINVAL, "[vm] has no name");
	if (!def->memory_bytes)
		return gw_error_set(err, -EINVAL, "[vm] has no memory (write memory = 512M)");
	if (def->backing == GW_BACKING_HUGETLB && def->memory_bytes % (2 * GW_MIB))
		return gw_error_set(err, -EINVAL, "memory is not a multiple of 2M, which pages = hugetlb needs");
	if ((def->initrd || def->append) && !def->kernel)
		return gw_error_set(err, -EINVAL, "[boot] has no kernel, which initrd and append need");
	for (unsigned i = 0; i < def->n_disks; i++)
		if (!def->disks[i].path)
			return gw_error_set(err, -EINVAL, "[disk] number %u has no path", i + 1);
	for (unsigned i = 0; i < def->n_nics; i++) {
		if (def->nics[i].tap && !def->nics[i].bridge)
			return gw_error_set(err, -EINVAL, "[nic] number %u has a tap and no bridge", i + 1);
		for (unsigned j = 0; j < i; j++)
			if (strcmp(def->nics[i].mac, def->nics[j].mac) == 0)
				return gw_error_set(err, -EINVAL, "two NICs have the MAC address %s",
				                    def->nics[i].mac);
	}
	return 0;
}

/* What may not be in the text at all: it goes into JSON, command lines and files. */
static int check_text(const char *text, struct gw_error *err)
{
	size_t len = strnlen(text, GW_DEFINITION_TEXT_MAX + 1);
	unsigned line = 1;
	json_t *string;

	if (len > GW_DEFINITION_TEXT_MAX)
		return gw_error_set(err, -E2BIG, "the definition is longer than %d bytes",
		                    GW_DEFINITION_TEXT_MAX);
	for (const char *c = text; *c; c++) {
		bool line_end = *c == '\n' || (*c == '\r' && c[1] == '\n');

		if (((unsigned char)*c < ' ' && *c != '\t' && !line_end) || *c == 0x7f)
			return gw_error_set(err, -EINVAL, "line %u: control character", line);
		line += *c == '\n';
	}
	string = json_stringn(text, len);
	if (!string)
		return gw_error_set(err, -EINVAL, "the definition is not UTF-8 text");
	json_decref(string);
	return 0;
}

int gw_vm_def_parse(const char *text, struct gw_vm_def **ret, struct gw_error *err)
{
	struct parse p = { .err = err, .at = text, .section = -1 };
	int r = check_text(text, err);

	if (r < 0)
		return r;
	p.def = calloc(1, sizeof(*p.def));
	if (!p.def)
		return gw_error_set(err, -ENOMEM, "out of memory");
	if (strncmp(p.at, "\xef\xbb\xbf", 3) == 0)
		p.at += 3;
	r = ini_parse_stream(read_line, &p, on_pair, &p);
	free(p.long_value);
	if (p.failed)
		r = p.failed;
	else if (r != 0)
		r = gw_error_set(err, r == -2 ? -ENOMEM : -EINVAL, "cannot parse the definition");
	else if (fill_defaults(p.def) < 0)
		r = gw_error_set(err, -ENOMEM, "out of memory");
	else
		r = check_whole(p.def, err);
	if (r < 0) {
		gw_vm_def_free(p.def);
		return r;
	}
	*ret = p.def;
	return 0;
}

void gw_vm_def_free(struct gw_vm_def *def)
{
	if (!def)
		return;
	free(def->cpu_model);
	free(def->machine);
	free(def->firmware);
	free(def->kernel);
	free(def->initrd);
	free(def->append);
	for (unsigned i = 0; i < GW_VM_DISKS_MAX; i++) {
		free(def->disks[i].path);
		free(def->disks[i].format);
		free(def->disks[i].cache);
	}
	for (unsigned i = 0; i < GW_VM_NICS_MAX; i++) {
		free(def->nics[i].mac);
		free(def->nics[i].bridge);
		free(def->nics[i].tap);
		free(def->nics[i].model);
	}
	for (unsigned i = 0; i < GW_VM_SERIALS_MAX; i++)
		free(def->channels[i].name);
	for (unsigned i = 0; i < GW_VM_EXTRA_ARGS_MAX; i++)
		free(def->extra_args[i]);
	free(def);
}
