/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Following a job to its end.
 *
 * The job's event stream is read until the final event. When it breaks off, the daemon may have been
 * restarted: it is asked for the job again, by id, until it has been silent for RECONNECT_NS. Signals come
 * through a signalfd that also wakes the client, so that an interrupt is handled between two steps of this
 * loop and never inside one.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>

#include "base/cleanup.h"
#include "cli.h"
#include "control/json.h"
#include "control/render.h"
#include "control/render_progress.h"

#define RECONNECT_NS (30 * GW_NS_PER_S)
#define RETRY_MS 300
#define SILENCE_NS (10 * GW_NS_PER_S) /* the daemon sends a keepalive each second */

struct wait {
	struct cli *cli;
	struct gw_http_client *client;
	struct gw_progress_view progress;
	json_t *job;             /* the newest */
	const char *id, *vm;     /* of the first; owned by the caller's job */
	int signal_fd;
	bool may_cancel;         /* an interrupt cancels the job */
	unsigned interrupts;
	bool cancelled;          /* we asked, and the daemon did it */
	gw_time_ns heard_at;     /* when the daemon last said something */
	bool lost;               /* and we told the user that it does no more */
};

static unsigned terminal_width(void)
{
	struct winsize ws = { 0 };

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 ? ws.ws_col : 0;
}

static bool ended(const struct wait *w)
{
	return gw_json_bool(w->job, "final");
}

static void take(struct wait *w, const json_t *job)
{
	w->heard_at = gw_now_ns();
	if (w->lost)
		gw_progress_view_note(&w->progress, "godwitd is back");
	w->lost = false;
	if (w->job && json_equal(w->job, (json_t *)job))
		return; /* a stream begins with what the request's answer has shown already */
	json_decref(w->job);
	w->job = json_incref((json_t *)job);
	gw_progress_view_update(&w->progress, job, terminal_width(), w->heard_at);
}

static int on_event(void *ctx, const json_t *data)
{
	struct wait *w = ctx;

	if (!json_is_object(data))
		return 0;
	take(w, data);
	return ended(w);
}

static int leave(struct wait *w)
{
	gw_progress_view_clear(&w->progress);
	return cli_fail(CLI_USAGE,
	                "stopped waiting; the migration of %s goes on ('godwit wait %s' shows it)", w->vm,
	                w->id);
}

static void cancel(struct wait *w)
{
	gw_autofree char *path = gw_http_path("/v1/jobs/", w->id, "/cancel");
	struct gw_http_answer answer = { 0 };
	struct gw_error err = GW_ERROR_INIT;
	int r;

	gw_progress_view_note(&w->progress,
	                      "cancelling the migration of %s (Ctrl-C again leaves it running)", w->vm);
	r = path ? gw_http_call(w->client, "POST", path, NULL, CLI_CANCEL_TIMEOUT_NS, &answer, &err)
	         : -ENOMEM;
	err.code = r;
	if (r == 0) {
		w->cancelled = true;
		take(w, answer.json);
	} else if (r == -EALREADY) {
		gw_progress_view_note(&w->progress,
		                      "too late to cancel: the move is decided and will complete");
	} else if (r != -EINTR) {
		gw_progress_view_note(&w->progress, "could not cancel: %s", gw_error_text(&err));
	}
	json_decref(answer.json);
}

