/* The load generator of the benchmarks: an HTTP/1.1 and WebSocket client of many connections that checks and times every answer.
 *
 *   load --port N --mode requests|streams|churn|hold --request FILE --connections N
 *        [--seconds S] [--warmup-ms N] [--count N --warmup-count N] [--tls-ca FILE --tls-name NAME]
 *
 * requests  each connection sends the request again as soon as its answer is complete; keep-alive
 * streams   opens --connections streams, reads their events, closes them at the end
 * churn     every request on a connection of its own, --connections at a time, --count in all; every second stream is broken
 *           off at its first byte
 * hold      opens --connections streams that then stay silent, closes them at the end
 *
 * --request names a file with the whole request, head and body. The answer must be 200, complete and always of one size
 * (bytes of the body, chunked framing removed); anything else counts as an error.
 *
 * A request that asks for a WebSocket is sent once per connection; what follows its head in the file is the message that is sent
 * instead, masked, as soon as the upgrade is answered rightly, and again for each further answer. An answer is what comes until
 * response.completed. Compression is not offered.
 *
 * The driver decides when a measurement begins: a line is printed ("ready"; "open" in the middle of hold and churn) and one is
 * awaited on standard input. In between nothing is in flight, except the streams of `streams`. Last comes a JSON object, and
 * once more a line is awaited before the connections are closed.
 */
#include "frames.h"
#include <poll.h>

#define HEAD_LIMIT 32768
#define PENDING_LIMIT 4096
#define OPENING_AT_ONCE 32
#define STALL_NS 30000000000ull

enum mode { REQUESTS, STREAMS, CHURN, HOLD };
enum part { HEAD, SIZED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, LAST_CHUNK, UNTIL_CLOSE, FRAMES };

struct connection {
    struct stream stream;
    bool connected, busy, begun, break_off;
    const char *out;                 /* what is to be sent, and how much of it was */
    size_t out_size, sent;
    uint64_t started;
    struct frames frames;
    enum part part;
    int status;
    size_t left, line_size;
    uint64_t body_size;
    size_t head_size, pending_size;
    char head[HEAD_LIMIT];           /* the response head; then reused for chunk size lines */
    char pending[PENDING_LIMIT];     /* streams: an event that is not complete yet */
};

static enum mode mode;
static int epoll, port;
static char *request, *message;      /* message: a frame; NULL: no WebSocket */
static size_t request_size, message_size;
static char accept_expected[ACCEPT_SIZE + 1];
static char buffer[1 << 18];
static struct connection *connections;
static long connection_count, opening, begun_count, busy_count;
static bool measuring, sending;
static uint64_t completed, broken_off, events, payload, errors, reconnects, last_progress, answer_size;
static const char *first_error;
static uint32_t *latencies;          /* µs */
static size_t latency_count, latency_capacity;
#ifdef BENCH_TLS
static SSL_CTX *tls;
static const char *tls_name;
#endif

static void fail(const char *what)
{
    errors++;
    if (first_error == NULL)
        first_error = what;
    if (errors > 1000)
        die("more than 1000 errors; the first: %s", first_error);
}

static void record_latency(uint64_t ns)
{
    if (!measuring)
        return;
    if (latency_count == latency_capacity) {
        latency_capacity = latency_capacity == 0 ? 1 << 16 : latency_capacity * 2;
        latencies = realloc(latencies, latency_capacity * sizeof *latencies);
        if (latencies == NULL)
            die("out of memory");
    }
    latencies[latency_count++] = (uint32_t)(ns / 1000);
}

static void open_connection(struct connection *connection)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0)
        die("socket: %s", strerror(errno));
    stream_prepare(fd);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS)
        die("connect to port %d: %s", port, strerror(errno));
    connection->stream.fd = fd;
#ifdef BENCH_TLS
    if (tls != NULL) {
        connection->stream.ssl = SSL_new(tls);
        SSL_set_tlsext_host_name(connection->stream.ssl, tls_name);
        SSL_set1_host(connection->stream.ssl, tls_name);
        SSL_set_fd(connection->stream.ssl, fd);
        SSL_set_connect_state(connection->stream.ssl);
    }
#endif
    connection->connected = true;
    watch(epoll, fd, connection);
}

