/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Facts about a VM that must agree between source and target before anything is copied (X3). */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "hypervisor/qemu_internal.h"

#define FEATURES_NAMED_MAX 5

/* ---- gathering ---- */

static const char *accel_of(const json_t *kvm)
{
	return json_is_true(json_object_get(kvm, "enabled")) ? "kvm" : "tcg";
}

static json_t *version_of(const json_t *answer)
{
	int major = 0, minor = 0, micro = 0;

	json_unpack((json_t *)answer, "{s:{s:i, s:i, s:i}}", "qemu", "major", &major, "minor", &minor,
	            "micro", &micro);
	return json_pack("[i, i, i]", major, minor, micro);
}

/* What the guest sees of the CPU; null where QEMU cannot tell. The model's name and options are those of
 * the command line. */
static json_t *cpu_props(struct gw_qemu *q, const char *model)
{
	size_t len = strcspn(model, ",");
	json_t *arguments, *props = NULL;
	struct gw_qmp_call call = { .command = "query-cpu-model-expansion" };

	if (model[len]) /* options have no place in the query: the model stands for itself */
		return json_null();
	arguments = json_pack("{s:s, s:{s:s}}", "type", "full", "model", "name", model);
	call.arguments = arguments;
	if (gw_qemu_run(q, &call, 1, -1, gw_deadline_in(GW_QEMU_ANSWER_NS), NULL) < 0)
		return json_null();
	props = json_incref(json_object_get(json_object_get(call.reply, "model"), "props"));
	json_decref(call.reply);
	return props ? props : json_null();
}

static json_t *qom_get(struct gw_qemu *q, const char *path, const char *property)
{
	struct gw_qmp_call call = { .command = "qom-get" };

	call.arguments = json_pack("{s:s, s:s}", "path", path, "property", property);
	if (gw_qemu_run(q, &call, 1, -1, gw_deadline_in(GW_QEMU_ANSWER_NS), NULL) < 0)
		return json_null();
	return call.reply;
}

/* The CPUID words that the guest's first CPU really has, whatever the model's name promised. Null on a CPU without. */
static json_t *cpu_words(struct gw_qemu *q)
{
	struct gw_qmp_call call = { .command = "query-cpus-fast" };
	const char *path;
	json_t *words;

	if (gw_qemu_run(q, &call, 1, -1, gw_deadline_in(GW_QEMU_ANSWER_NS), NULL) < 0)
		return json_null();
	path = json_string_value(json_object_get(json_array_get(call.reply, 0), "qom-path"));
	words = path ? qom_get(q, path, "feature-words") : json_null();
	json_decref(call.reply);
	return words;
}

/* Further arguments of the operator may have put other memory under the guest than the file that is moved. */
static int check_backend(struct gw_qemu *q, struct gw_error *err)
{
	json_t *name = qom_get(q, "/machine", "memory-backend");
	bool ours = json_is_string(name) && (!strcmp(json_string_value(name), "ram") ||
	                                     !strcmp(json_string_value(name), "/objects/ram"));

	json_decref(name);
	if (ours)
		return 0;
	return gw_error_set(err, -EOPNOTSUPP, "VM %s cannot move: its memory is not the shared file that godwitd made "
	                    "(an extra QEMU argument replaced it)", q->name);
}

/* The argument of `option` in the recorded command line, or NULL. */
static const char *option_of(const struct gw_qemu *q, const char *option)
{
	const char *word;
	const json_t *arg;
	size_t i;

	json_array_foreach(q->rec.argv, i, arg) {
		word = json_string_value(arg);
		if (word && strcmp(word, option) == 0)
			return json_string_value(json_array_get(q->rec.argv, i + 1));
	}
	return NULL;
}

int gw_qemu_facts(struct gw_vm *vm, json_t **ret, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_qmp_call calls[] = { { .command = "query-version" }, { .command = "query-kvm" } };
	const char *machine = option_of(q, "-machine"), *cpu = option_of(q, "-cpu");
	json_t *facts;
	int r = gw_qemu_run(q, calls, GW_ARRAY_SIZE(calls), -1, gw_deadline_in(GW_QEMU_ANSWER_NS), err);

	if (r < 0)
		return r;
	r = check_backend(q, err);
	if (r < 0) {
		facts = NULL;
	} else if (!machine || !cpu) {
		r = gw_error_set(err, -EBADMSG, "VM %s: the record of its command line is damaged", q->name);
		facts = NULL;
	} else {
		facts = json_pack("{s:o, s:s%, s:s, s:s, s:o, s:o, s:I, s:I}",
		                  "qemu_version", version_of(calls[0].reply),
		                  "machine", machine, strcspn(machine, ","),
		                  "accel", accel_of(calls[1].reply), "cpu_model", cpu,
		                  "cpu_props", cpu_props(q, cpu), "cpu_words", cpu_words(q),
		                  "memory_bytes", (json_int_t)q->rec.memory_bytes,
		                  "page_size_bytes", (json_int_t)q->rec.page_size_bytes);
		r = facts ? 0 : gw_error_set(err, -ENOMEM, "out of memory");
	}
	json_decref(calls[0].reply);
	json_decref(calls[1].reply);
	if (r == 0)
		*ret = facts;
	return r;
}