/* Handles one signal. -1: go on; else the exit code. */
static int interrupted(struct wait *w)
{
	struct signalfd_siginfo info;

	if (read(w->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return -1;
	if (!w->may_cancel || w->interrupts++ > 0)
		return leave(w);
	cancel(w);
	return -1;
}

/* The daemon is there but knows the job no more: it was restarted and had not kept it. Where the VM is says
 * how the migration ended. */
static int job_gone(struct wait *w)
{
	json_t *vm;
	bool found, runs;
	int r;

	gw_progress_view_clear(&w->progress);
	r = cli_get(w->cli, "vms", w->vm, &found, &vm);
	if (r != CLI_DONE)
		return r;
	runs = found && !strcmp(gw_json_text(vm, "state"), "running");
	json_decref(vm);
	if (runs)
		return cli_fail(CLI_FAILED, "%s did not move: godwitd was restarted; it runs here", w->vm);
	return cli_fail(CLI_UNKNOWN,
	                "godwitd was restarted and no longer knows job %s; %s does not run here, look "
	                "for it on %s",
	                w->id, w->vm, gw_json_text(w->job, "peer"));
}

/* After the stream broke off: waits a little, then asks for the job. -1: go on; else the exit code. */
static int reconnect(struct wait *w)
{
	gw_autofree char *path = gw_http_path("/v1/jobs/", w->id, "");
	struct pollfd pfd = { .fd = w->signal_fd, .events = POLLIN };
	struct gw_http_answer answer = { 0 };
	struct gw_error err = GW_ERROR_INIT;
	int r;

	if (poll(&pfd, 1, RETRY_MS) > 0)
		return interrupted(w);
	r = path ? gw_http_call(w->client, "GET", path, NULL, SILENCE_NS, &answer, &err) : -ENOMEM;
	if (r == 0) {
		take(w, answer.json);
		json_decref(answer.json);
		return -1;
	}
	if (r == -EINTR)
		return interrupted(w);
	if (answer.status == 404)
		return job_gone(w);
	if (gw_now_ns() - w->heard_at > RECONNECT_NS) {
		gw_progress_view_clear(&w->progress);
		return cli_fail(CLI_USAGE,
		                "lost godwitd for %lld s, the migration of %s may go on without it: %s",
		                RECONNECT_NS / GW_NS_PER_S, w->vm, gw_error_text(&err));
	}
	if (!w->lost)
		gw_progress_view_note(&w->progress, "lost godwitd, trying again for %lld s",
		                      RECONNECT_NS / GW_NS_PER_S);
	w->lost = true;
	return -1;
}

/* Until the job is final. -1: it is; else the exit code. */
static int follow(struct wait *w)
{
	gw_autofree char *path = gw_http_path("/v1/jobs/", w->id, "/events");
	int code = -1;

	while (code < 0 && !ended(w)) {
		struct gw_error err = GW_ERROR_INIT;
		unsigned status;
		int r = path ? gw_http_events(w->client, path, SILENCE_NS, on_event, w, &status, &err)
		             : -ENOMEM;

		if (ended(w))
			break;
		code = r == -EINTR ? interrupted(w) : reconnect(w);
	}
	return code;
}

enum cli_exit cli_exit_of_job(const json_t *job, bool interrupted)
{
	const char *state = gw_json_text(job, "state"), *where = gw_json_text(job, "vm_is");
	bool out = strcmp(gw_json_text(job, "kind"), "migrate-in") != 0;

	if (!strcmp(state, "done"))
		return CLI_DONE;
	if (!strcmp(state, "unknown") || !strcmp(where, "unknown"))
		return CLI_UNKNOWN;
	if (out && !strcmp(where, "there"))
		return CLI_DONE; /* it moved; only something after that failed */
	if (interrupted || gw_json_bool(job, "timed_out"))
		return CLI_USAGE;
	return CLI_FAILED;
}

static int conclude(struct wait *w)
{
	enum cli_exit code = cli_exit_of_job(w->job, w->cancelled);
	const json_t *report = json_object_get(w->job, "report");
	char sentence[GW_ERROR_TEXT_MAX + 512];

	gw_progress_view_clear(&w->progress);
	if (code == CLI_DONE && !strcmp(gw_json_text(w->job, "state"), "done")) {
		if (!w->cli->json)
			gw_render_outcome(stdout, w->job);
		return code;
	}
	if (!w->cli->json && json_array_size(json_object_get(report, "passes")) > 0)
		gw_render_report(stdout, report);
	return cli_fail(code, "%s", gw_outcome_sentence(sentence, sizeof(sentence), w->job));
}

static enum gw_progress_mode mode_of(const struct cli *cli)
{
	const char *term = getenv("TERM");

	if (cli->json)
		return GW_PROGRESS_JSON;
	return isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb") ? GW_PROGRESS_TERMINAL :
	                                                                        GW_PROGRESS_PLAIN;
}

int cli_wait_job(struct cli *cli, const json_t *job, bool cancel_on_interrupt)
{
	gw_autofd int signal_fd = -1;
	struct wait w = { .cli = cli, .may_cancel = cancel_on_interrupt };
	sigset_t signals;
	int code;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	w.signal_fd = signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	w.id = gw_json_text(job, "id");
	w.vm = gw_json_text(job, "vm");
	w.client = cli_connect(cli, signal_fd);
	if (!w.client)
		return CLI_USAGE;
	gw_progress_view_init(&w.progress, stdout, mode_of(cli));
	take(&w, job);
	code = follow(&w);
	if (code < 0)
		code = conclude(&w);
	json_decref(w.job);
	gw_http_client_free(w.client);
	return code;
}
