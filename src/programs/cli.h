/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line `godwit`: commands, their options as tables, and what all commands share. */
#ifndef GW_PROGRAMS_CLI_H
#define GW_PROGRAMS_CLI_H

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"
#include "control/http_client.h"

#define CLI_SOCKET_DEFAULT "/run/godwit/godwitd.sock"
#define CLI_ARGS_MAX 8
#define CLI_CANCEL_TIMEOUT_NS (10 * GW_NS_PER_S) /* the daemon answers within a second */

/* Exit codes of all commands. */
enum cli_exit {
	CLI_DONE = 0,
	CLI_FAILED = 1,  /* refused or failed; after a migration: the VM runs on the source */
	CLI_USAGE = 2,   /* wrong usage, nobody to talk to, time-out, interrupted */
	CLI_UNKNOWN = 3, /* the outcome of a migration is unknown, the VM is paused, nobody guessed */
};

enum cli_kind {
	CLI_FLAG,      /* takes no value; true */
	CLI_TEXT,      /* any text */
	CLI_COUNT,     /* whole number from `min` to `max` */
	CLI_DURATION,  /* "50ms": nanoseconds */
	CLI_RATE,      /* "1Gbps": bytes per second */
	CLI_CHOICE,    /* one of `choices` */
	CLI_THRESHOLD, /* "adaptive", a size or a percentage */
};

struct cli_option {
	const char *name;    /* --name */
	enum cli_kind kind;
	const char *value;   /* what the help calls the value */
	const char *key;     /* of the parsed value; a request's field where it is sent as it is */
	const char *choices; /* CLI_CHOICE: "one|two" */
	long min, max;       /* CLI_COUNT */
	const char *help;
};

/* One run of the program. */
struct cli {
	const char *socket;
	bool json;
	const struct cli_command *command;
	json_t *options; /* object: key of the option -> its value */
	const char *args[CLI_ARGS_MAX];
	int n_args;
};

struct cli_command {
	const char *name;
	const char *args;                 /* as the help shows them: "VM --to HOST" */
	int min_args, max_args;
	const struct cli_option *options; /* ends with a NULL name; NULL: none of its own */
	const char *summary;              /* half a line */
	const char *help;                 /* paragraphs, may be NULL */
	int (*run)(struct cli *cli);      /* returns an enum cli_exit */
};

/* Ends with a NULL name. */
extern const struct cli_command cli_commands[];

/* "godwit: <one sentence>" to standard error. Returns `code`. */
int cli_fail(enum cli_exit code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cli_fail_error(enum cli_exit code, const struct gw_error *err);

/* Parses what follows the command's name into cli. CLI_DONE; CLI_USAGE after saying why; -1: --help was
 * asked for and shown. `argv[0]` is the command's name. */
int cli_parse(struct cli *cli, int argc, char **argv);

/* The value of one option's text, checked. New reference; NULL with err. */
json_t *cli_parse_value(const struct cli_option *o, const char *text, struct gw_error *err);

void cli_help_command(const struct cli_command *c);
void cli_help(void);
const struct cli_command *cli_find_command(const char *name);

/* The name closest to `word`, or NULL when none is close. `names` ends with NULL. */
const char *cli_closest(const char *word, const char *const *names);

/* A client for the daemon's socket, or NULL after saying why not. `wake_fd` as in http_client.h. */
struct gw_http_client *cli_connect(struct cli *cli, int wake_fd);

/* One call; prints why when it fails. CLI_DONE with *ret (new reference or NULL), or the exit code. */
int cli_call(struct cli *cli, const char *method, const char *path, const json_t *body, gw_time_ns timeout,
             json_t **ret);

/* What an answer that says no means for the exit code. */
enum cli_exit cli_exit_of(const struct gw_http_answer *answer, int error);

/* Prints an answer as JSON. */
void cli_print_json(const json_t *json);

/* Gets "/v1/<what>/<name>", as cli_call. *ret_found false and CLI_DONE when there is none (404). */
int cli_get(struct cli *cli, const char *what, const char *name, bool *ret_found, json_t **ret);

/* Follows a job to its end, showing progress, and prints the outcome (cli_wait.c). */
int cli_wait_job(struct cli *cli, const json_t *job, bool cancel_on_interrupt);

/* The exit code that a final Job means; `interrupted`: this program asked for its cancellation. */
enum cli_exit cli_exit_of_job(const json_t *job, bool interrupted);

int cmd_start(struct cli *cli);
int cmd_list(struct cli *cli);
int cmd_show(struct cli *cli);
int cmd_migrate(struct cli *cli);
int cmd_wait(struct cli *cli);
int cmd_cancel(struct cli *cli);
int cmd_jobs(struct cli *cli);
int cmd_resolve(struct cli *cli);
int cmd_stop(struct cli *cli);
int cmd_console(struct cli *cli);
int cmd_host(struct cli *cli);
int cmd_version(struct cli *cli);
int cmd_help(struct cli *cli);

extern const struct cli_option cli_migrate_options[], cli_show_options[], cli_jobs_options[],
	cli_resolve_options[], cli_stop_options[];

#endif
