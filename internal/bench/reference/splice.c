/*
 * splice: the plain forwarder that the bench holds everything else against.
 *
 * What a careful C programmer writes from the manual pages: one thread, one edge-triggered epoll(7), splice(2) in and
 * out, and a pool of pipes from which a direction takes one only while it has bytes in flight. Both sockets of a
 * connection are registered once for IN, OUT and RDHUP; a direction is read until EAGAIN; a turn is bounded by a
 * budget, and a connection that used it up waits in a list. Half-closes are kept.
 *
 * What it does not do: confine itself, carry a reset across, limit connections, or save any call that the plain
 * sequence makes (the accept and the read that end in EAGAIN, epoll_ctl DEL before close).
 *
 * usage: splice LISTEN-PORT@IPV4 UPSTREAM PIPE-BYTES BUDGET-BYTES [filter]
 *        UPSTREAM is PORT@IPV4 or /path of a UNIX stream socket. With "filter", a seccomp filter that allows everything
 *        is in force: it shows what any filter costs per call, and is no confinement.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAXCONN = 32768, MAXPIPE = 2 * MAXCONN, BATCH = 256 };

struct pipe2 {
	int r, w;
};

/* One direction: from fd[i] of its connection to fd[!i]. */
struct dir {
	struct pipe2 p; /* r < 0: none taken */
	size_t held;    /* bytes in the pipe */
	char eof;       /* the source has ended */
	char done;      /* and the destination was told */
};

struct conn {
	int fd[2]; /* client, upstream */
	struct dir d[2];
	char readable[2], writable[2];
	char queued;
};

static struct conn conns[MAXCONN];
static int freelist[MAXCONN], nfree;
static int doomed[MAXCONN], ndoomed; /* closed in this batch: not given out before the batch ends */
static int ready[MAXCONN], nready;
static struct pipe2 pool[MAXPIPE];
static int npool, ep, lfd, paused;
static size_t pipesize, budget;
static struct sockaddr_storage upstream;
static socklen_t upstreamlen;

static void die(const char *what)
{
	perror(what);
	exit(71);
}

static void filter(void)
{
	struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog prog = {.len = 1, .filter = &all};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
		die("splice: seccomp");
}

static void parse(const char *s, struct sockaddr_storage *ss, socklen_t *len)
{
	memset(ss, 0, sizeof *ss);
	if (s[0] == '/') {
		struct sockaddr_un *un = (void *)ss;
		un->sun_family = AF_UNIX;
		strncpy(un->sun_path, s, sizeof un->sun_path - 1);
		*len = sizeof *un;
		return;
	}
	struct sockaddr_in *in = (void *)ss;
	const char *at = strchr(s, '@');
	in->sin_family = AF_INET;
	in->sin_port = htons(atoi(s));
	if (!at || inet_pton(AF_INET, at + 1, &in->sin_addr) != 1) {
		fprintf(stderr, "splice: %s: not PORT@IPV4\n", s);
		exit(64);
	}
	*len = sizeof *in;
}

static int take(struct pipe2 *p)
{
	if (npool) {
		*p = pool[--npool];
		return 0;
	}
	int fds[2];
	if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0)
		return -1;
	fcntl(fds[1], F_SETPIPE_SZ, pipesize); /* a wish: the per-user quota may refuse it */
	p->r = fds[0];
	p->w = fds[1];
	return 0;
}

static void give(struct dir *d)
{
	/* A pipe that still holds bytes would hand them to another connection. */
	if (d->held == 0 && npool < MAXPIPE)
		pool[npool++] = d->p;
	else {
		close(d->p.r);
		close(d->p.w);
	}
	d->p.r = d->p.w = -1;
	d->held = 0;
}

static void finish(int c)
{
	struct conn *k = &conns[c];
	for (int i = 0; i < 2; i++) {
		if (k->d[i].p.r >= 0)
			give(&k->d[i]);
		epoll_ctl(ep, EPOLL_CTL_DEL, k->fd[i], 0);
		close(k->fd[i]);
		k->fd[i] = -1;
	}
	doomed[ndoomed++] = c;
	if (paused) {
		struct epoll_event ev = {.events = EPOLLIN, .data.u64 = ~0ull};
		epoll_ctl(ep, EPOLL_CTL_ADD, lfd, &ev);
		paused = 0;
	}
}

