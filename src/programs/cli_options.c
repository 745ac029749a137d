/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Option tables of the command line: parsing, checking, help. */
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "cli.h"
#include "control/fields.h"

#define OPTIONS_MAX 32

/* What every command takes, also in front of its name. */
static const struct cli_option common[] = {
	{ "socket", CLI_TEXT, "PATH", "socket",
	  .help = "the daemon's socket (default $GODWIT_SOCKET, else " CLI_SOCKET_DEFAULT ")" },
	{ "json", CLI_FLAG, .key = "json", .help = "print JSON" },
	{ "help", CLI_FLAG, .key = "help", .help = "show this text" },
	{ NULL },
};

static int parse_threshold(const char *text, struct gw_error *err)
{
	char *end;
	uint64_t bytes;
	double percent = strtod(text, &end);

	if (!strcmp(text, "adaptive") || gw_parse_size(text, &bytes) == 0)
		return 0;
	if (end != text && !strcmp(end, "%") && percent > 0 && percent <= 100 && text[0] != '-')
		return 0;
	return gw_error_set(err, EINVAL, "write adaptive, a size (8M) or a percentage of memory (1%%)");
}

static int parse_count(const struct cli_option *o, const char *text, long *ret, struct gw_error *err)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 10);
	if (errno || end == text || *end || v < o->min || v > o->max)
		return gw_error_set(err, EINVAL, "write a whole number from %ld to %ld", o->min, o->max);
	*ret = v;
	return 0;
}

json_t *cli_parse_value(const struct cli_option *o, const char *text, struct gw_error *err)
{
	json_t *value;
	gw_time_ns ns;
	uint64_t rate;
	long count = 0;

	switch (o->kind) {
	case CLI_FLAG:
		return json_true();
	case CLI_TEXT:
		value = json_string(text);
		if (!value)
			gw_error_set(err, EINVAL, "write it in UTF-8");
		return value;
	case CLI_COUNT:
		return parse_count(o, text, &count, err) < 0 ? NULL : json_integer(count);
	case CLI_DURATION:
		if (gw_parse_duration(text, &ns) == 0 && ns > 0)
			return json_integer(ns);
		gw_error_set(err, EINVAL, "write a duration with its unit, such as 50ms, 2s or 10m");
		return NULL;
	case CLI_RATE:
		if (gw_parse_rate(text, &rate) == 0)
			return json_integer((json_int_t)rate);
		gw_error_set(err, EINVAL,
		             "write a rate with its unit, such as 1Gbps or 100MB/s, or 'none'");
		return NULL;
	case CLI_CHOICE:
		if (gw_choice_has(o->choices, text))
			return json_string(text);
		gw_error_set(err, EINVAL, "write one of %s", o->choices);
		return NULL;
	case CLI_THRESHOLD:
		return parse_threshold(text, err) < 0 ? NULL : json_string(text);
	}
	return NULL;
}

/* The command's own options, then the common ones; returns how many. */
static int gather(const struct cli_command *c, const struct cli_option *ret[OPTIONS_MAX])
{
	const struct cli_option *o;
	int n = 0;

	for (o = c && c->options ? c->options : common; o->name && n < OPTIONS_MAX - 1; o++)
		ret[n++] = o;
	for (o = common; c && c->options && o->name && n < OPTIONS_MAX - 1; o++)
		ret[n++] = o;
	ret[n] = NULL;
	return n;
}

static int unknown_option(const struct cli *cli, const struct cli_option *const *all, const char *word)
{
	const char *names[OPTIONS_MAX], *close;
	gw_autofree char *name = strndup(word, strcspn(word, "="));
	int i;

	for (i = 0; all[i]; i++)
		names[i] = all[i]->name;
	names[i] = NULL;
	close = name && !strncmp(name, "--", 2) ? cli_closest(name + 2, names) : NULL;
	if (close)
		return cli_fail(CLI_USAGE, "there is no option '%s', did you mean '--%s'?", name, close);
	return cli_fail(CLI_USAGE, "there is no option '%s' (see 'godwit %s%s--help')", name ? name : word,
	                cli->command ? cli->command->name : "", cli->command ? " " : "");
}

/* getopt_long answered '?': unknown, or a value where none belongs. */
static int refuse_option(const struct cli *cli, const struct cli_option *const *all, char **argv)
{
	char letter[3] = { '-', (char)optopt, '\0' };

	if (optopt >= 256)
		return cli_fail(CLI_USAGE, "the option '--%s' takes no value", all[optopt - 256]->name);
	return unknown_option(cli, all, optopt ? letter : argv[optind - 1]);
}

