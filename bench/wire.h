/* What the upstream and the load generator share: non-blocking byte streams with or without TLS, clocks, arguments.
 *
 * Both are single-threaded epoll loops. Everything here either succeeds, says "would block", or names an end; what cannot be
 * recovered (no memory, no descriptor) ends the process with a message, because a benchmark that goes on regardless lies.
 */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifdef BENCH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

#define WOULD_BLOCK (-1)
#define BROKEN (-2)

static inline void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static inline void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL)
        die("out of memory");
    return memory;
}

/* Nanoseconds of the monotonic clock: the same clock in every process of the machine, so stamps can be compared. */
static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The driver ends us; if it cannot any more (killed), the kernel does. */
static inline void die_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
}

struct stream {
    int fd;
#ifdef BENCH_TLS
    SSL *ssl;
#endif
};

static inline void stream_prepare(int fd)
{
    int on = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static inline ssize_t stream_result(ssize_t count)
{
    if (count >= 0)
        return count;
    return errno == EAGAIN || errno == EINTR || errno == EINPROGRESS || errno == ENOTCONN ? WOULD_BLOCK : BROKEN;
}

#ifdef BENCH_TLS
static inline ssize_t stream_tls_result(struct stream *stream, int count)
{
    if (count > 0)
        return count;
    switch (SSL_get_error(stream->ssl, count)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return WOULD_BLOCK;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        ERR_clear_error();
        return BROKEN;
    }
}
#endif

/* Bytes read, 0 at the end, WOULD_BLOCK or BROKEN. */
static inline ssize_t stream_read(struct stream *stream, void *buffer, size_t size)
{
#ifdef BENCH_TLS
    if (stream->ssl != NULL)
        return stream_tls_result(stream, SSL_read(stream->ssl, buffer, (int)size));
#endif
    return stream_result(recv(stream->fd, buffer, size, 0));
}

/* As stream_read, but the bytes are not wanted: TCP drops them in the kernel (tcp(7), MSG_TRUNC) without copying. */
static inline ssize_t stream_discard(struct stream *stream, void *scratch, size_t scratch_size, size_t wanted)
{
#ifdef BENCH_TLS
    if (stream->ssl != NULL)
        return stream_tls_result(stream, SSL_read(stream->ssl, scratch, (int)(wanted < scratch_size ? wanted : scratch_size)));
#endif
    (void)scratch;
    (void)scratch_size;
    return stream_result(recv(stream->fd, NULL, wanted, MSG_TRUNC));
}

/* Bytes written (perhaps fewer than asked), WOULD_BLOCK or BROKEN. */
static inline ssize_t stream_write(struct stream *stream, const void *data, size_t size)
{
#ifdef BENCH_TLS
    if (stream->ssl != NULL)
        return stream_tls_result(stream, SSL_write(stream->ssl, data, (int)size));
#endif
    return stream_result(send(stream->fd, data, size, MSG_NOSIGNAL));
}

static inline void stream_close(struct stream *stream)
{
#ifdef BENCH_TLS
    if (stream->ssl != NULL) {
        SSL_free(stream->ssl);
        ERR_clear_error();
        stream->ssl = NULL;
    }
#endif
    close(stream->fd);
    stream->fd = -1;
}

#ifdef BENCH_TLS
static inline SSL_CTX *tls_context(const SSL_METHOD *method)
{
    SSL_CTX *context = SSL_CTX_new(method);
    if (context == NULL)
        die("TLS cannot be set up");
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    return context;
}
#endif

static inline void watch(int epoll, int fd, void *owner)
{
    /* Edge-triggered and for both directions at once: no epoll_ctl per request. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = owner};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

/* The value of "--name value" among the arguments, or the fallback. */
static inline const char *argument(int argc, char **argv, const char *name, const char *fallback)
{
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return fallback;
}

static inline long number_argument(int argc, char **argv, const char *name, long fallback)
{
    const char *text = argument(argc, argv, name, NULL);
    return text == NULL ? fallback : strtol(text, NULL, 10);
}

#endif