/* Moves bytes of direction i of k until the source is dry, the destination full or left is used up; -1: connection over. */
static int pump(struct conn *k, int i, size_t *left)
{
	struct dir *d = &k->d[i];
	while (*left) {
		if (d->held == 0) {
			if (d->eof || !k->readable[i])
				break;
			if (d->p.r < 0 && take(&d->p) < 0)
				return -1;
			ssize_t n = splice(k->fd[i], 0, d->p.w, 0, 1 << 20, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
			if (n > 0)
				d->held = n;
			else if (n == 0)
				d->eof = 1;
			else if (errno == EAGAIN) /* the pipe is empty here, so it is the socket that is dry */
				k->readable[i] = 0;
			else if (errno != EINTR)
				return -1;
			if (n <= 0)
				continue;
		}
		if (!k->writable[!i])
			break;
		ssize_t n = splice(d->p.r, 0, k->fd[!i], 0, d->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		if (n > 0) {
			d->held -= n;
			*left -= (size_t)n < *left ? (size_t)n : *left;
		} else if (n < 0 && errno == EAGAIN)
			k->writable[!i] = 0;
		else if (n == 0 || errno != EINTR)
			return -1;
	}
	if (d->held == 0) {
		if (d->p.r >= 0)
			give(d);
		if (d->eof && !d->done) {
			shutdown(k->fd[!i], SHUT_WR);
			d->done = 1;
		}
	}
	return 0;
}

static void turn(int c)
{
	struct conn *k = &conns[c];
	size_t left[2] = {budget, budget};
	for (int i = 0; i < 2; i++)
		if (!k->d[i].done && pump(k, i, &left[i]) < 0) {
			finish(c);
			return;
		}
	if (k->d[0].done && k->d[1].done) {
		finish(c);
		return;
	}
	if ((left[0] == 0 || left[1] == 0) && !k->queued && nready < MAXCONN) {
		k->queued = 1;
		ready[nready++] = c;
	}
}

static void welcome(void)
{
	for (;;) {
		int on = 1, a = accept4(lfd, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (a < 0) {
			if (errno == EMFILE || errno == ENFILE) {
				epoll_ctl(ep, EPOLL_CTL_DEL, lfd, 0);
				paused = 1;
			}
			return;
		}
		int b = nfree ? socket(upstream.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) : -1;
		if (b < 0) {
			close(a);
			continue;
		}
		if (upstream.ss_family == AF_INET)
			setsockopt(b, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		if (connect(b, (void *)&upstream, upstreamlen) < 0 && errno != EINPROGRESS) {
			close(a);
			close(b);
			continue;
		}
		int c = freelist[--nfree];
		struct conn *k = &conns[c];
		memset(k, 0, sizeof *k);
		k->fd[0] = a;
		k->fd[1] = b;
		k->d[0].p.r = k->d[1].p.r = -1;
		for (int i = 0; i < 2; i++) {
			struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
						 .data.u64 = (uint64_t)c << 1 | i};
			epoll_ctl(ep, EPOLL_CTL_ADD, k->fd[i], &ev);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc < 5 || argc > 6 || (argc == 6 && strcmp(argv[5], "filter"))) {
		fprintf(stderr, "usage: splice LISTEN-PORT@IPV4 UPSTREAM PIPE-BYTES BUDGET-BYTES [filter]\n");
		return 64;
	}
	struct sockaddr_storage listen_on;
	socklen_t listenlen;
	parse(argv[1], &listen_on, &listenlen);
	parse(argv[2], &upstream, &upstreamlen);
	pipesize = strtoul(argv[3], 0, 0);
	budget = strtoul(argv[4], 0, 0);
	signal(SIGPIPE, SIG_IGN); /* splice to a reset socket raises it, and has no MSG_NOSIGNAL */
	struct rlimit rl;
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	int on = 1;
	lfd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(lfd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	setsockopt(lfd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (lfd < 0 || bind(lfd, (void *)&listen_on, listenlen) < 0 || listen(lfd, 4096) < 0)
		die("splice: listen");
	if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0)
		die("splice: epoll_create1");
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = ~0ull}, evs[BATCH];
	epoll_ctl(ep, EPOLL_CTL_ADD, lfd, &ev);
	for (int i = MAXCONN - 1; i >= 0; i--)
		freelist[nfree++] = i;
	if (argc == 6)
		filter();

	for (;;) {
		int n = epoll_wait(ep, evs, BATCH, nready ? 0 : -1);
		if (n < 0 && errno != EINTR)
			die("splice: epoll_wait");
		int later = nready;
		for (int e = 0; e < n; e++) {
			if (evs[e].data.u64 == ~0ull) {
				welcome();
				continue;
			}
			int c = evs[e].data.u64 >> 1, i = evs[e].data.u64 & 1;
			struct conn *k = &conns[c];
			if (k->fd[i] < 0)
				continue;
			if (evs[e].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
				k->readable[i] = 1;
			if (evs[e].events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
				k->writable[i] = 1;
			turn(c);
		}
		/* Those that used up their budget in an earlier round; an edge is not repeated. */
		int again[BATCH], m = later < BATCH ? later : BATCH;
		memcpy(again, ready, m * sizeof *again);
		memmove(ready, ready + m, (nready - m) * sizeof *ready);
		nready -= m;
		for (int j = 0; j < m; j++) {
			conns[again[j]].queued = 0;
			if (conns[again[j]].fd[0] >= 0)
				turn(again[j]);
		}
		while (ndoomed)
			freelist[nfree++] = doomed[--ndoomed];
	}
}