static int take_option(struct cli *cli, const struct cli_option *o, const char *text)
{
	struct gw_error err = GW_ERROR_INIT;
	json_t *value = cli_parse_value(o, text, &err);

	if (!value)
		return cli_fail(CLI_USAGE, "--%s: '%s' will not do: %s", o->name, text,
		                gw_error_text(&err));
	json_object_set_new(cli->options, o->key, value);
	return CLI_DONE;
}

/* Runs getopt_long over the table. CLI_DONE or CLI_USAGE; optind stands behind what was taken. */
static int scan(struct cli *cli, int argc, char **argv)
{
	const struct cli_option *all[OPTIONS_MAX];
	struct option table[OPTIONS_MAX] = { 0 };
	int i, c, index = 0, n = gather(cli->command, all);

	for (i = 0; i < n; i++)
		table[i] = (struct option){ all[i]->name,
			                    all[i]->kind == CLI_FLAG ? no_argument : required_argument,
			                    NULL, 256 + i };
	opterr = 0;
	optind = 0; /* begins anew: the words in front of the command were one scan, its own are another */
	while ((c = getopt_long(argc, argv, cli->command ? ":h" : "+:h", table, &index)) != -1) {
		int r = CLI_DONE;

		if (c == 'h')
			json_object_set_new(cli->options, "help", json_true());
		else if (c == ':')
			r = cli_fail(CLI_USAGE, "the option '%s' needs a value", argv[optind - 1]);
		else if (c == '?')
			r = refuse_option(cli, all, argv);
		else
			r = take_option(cli, all[c - 256], optarg ? optarg : "");
		if (r != CLI_DONE)
			return r;
	}
	return CLI_DONE;
}

int cli_parse(struct cli *cli, int argc, char **argv)
{
	const struct cli_command *c = cli->command;
	int r = scan(cli, argc, argv), i;

	if (r != CLI_DONE)
		return r;
	if (json_is_true(json_object_get(cli->options, "help"))) {
		if (c)
			cli_help_command(c);
		else
			cli_help();
		return -1;
	}
	cli->json = json_is_true(json_object_get(cli->options, "json"));
	if (json_object_get(cli->options, "socket"))
		cli->socket = json_string_value(json_object_get(cli->options, "socket"));
	if (!c)
		return CLI_DONE;
	cli->n_args = argc - optind;
	if (cli->n_args < c->min_args || cli->n_args > c->max_args)
		return cli_fail(CLI_USAGE, "usage: godwit %s %s", c->name, c->args);
	for (i = 0; i < cli->n_args; i++)
		cli->args[i] = argv[optind + i];
	return CLI_DONE;
}

static void help_option(const struct cli_option *o)
{
	char head[64];

	snprintf(head, sizeof(head), "--%s%s%s", o->name, o->value || o->choices ? " " : "",
	         o->value ? o->value : o->choices ? o->choices : "");
	if (strlen(head) < 26)
		printf("  %-26s%s\n", head, o->help);
	else
		printf("  %s\n  %-26s%s\n", head, "", o->help);
}

void cli_help_command(const struct cli_command *c)
{
	const struct cli_option *all[OPTIONS_MAX];
	int i, n = gather(c, all);

	printf("usage: godwit %s%s%s\n\n%s.\n", c->name, *c->args ? " " : "", c->args, c->summary);
	if (c->help)
		printf("\n%s\n", c->help);
	puts("\noptions:");
	for (i = 0; i < n; i++)
		help_option(all[i]);
}

void cli_help(void)
{
	const struct cli_command *c;
	const struct cli_option *o;

	puts("usage: godwit [--socket PATH] [--json] COMMAND ...\n\n"
	     "Moves running virtual machines between hosts.\n\ncommands:");
	for (c = cli_commands; c->name; c++)
		printf("  %-10s%s\n", c->name, c->summary);
	puts("\noptions of all commands:");
	for (o = common; o->name; o++)
		help_option(o);
	puts("\nexit codes:\n"
	     "  0  done\n"
	     "  1  failed; after a migration, the VM runs on the source\n"
	     "  2  wrong usage, no daemon to talk to, time-out, or interrupted\n"
	     "  3  the outcome of a migration is unknown: the VM is paused and nobody guessed\n\n"
	     "'godwit COMMAND --help' says more about one command.");
}