/* ---- comparing ---- */

static int check_version(const json_t *source, const json_t *target, struct gw_error *err)
{
	int s[2], t[2];

	if (json_unpack((json_t *)source, "{s:[i, i]}", "qemu_version", &s[0], &s[1]) < 0 ||
	    json_unpack((json_t *)target, "{s:[i, i]}", "qemu_version", &t[0], &t[1]) < 0)
		return gw_error_set(err, -ENOTSUP, "the other host does not tell its QEMU's version");
	if (t[0] < s[0] || (t[0] == s[0] && t[1] < s[1]))
		return gw_error_set(err, -ENOTSUP,
		                    "the target's QEMU %d.%d is older than the source's %d.%d", t[0], t[1],
		                    s[0], s[1]);
	return 0;
}

static const struct {
	const char *fact, *what;
} words[] = {
	{ "machine", "machine type" }, { "accel", "accelerator" }, { "cpu_model", "CPU model" },
};

static int check_words(const json_t *source, const json_t *target, struct gw_error *err)
{
	for (unsigned i = 0; i < GW_ARRAY_SIZE(words); i++) {
		const char *s = json_string_value(json_object_get(source, words[i].fact));
		const char *t = json_string_value(json_object_get(target, words[i].fact));

		if (!s || !t || strcmp(s, t) != 0)
			return gw_error_set(err, -ENOTSUP, "the %s is %s on the source and %s on the target",
			                    words[i].what, s ? s : "not known", t ? t : "not known");
	}
	return 0;
}

/* A feature that one side's QEMU does not know is one that its guest does not have. */
static bool props_differ(const json_t *s, const json_t *t)
{
	if (!s || !t)
		return json_is_true(s) || json_is_true(t);
	if (json_is_number(s) && json_is_number(t)) /* large ones may have been read as reals */
		return json_number_value(s) != json_number_value(t);
	return !json_equal(s, t);
}

static int check_cpu(const json_t *source, const json_t *target, struct gw_error *err)
{
	const json_t *s = json_object_get(source, "cpu_props"), *t = json_object_get(target, "cpu_props");
	char names[256] = "";
	unsigned n = 0;
	size_t used = 0;
	json_t *all;
	const char *key;
	json_t *value;

	if (!json_is_object(s) || !json_is_object(t))
		return 0;
	all = json_copy((json_t *)s);
	if (!all || json_object_update_missing(all, (json_t *)t) < 0) {
		json_decref(all);
		return gw_error_set(err, -ENOMEM, "out of memory");
	}
	json_object_foreach(all, key, value) {
		if (!props_differ(json_object_get(s, key), json_object_get(t, key)))
			continue;
		if (n++ < FEATURES_NAMED_MAX && used < sizeof(names))
			used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%.40s",
			                         used ? ", " : "", key);
	}
	json_decref(all);
	if (n)
		return gw_error_set(err, -ENOTSUP, "the CPUs that source and target give the guest differ in "
		                    "%s%s (choose a named cpu model that both have)", names,
		                    n > FEATURES_NAMED_MAX ? " and more" : "");
	return 0;
}

static int check_cpu_words(const json_t *source, const json_t *target, struct gw_error *err)
{
	const json_t *s = json_object_get(source, "cpu_words"), *t = json_object_get(target, "cpu_words");
	unsigned differ = 0;

	if (!json_is_array(s) || !json_is_array(t))
		return 0;
	for (size_t i = 0; i < GW_MAX(json_array_size(s), json_array_size(t)); i++)
		differ += !json_equal(json_array_get(s, i), json_array_get(t, i));
	if (!differ)
		return 0;
	return gw_error_set(err, -ENOTSUP, "the CPU that the target's QEMU gives the guest differs from the source's in %u "
	                    "CPUID words (choose a named cpu model that both have)", differ);
}

static int check_memory(const json_t *source, const json_t *target, struct gw_error *err)
{
	json_int_t s = json_integer_value(json_object_get(source, "memory_bytes"));
	json_int_t t = json_integer_value(json_object_get(target, "memory_bytes"));

	if (s != t)
		return gw_error_set(err, -ENOTSUP, "the VM has %lld bytes of memory on the source and %lld on "
		                    "the target", (long long)s, (long long)t);
	return 0;
}

int gw_qemu_facts_compatible(const json_t *source, const json_t *target, struct gw_error *err)
{
	int r = check_version(source, target, err);

	if (r == 0)
		r = check_words(source, target, err);
	if (r == 0)
		r = check_memory(source, target, err);
	if (r == 0)
		r = check_cpu(source, target, err);
	if (r == 0)
		r = check_cpu_words(source, target, err);
	return r;
}
