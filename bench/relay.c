/* A TCP relay that looks at nothing: what passing bytes on costs at least, in user space, on one thread with epoll.
 *
 *   relay --listen N --port N
 */
#include "wire.h"

#define BUFFER_SIZE 65536

struct end {
    int fd;
    bool gone;
    struct end *other;
    char *pending;             /* what this end did not take yet; while there is some, the other end is not read */
    size_t pending_size, pending_at;
};

static char buffer[BUFFER_SIZE];

/* Write `data`, and keep what is not taken. False: the connection is gone. */
static bool give(struct end *end, const char *data, size_t size)
{
    ssize_t count = stream_result(send(end->fd, data, size, MSG_NOSIGNAL));
    if (count == BROKEN)
        return false;
    size_t written = count > 0 ? (size_t)count : 0;
    if (written < size) {
        if (end->pending == NULL)
            end->pending = allocate(BUFFER_SIZE);
        memcpy(end->pending, data + written, size - written);
        end->pending_size = size - written;
        end->pending_at = 0;
    }
    return true;
}

/* Write what is pending. False: the connection is gone. */
static bool flush_pending(struct end *end)
{
    while (end->pending_size > 0) {
        ssize_t count = stream_result(send(end->fd, end->pending + end->pending_at, end->pending_size, MSG_NOSIGNAL));
        if (count < 0)
            return count == WOULD_BLOCK;
        end->pending_at += (size_t)count;
        end->pending_size -= (size_t)count;
    }
    return true;
}

/* Pass on what `from` says, as long as the other end takes it. False: a connection is gone. */
static bool pass_on(struct end *from)
{
    while (from->other->pending_size == 0) {
        ssize_t count = stream_result(recv(from->fd, buffer, sizeof buffer, 0));
        if (count == WOULD_BLOCK)
            return true;
        if (count <= 0 || !give(from->other, buffer, (size_t)count))
            return false;
    }
    return true;
}

static struct end *make_end(int fd, struct end *other)
{
    struct end *end = allocate(sizeof *end);
    end->fd = fd;
    end->other = other;
    if (other != NULL)
        other->other = end;
    stream_prepare(fd);
    return end;
}

static struct sockaddr_in loopback(long port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

int main(int argc, char **argv)
{
    die_with_parent();
    struct sockaddr_in ours = loopback(number_argument(argc, argv, "--listen", 0));
    struct sockaddr_in theirs = loopback(number_argument(argc, argv, "--port", 0));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&ours, sizeof ours) != 0 || listen(listener, 4096) != 0)
        die("cannot listen: %s", strerror(errno));
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL}, ready[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &listening);
    for (;;) {
        int count = epoll_wait(epoll, ready, 256, -1);
        struct end *dead[512];
        int dead_count = 0;
        for (int i = 0; i < count; i++) {
            struct end *end = ready[i].data.ptr;
            if (end == NULL) {
                int fd;
                while ((fd = accept(listener, NULL, NULL)) >= 0) {
                    int upstream = socket(AF_INET, SOCK_STREAM, 0);
                    if (upstream < 0)
                        die("socket: %s", strerror(errno));
                    struct end *client = make_end(fd, NULL), *server = make_end(upstream, client);
                    if (connect(upstream, (struct sockaddr *)&theirs, sizeof theirs) != 0 && errno != EINPROGRESS)
                        die("connect: %s", strerror(errno));
                    watch(epoll, upstream, server);
                    watch(epoll, fd, client);
                }
                continue;
            }
            if (end->gone)
                continue;
            /* It may take more, which lets the other end be read; and it may have said something. */
            bool was_blocked = end->pending_size > 0;
            if (flush_pending(end) && (!was_blocked || pass_on(end->other)) && pass_on(end))
                continue;
            end->gone = end->other->gone = true;
            close(end->fd);
            close(end->other->fd);
            dead[dead_count++] = end;
            dead[dead_count++] = end->other;
        }
        /* Only now: either of a pair may have been in `ready`. */
        for (int i = 0; i < dead_count; i++) {
            free(dead[i]->pending);
            free(dead[i]);
        }
    }
}
