/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Named fault points: the table of names, parsing GODWIT_FAULTS, and what happens when one is hit. */
#include "base/fault.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

/* In the order in which a migration meets them. */
static const char *const names[] = {
	"source-begin-recorded", "source-connected",      "source-prepare-sent",  "target-prepare-received",
	"target-ram-created",    "target-populate-vmm",   "target-vm-started",     "target-prepared-sent", "source-prepared",
	"source-tracing-armed",  "source-pass-begin",     "source-pass-middle",   "target-pass-middle",
	"source-pass-end",       "source-stop-begin",     "source-stopped",       "source-last-pages-sent",
	"source-state-saved",    "source-all-sent",       "target-all-received",  "target-load-begin",
	"target-loaded",         "target-ready-sent",     "source-ready-received", "source-commit-recorded",
	"target-commit-received", "target-resumed",       "target-owner-recorded", "source-running-received",
	"source-serving",        "target-owed-arrives",   "target-complete",
	"source-destroyed",      "journal-write",         "journal-commit",       "journal-abort",
	NULL,
};

enum action { FAULT_NONE, FAULT_CRASH, FAULT_ERROR, FAULT_DELAY, FAULT_HOLD };

struct armed {
	enum action action;
	int error;
	gw_time_ns delay_ns;
	char path[PATH_MAX - 16];
};

/* Written by gw_fault_init before threads start, read-only afterwards. */
static bool any_armed;
static struct armed armed[GW_ARRAY_SIZE(names)];

static const struct {
	const char *name;
	int value;
} errnos[] = {
	{ "EIO", EIO }, { "ENOSPC", ENOSPC }, { "ENOMEM", ENOMEM }, { "ECONNRESET", ECONNRESET }, { "EPIPE", EPIPE },
};

static int index_of(const char *name)
{
	for (int i = 0; names[i]; i++)
		if (!strcmp(names[i], name))
			return i;
	return -1;
}

static int errno_of(const char *name)
{
	for (size_t i = 0; i < GW_ARRAY_SIZE(errnos); i++)
		if (!strcmp(errnos[i].name, name))
			return errnos[i].value;
	return 0;
}

static bool parse_delay(const char *text, gw_time_ns *ret_ns)
{
	if (strlen(text) > 9 || !*text || strspn(text, "0123456789") != strlen(text))
		return false;
	*ret_ns = strtoll(text, NULL, 10) * GW_NS_PER_MS;
	return true;
}

static int parse_action(struct armed *a, char *text, struct gw_error *err)
{
	char *arg = strchr(text, ':');

	if (arg)
		*arg++ = 0;
	if (!strcmp(text, "crash") && !arg) {
		a->action = FAULT_CRASH;
	} else if (!strcmp(text, "error") && (!arg || errno_of(arg))) {
		a->action = FAULT_ERROR;
		a->error = arg ? errno_of(arg) : EIO;
	} else if (!strcmp(text, "delay") && arg && parse_delay(arg, &a->delay_ns)) {
		a->action = FAULT_DELAY;
	} else if (!strcmp(text, "hold") && arg && strlen(arg) < sizeof(a->path)) {
		a->action = FAULT_HOLD;
		memcpy(a->path, arg, strlen(arg) + 1);
	} else {
		return gw_error_set(err, EINVAL,
		                    "GODWIT_FAULTS: '%s%s%s' is not an action (crash, error[:ERRNO], delay:MS, hold:PATH)",
		                    text, arg ? ":" : "", arg ? arg : "");
	}
	return 0;
}

static int unknown_name(const char *name, struct gw_error *err)
{
	char known[900] = "";

	for (int i = 0; names[i] && strlen(known) + strlen(names[i]) + 3 < sizeof(known); i++) {
		strcat(known, i ? ", " : "");
		strcat(known, names[i]);
	}
	return gw_error_set(err, EINVAL, "GODWIT_FAULTS: unknown fault point '%s' (known: %s)", name, known);
}

int gw_fault_init(struct gw_error *err)
{
	const char *env = getenv("GODWIT_FAULTS");
	gw_autofree char *copy = NULL;
	char *save = NULL, *item;

	if (!env || !*env)
		return 0;
	copy = strdup(env);
	if (!copy)
		return gw_error_set(err, ENOMEM, "out of memory");
	for (item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		char *eq = strchr(item, '=');
		int i, r;

		if (!eq)
			return gw_error_set(err, EINVAL, "GODWIT_FAULTS: '%s' is not name=action", item);
		*eq = 0;
		i = index_of(item);
		if (i < 0)
			return unknown_name(item, err);
		r = parse_action(&armed[i], eq + 1, err);
		if (r < 0)
			return r;
		any_armed = true;
	}
	return 0;
}

static void hold(const char *path)
{
	char file[PATH_MAX];
	gw_time_ns deadline = gw_deadline_in(60 * GW_NS_PER_S);
	gw_autofd int fd = -1;

	snprintf(file, sizeof(file), "%s.reached", path);
	fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	snprintf(file, sizeof(file), "%s.go", path);
	while (access(file, F_OK) < 0 && gw_now_ns() < deadline)
		gw_sleep_ns(GW_NS_PER_MS);
}

int gw_fault(const char *name)
{
	int i;

	if (__builtin_expect(!any_armed, 1))
		return 0;
	i = index_of(name);
	if (i < 0) /* a point that is not in the table is a bug; be loud in tests */
		abort();
	switch (armed[i].action) {
	case FAULT_NONE:
		break;
	case FAULT_CRASH:
		kill(getpid(), SIGKILL);
		break;
	case FAULT_ERROR:
		return -armed[i].error;
	case FAULT_DELAY:
		gw_sleep_ns(armed[i].delay_ns);
		break;
	case FAULT_HOLD:
		hold(armed[i].path);
		break;
	}
	return 0;
}

const char *const *gw_fault_names(void)
{
	return names;
}
