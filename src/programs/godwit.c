/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line: its commands, and the choice between them. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

const struct cli_command cli_commands[] = {
	{ "start", "FILE", 1, 1, NULL, "start a VM from its definition file",
	  "FILE is described in godwit-vm(5); '-' reads standard input. Paths in it are those of the\n"
	  "daemon's host and should be absolute.",
	  cmd_start },
	{ "list", "", 0, 0, NULL, "list the VMs of this host", NULL, cmd_list },
	{ "show", "VM|JOB", 1, 1, cli_show_options, "show a VM, or a migration and its post-mortem",
	  "A VM of that name is looked for first, then a job.", cmd_show },
	{ "migrate", "VM --to HOST", 1, 1, cli_migrate_options, "move a running VM to another host",
	  "Shows the progress and at the end a post-mortem. Ctrl-C cancels the migration, unless it is\n"
	  "already decided; a second Ctrl-C leaves it running.",
	  cmd_migrate },
	{ "wait", "JOB", 1, 1, NULL, "wait for a migration and show its progress",
	  "Ctrl-C ends the waiting, not the migration.", cmd_wait },
	{ "cancel", "VM|JOB", 1, 1, NULL, "cancel a migration; the VM stays where it is", NULL,
	  cmd_cancel },
	{ "resolve", "VM --fenced HOST", 1, 1, cli_resolve_options, "run a copy whose source host is gone for good",
	  "For a VM that waits here, whole and paused, for the word of a host that will not come back. First make\n"
	  "certain that nothing runs there: what can be seen from here to be wrong is refused.", cmd_resolve },
	{ "jobs", "", 0, 0, cli_jobs_options, "list migrations, the newest last", NULL, cmd_jobs },
	{ "stop", "VM", 1, 1, cli_stop_options, "power a VM off and remove it",
	  "Asks the guest to power off and waits for it.", cmd_stop },
	{ "console", "VM", 1, 1, NULL, "connect the terminal to a VM's serial console",
	  "Ctrl-] ends the connection.", cmd_console },
	{ "host", "", 0, 0, NULL, "show what this host is and knows", NULL, cmd_host },
	{ "version", "", 0, 0, NULL, "show the versions of godwit, the daemon and QEMU", NULL,
	  cmd_version },
	{ "help", "[COMMAND]", 0, 1, NULL, "explain a command", NULL, cmd_help },
	{ NULL },
};

const struct cli_command *cli_find_command(const char *name)
{
	const char *names[32] = { NULL }, *close;
	const struct cli_command *c;
	int n = 0;

	for (c = cli_commands; c->name; c++) {
		if (!strcmp(c->name, name))
			return c;
		names[n++] = c->name;
	}
	close = cli_closest(name, names);
	if (close)
		cli_fail(CLI_USAGE, "there is no command '%s', did you mean '%s'?", name, close);
	else
		cli_fail(CLI_USAGE, "there is no command '%s' (see 'godwit help')", name);
	return NULL;
}

int cmd_help(struct cli *cli)
{
	const struct cli_command *c = cli->n_args ? cli_find_command(cli->args[0]) : NULL;

	if (c)
		cli_help_command(c);
	else if (cli->n_args == 0)
		cli_help();
	return c || cli->n_args == 0 ? CLI_DONE : CLI_USAGE;
}

/* Finds the command among the words and runs it. */
static int run(struct cli *cli, int argc, char **argv)
{
	int first, r = cli_parse(cli, argc, argv);

	if (r != CLI_DONE)
		return r < 0 ? CLI_DONE : r;
	first = optind; /* common options may stand in front of the command */
	if (first >= argc) {
		cli_help();
		return CLI_USAGE;
	}
	cli->command = cli_find_command(argv[first]);
	if (!cli->command)
		return CLI_USAGE;
	r = cli_parse(cli, argc - first, argv + first);
	if (r != CLI_DONE)
		return r < 0 ? CLI_DONE : r;
	return cli->command->run(cli);
}

int main(int argc, char **argv)
{
	const char *env = getenv("GODWIT_SOCKET");
	struct cli cli = { .socket = env && *env ? env : CLI_SOCKET_DEFAULT, .options = json_object() };
	int r = cli.options ? run(&cli, argc, argv) : CLI_FAILED;

	json_decref(cli.options);
	if ((fflush(stdout) || ferror(stdout)) && r == CLI_DONE)
		return cli_fail(CLI_FAILED, "cannot write the output");
	return r;
}