static void begin(struct connection *connection)
{
    bool switched = message != NULL && connection->connected;
    connection->busy = true;
    connection->begun = false;
    connection->out = switched ? message : request;
    connection->out_size = switched ? message_size : request_size;
    connection->sent = 0;
    connection->part = switched ? FRAMES : HEAD;
    if (!switched)
        memset(&connection->frames, 0, sizeof connection->frames);
    connection->head_size = connection->pending_size = connection->line_size = 0;
    connection->body_size = 0;
    connection->started = now_ns();
    busy_count++;
    if (!connection->connected)
        open_connection(connection);
}

static void disconnect(struct connection *connection)
{
    if (connection->connected)
        stream_close(&connection->stream);
    connection->connected = false;
    if (connection->busy) {
        connection->busy = false;
        busy_count--;
        if (connection->begun)
            begun_count--;
        else
            opening--;
    }
}

/* Events of a stream: counted, and the stamp of each read as soon as the event is complete. */
static void take_events(struct connection *connection, const char *data, size_t size)
{
    if (connection->pending_size + size > PENDING_LIMIT) {
        fail("events do not end");
        return;
    }
    memcpy(connection->pending + connection->pending_size, data, size);
    connection->pending_size += size;
    uint64_t now = now_ns();
    char *at = connection->pending, *end = connection->pending + connection->pending_size, *stop;
    while ((stop = memmem(at, (size_t)(end - at), "\n\n", 2)) != NULL) {
        char *stamp = memmem(at, (size_t)(stop - at), "\"@", 2);
        if (stamp != NULL && measuring) {
            events++;
            record_latency(now - strtoull(stamp + 2, NULL, 10));
        }
        at = stop + 2;
    }
    connection->pending_size = (size_t)(end - at);
    memmove(connection->pending, at, connection->pending_size);
}

static void count_body(struct connection *connection, size_t size)
{
    connection->body_size += size;
    payload += size;
    if (!connection->begun) {
        connection->begun = true;
        begun_count++;
        opening--;
    }
}

static void take_body(struct connection *connection, const char *data, size_t size)
{
    count_body(connection, size);
    if (mode == STREAMS)
        for (size_t at = 0; at < size; at += 1024)
            take_events(connection, data + at, size - at < 1024 ? size - at : 1024);
}

/* The answer is complete. */
static void complete(struct connection *connection)
{
    uint64_t now = now_ns();
    last_progress = now;
    connection->busy = false;
    busy_count--;
    if (connection->begun)
        begun_count--;
    else
        opening--;
    if (connection->status != (message == NULL ? 200 : 101))
        fail(message == NULL ? "status is not 200" : "status is not 101");
    else if (answer_size != 0 && connection->body_size != answer_size)
        fail("answers differ in size");
    else if (mode == STREAMS || mode == HOLD)
        fail("a stream ended");
    answer_size = connection->body_size;
    completed++;
    record_latency(now - connection->started);
}

