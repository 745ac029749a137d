/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a sending channel's thread spends its time with. */
#include "pipeline/meter.h"

#include <netinet/in.h>
#include <linux/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define WINDOW_NS (100 * GW_NS_PER_MS)
#define FIRST_WINDOW_NS (50 * GW_NS_PER_MS)

static gw_time_ns thread_cpu(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * GW_NS_PER_S + ts.tv_nsec;
}

/* How long the connection has waited for room at the receiver; 0 where the kernel does not say. */
static gw_time_ns waited_for_peer(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return 0;
	return (gw_time_ns)info.tcpi_rwnd_limited * 1000;
}

bool gw_meter_no_link(int fd)
{
	struct sockaddr_storage own = { 0 }, peer = { 0 };
	socklen_t own_len = sizeof(own), peer_len = sizeof(peer);

	if (getsockname(fd, (struct sockaddr *)&own, &own_len) < 0 ||
	    getpeername(fd, (struct sockaddr *)&peer, &peer_len) < 0 || own.ss_family != peer.ss_family)
		return false;
	if (own.ss_family == AF_INET)
		return ((struct sockaddr_in *)&own)->sin_addr.s_addr == ((struct sockaddr_in *)&peer)->sin_addr.s_addr;
	if (own.ss_family == AF_INET6)
		return !memcmp(&((struct sockaddr_in6 *)&own)->sin6_addr, &((struct sockaddr_in6 *)&peer)->sin6_addr,
		               sizeof(struct in6_addr));
	return false;
}

void gw_meter_begin(struct gw_meter *m)
{
	m->mark = gw_now_ns();
	if (!m->cpu_ns)
		m->cpu_ns = thread_cpu();
}

static void new_window(struct gw_meter *m, gw_time_ns cpu, gw_time_ns peer)
{
	*m = (struct gw_meter){ .mark = m->mark, .cpu_ns = cpu, .peer_ns = peer };
}

bool gw_meter_sent(struct gw_meter *m, int fd, struct gw_encode_packed *packed, const struct gw_batch *batch)
{
	struct gw_compress *c = &packed->compress;
	struct gw_compress_window w;
	gw_time_ns now = gw_now_ns(), cpu, peer;
	unsigned wanted;

	m->wall_ns += now - m->mark;
	m->mark = now;
	m->wire_bytes += batch->wire_bytes;
	m->content_bytes += (batch->pages - batch->zero_pages) * GW_PAGE_BYTES;
	if (m->wall_ns < (c->link_Bps > 0 ? WINDOW_NS : FIRST_WINDOW_NS) || c->policy == GW_COMPRESS_NEVER)
		return false;
	cpu = thread_cpu();
	peer = waited_for_peer(fd);
	w = (struct gw_compress_window){
		.wall_ns = m->wall_ns,
		.blocked_ns = m->blocked_ns,
		.peer_ns = peer - m->peer_ns,
		.cpu_ns = cpu - m->cpu_ns,
		.wire_bytes = m->wire_bytes,
		.content_bytes = m->content_bytes,
		.packed_from_bytes = packed->from_bytes,
		.packed_to_bytes = packed->to_bytes,
	};
	packed->from_bytes = packed->to_bytes = 0;
	wanted = gw_compress_note(c, &w);
	for (enum gw_compress_method method = GW_COMPRESS_LZ4; method < GW_COMPRESS_METHODS; method++)
		if (wanted & 1u << method)
			gw_encode_sample(packed, batch, method);
	gw_compress_decide(c);
	new_window(m, cpu, peer);
	return true;
}