/* The head is complete (`size` bytes of it): what follows? */
static bool take_head(struct connection *connection, size_t size)
{
    connection->head[size - 1] = 0;
    connection->status = atoi(connection->head + 9);
    const char *length = strcasestr(connection->head, "\r\ncontent-length:");
    const char *coding = strcasestr(connection->head, "\r\ntransfer-encoding: chunked");
    connection->part = coding != NULL ? CHUNK_SIZE : length != NULL ? SIZED : UNTIL_CLOSE;
    if (length != NULL)
        connection->left = strtoul(length + 17, NULL, 10);
    if (message != NULL && connection->status == 101) {
        const char *accept = strcasestr(connection->head, "\r\nsec-websocket-accept: ");
        if (accept == NULL || strncmp(accept + 24, accept_expected, ACCEPT_SIZE) != 0)
            return false;
        connection->part = FRAMES;
        connection->out = message;
        connection->out_size = message_size;
        connection->sent = 0;
        return true;
    }
    return connection->status >= 200;
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* A message of a WebSocket is complete; false where it is none that may come now. */
static bool take_message(struct connection *connection)
{
    struct frames *frames = &connection->frames;
    if (frames->last != '}')
        return false;
    if (starts_with(frames->start, "{\"type\":\"codex.rate_limits\""))
        return true;                         /* a proxy's own, at any time */
    if (!connection->busy || !starts_with(frames->start, "{\"type\":\"response."))
        return false;
    count_body(connection, frames->message_size);
    char *stamp = mode == STREAMS ? strstr(frames->start, "\"@") : NULL;
    if (stamp != NULL && measuring) {
        events++;
        record_latency(now_ns() - strtoull(stamp + 2, NULL, 10));
    }
    if (mode != HOLD && starts_with(frames->start, "{\"type\":\"response.completed\""))
        complete(connection);
    return true;
}

/* Feed received bytes; false where the framing is broken. Stops at the end of the answer. */
static bool take(struct connection *connection, char *data, size_t size)
{
    while (size > 0) {
        size_t step;
        switch (connection->part) {
        case HEAD: {
            step = size < HEAD_LIMIT - connection->head_size ? size : HEAD_LIMIT - connection->head_size;
            if (step == 0)
                return false;
            size_t before = connection->head_size;
            memcpy(connection->head + before, data, step);
            size_t from = before < 3 ? 0 : before - 3;
            char *end = memmem(connection->head + from, before + step - from, "\r\n\r\n", 4);
            connection->head_size += step;
            if (end != NULL) {
                size_t head = (size_t)(end - connection->head) + 4;
                step = head - before;
                if (!take_head(connection, head))
                    return false;
                if (connection->part == SIZED && connection->left == 0) {
                    complete(connection);
                    return size == step;
                }
            }
            break;
        }
        case SIZED:
        case CHUNK_DATA:
            step = size < connection->left ? size : connection->left;
            take_body(connection, data, step);
            connection->left -= step;
            if (connection->left == 0) {
                if (connection->part == SIZED) {
                    complete(connection);
                    return size == step;
                }
                connection->part = CHUNK_END;
                connection->left = 2;
            }
            break;
        case CHUNK_END:
            step = size < connection->left ? size : connection->left;
            connection->left -= step;
            if (connection->left == 0)
                connection->part = CHUNK_SIZE;
            break;
        case CHUNK_SIZE:
        case LAST_CHUNK: {
            const char *end = memchr(data, '\n', size);
            step = end == NULL ? size : (size_t)(end - data) + 1;
            if (connection->line_size + step >= 64)
                return false;
            memcpy(connection->head + connection->line_size, data, step);
            connection->line_size += step;
            if (end == NULL)
                break;
            connection->head[connection->line_size] = 0;
            size_t line = connection->line_size;
            connection->line_size = 0;
            if (connection->part == LAST_CHUNK) {
                if (line > 2)
                    break;                 /* a trailer */
                complete(connection);
                return size == step;
            }
            char *rest;
            connection->left = strtoul(connection->head, &rest, 16);
            if (rest == connection->head)
                return false;
            connection->part = connection->left == 0 ? LAST_CHUNK : CHUNK_DATA;
            break;
        }
        case UNTIL_CLOSE:
            step = size;
            take_body(connection, data, step);
            break;
        case FRAMES:
            if (take_frames(&connection->frames, data, size, &step)) {
                if (!take_message(connection))
                    return false;
                next_message(&connection->frames);
            }
            if (connection->frames.closed)
                return false;
            break;
        default:
            return false;
        }
        data += step;
        size -= step;
    }
    return true;
}

static bool send_request(struct connection *connection)
{
    while (connection->busy && connection->sent < connection->out_size) {
        ssize_t count = stream_write(&connection->stream, connection->out + connection->sent, connection->out_size - connection->sent);
        if (count == WOULD_BLOCK)
            return true;
        if (count < 0)
            return false;
        connection->sent += (size_t)count;
    }
    return true;
}

/* The peer closed or broke the connection. */
static void lost(struct connection *connection)
{
    bool busy = connection->busy;
    if (busy && connection->part == UNTIL_CLOSE) {
        complete(connection);
        busy = false;
    }
    if (busy && connection->part == HEAD && connection->head_size == 0 && mode == REQUESTS && connection->sent == request_size) {
        /* An idle connection may be closed at any time (RFC 9112 section 9.3.1). Told apart, because a peer that does it all
         * the time is no keep-alive peer. */
        reconnects++;
    } else if (busy)
        fail("the connection was lost");
    disconnect(connection);
}

static void progress(struct connection *connection)
{
    for (;;) {
        if (!connection->connected)
            return;
        if (!send_request(connection)) {
            lost(connection);
            return;
        }
        ssize_t count = stream_read(&connection->stream, buffer, sizeof buffer);
        if (count == WOULD_BLOCK)
            return;
        if (count <= 0) {
            lost(connection);
            return;
        }
        last_progress = now_ns();
        if ((!connection->busy && message == NULL) || !take(connection, buffer, (size_t)count)) {
            fail("the framing is broken");
            disconnect(connection);
            return;
        }
        if (connection->busy && connection->begun && connection->break_off) {
            broken_off++;
            disconnect(connection);
            return;
        }
        if (!connection->busy && mode == REQUESTS && sending) {
            opening++;
            begin(connection);
        } else if (!connection->busy && mode == CHURN) {
            disconnect(connection);
            return;
        }
    }
}

static void turn(int timeout_ms)
{
    struct epoll_event ready[256];
    int count = epoll_wait(epoll, ready, 256, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct connection *connection = ready[i].data.ptr;
        if (connection->connected)
            progress(connection);
    }
    if (busy_count > 0 && mode != HOLD && now_ns() - last_progress > STALL_NS)
        die("nothing came for 30 s; %ld answers outstanding", busy_count);
}

/* Keep every connection busy (REQUESTS), or open streams until all are (STREAMS, HOLD). A few at a time: a listener's backlog
 * may be short, and a dropped SYN costs a second. */
static void fill(void)
{
    for (long i = 0; i < connection_count && opening < (mode == REQUESTS ? connection_count : OPENING_AT_ONCE); i++)
        if (!connections[i].busy) {
            opening++;
            begin(&connections[i]);
            progress(&connections[i]);
        }
}

static void run_requests(uint64_t until)
{
    sending = true;
    last_progress = now_ns();
    while (now_ns() < until) {
        if (busy_count < connection_count)
            fill();
        turn(10);
    }
    sending = false;
    while (busy_count > 0)
        turn(10);
}

static void open_streams(void)
{
    last_progress = now_ns();
    while (begun_count < connection_count) {
        if (busy_count < connection_count)
            fill();
        turn(10);
        if (now_ns() - last_progress > STALL_NS)
            die("nothing came for 30 s; %ld of %ld streams are open", begun_count, connection_count);
    }
}

static void read_streams(uint64_t until)
{
    while (now_ns() < until)
        turn(10);
}

static void run_churn(long total)
{
    long begun = 0;
    last_progress = now_ns();
    while (begun < total || busy_count > 0) {
        for (long i = 0; i < connection_count && begun < total && opening < OPENING_AT_ONCE; i++)
            if (!connections[i].busy) {
                connections[i].break_off = begun++ % 2 == 1;
                opening++;
                begin(&connections[i]);
                progress(&connections[i]);
            }
        turn(10);
    }
}

/* Tell the driver, and go on when it says so; connections are served meanwhile. */
static void await_driver(const char *word)
{
    puts(word);
    fflush(stdout);
    struct pollfd input[2] = {{.fd = 0, .events = POLLIN}, {.fd = epoll, .events = POLLIN}};
    for (;;) {
        poll(input, 2, 1000);
        if (input[1].revents != 0)
            turn(0);
        if (input[0].revents != 0) {
            char line[16];
            if (read(0, line, sizeof line) <= 0)
                exit(1);
            return;
        }
    }
}

static int ascending(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static double percentile(double fraction)
{
    return latency_count == 0 ? 0.0 : latencies[(size_t)(fraction * (double)(latency_count - 1))] / 1000.0;
}

static void reset_counts(void)
{
    completed = broken_off = events = payload = errors = reconnects = 0;
    first_error = NULL;
    latency_count = 0;
    measuring = true;
}

static void read_request(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        die("cannot read %s", path);
    fseek(file, 0, SEEK_END);
    request_size = (size_t)ftell(file);
    rewind(file);
    request = allocate(request_size + 1);
    if (fread(request, 1, request_size, file) != request_size)
        die("cannot read %s", path);
    fclose(file);
    char *text = memmem(request, request_size, "\r\n\r\n", 4);
    if (text == NULL || strcasestr(request, "\r\nupgrade: websocket\r\n") == NULL)
        return;
    if (!accept_value(request, accept_expected))
        die("%s has no Sec-WebSocket-Key", path);
    /* Real clients draw a mask per frame; what it is makes no difference to those who read it. */
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    text += 4;
    size_t text_size = request_size - (size_t)(text - request);
    message = allocate(text_size + FRAME_HEAD_LIMIT);
    message_size = text_frame(message, text, text_size, mask);
    request_size -= text_size;
}

int main(int argc, char **argv)
{
    die_with_parent();
    const char *mode_name = argument(argc, argv, "--mode", "requests");
    mode = strcmp(mode_name, "streams") == 0 ? STREAMS : strcmp(mode_name, "churn") == 0 ? CHURN : strcmp(mode_name, "hold") == 0 ? HOLD : REQUESTS;
    port = (int)number_argument(argc, argv, "--port", 0);
    read_request(argument(argc, argv, "--request", ""));
    connection_count = number_argument(argc, argv, "--connections", 1);
    connections = allocate((size_t)connection_count * sizeof *connections);
    uint64_t window = (uint64_t)(strtod(argument(argc, argv, "--seconds", "1"), NULL) * 1e9);
    uint64_t warmup = (uint64_t)number_argument(argc, argv, "--warmup-ms", 300) * 1000000u;
    const char *ca = argument(argc, argv, "--tls-ca", NULL);
    if (ca != NULL) {
#ifdef BENCH_TLS
        tls = tls_context(TLS_client_method());
        tls_name = argument(argc, argv, "--tls-name", "localhost");
        SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
        if (SSL_CTX_load_verify_locations(tls, ca, NULL) != 1)
            die("cannot load %s", ca);
#else
        die("built without TLS");
#endif
    }
    epoll = epoll_create1(0);

    uint64_t began = 0, seconds;
    switch (mode) {
    case REQUESTS:
        run_requests(now_ns() + warmup);
        await_driver("ready");
        reset_counts();
        began = now_ns();
        run_requests(began + window);
        break;
    case STREAMS:
        open_streams();
        read_streams(now_ns() + warmup);
        await_driver("ready");
        reset_counts();
        began = now_ns();
        read_streams(began + window);
        break;
    case CHURN:
        run_churn(number_argument(argc, argv, "--warmup-count", 0));
        await_driver("open");
        reset_counts();
        began = now_ns();
        run_churn(number_argument(argc, argv, "--count", 0));
        break;
    case HOLD: {
        long all = connection_count;       /* first a few, so that what is allocated once is there */
        connection_count = all < 32 ? all : 32;
        open_streams();
        for (long i = 0; i < connection_count; i++)
            disconnect(&connections[i]);
        await_driver("ready");
        connection_count = all;
        reset_counts();
        began = now_ns();
        open_streams();
        await_driver("open");
        break;
    }
    }
    seconds = now_ns() - began;
    measuring = false;
    uint64_t counted_errors = errors;
    qsort(latencies, latency_count, sizeof *latencies, ascending);
    printf("{\"completed\": %llu, \"broken_off\": %llu, \"seconds\": %.6f, \"events\": %llu, \"bytes\": %llu, \"answer_bytes\": %llu, "
           "\"errors\": %llu, \"reconnects\": %llu, \"open\": %ld, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"first_error\": \"%s\"}\n",
           (unsigned long long)completed, (unsigned long long)broken_off, (double)seconds / 1e9, (unsigned long long)events,
           (unsigned long long)payload, (unsigned long long)answer_size, (unsigned long long)counted_errors, (unsigned long long)reconnects,
           begun_count, percentile(0.5), percentile(0.99), first_error == NULL ? "" : first_error);
    fflush(stdout);
    char line[16];
    if (read(0, line, sizeof line) < 0)    /* the driver reads its clocks before we close anything */
        return 1;
    for (long i = 0; i < connection_count; i++)
        disconnect(&connections[i]);
    return 0;
}
