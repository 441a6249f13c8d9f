/* The upstream of the benchmarks: answers POST with what the Messages API would send, as cheaply as a C program can.
 *
 *   upstream --port N --mode json|paced|burst|hold [--interval-us N] [--events N] [--blocks N] [--answer-bytes N]
 *            [--tls-certificate FILE --tls-key FILE]
 *
 * json   one JSON answer
 * paced  a stream with an event every --interval-us; --events of them, or without end (0)
 * burst  a stream of --blocks blocks of 64 events, as fast as the peer takes them
 * hold   a stream that begins and then says nothing until the peer goes away
 *
 * GET is answered with the account's usage, for a proxy that polls it. Every event is an HTTP chunk of its own, as the real
 * service sends it. GET with an Upgrade becomes a WebSocket as of the Responses API: each message from the client begins a turn,
 * which with json is answered by an event with a text of --answer-bytes and the end of the turn, and with paced by an event and
 * then another one every --interval-us, without end. Text events carry the monotonic clock in ns ("@0123456789012345678"), taken just before they are written.
 * On SIGTERM it prints what it counted, as JSON, and leaves.
 */
#include "frames.h"

#define HEAD_LIMIT 16384
#define BLOCK_EVENTS 64
#define EVENT_LIMIT 512

struct connection {
    struct stream stream;
    char head[HEAD_LIMIT];
    size_t head_size;
    size_t body_left;
    bool answering, closed, scheduled, websocket;
    struct frames frames;          /* websocket: what the client sends */
    const char *out;               /* what is being written, and how much of it is left */
    size_t out_left;
    long blocks_left;              /* burst: blocks after this one; -1: the end is being written */
    long events_left;              /* paced: -1 = without end */
    uint64_t due;
    char *backlog;                 /* paced: what the peer did not take yet */
    size_t backlog_size, backlog_capacity;
    struct connection *next, *previous; /* paced: the queue of streams by due time */
};

enum mode { JSON, PACED, BURST, HOLD };

static enum mode mode;
static uint64_t interval_ns;
static long events_per_stream, blocks_per_stream;
static char scratch[1 << 18];
static char *answer_json, *answer_usage, *stream_begin, *stream_end, *block, *answer_refused;
static char *turn, *turn_begin;    /* frames: a whole turn, and only its beginning */
static size_t block_size, turn_size, turn_begin_size;
static struct connection *queue_first, *queue_last;
static uint64_t requests, unreplaced, streams_begun;
static volatile sig_atomic_t stopping;

static void stop(int signal_number)
{
    (void)signal_number;
    stopping = 1;
}

static char *format_text(const char *format, ...)
{
    char *text;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        die("out of memory");
    va_end(arguments);
    return text;
}

static size_t chunk_event(char *target, const char *name, const char *data)
{
    char event[EVENT_LIMIT * 2];
    int size = snprintf(event, sizeof event, "event: %s\ndata: %s\n\n", name, data);
    return (size_t)sprintf(target, "%x\r\n%s\r\n", (unsigned)size, event);
}

/* One text event as a chunk. All have the same size; returns it. */
static size_t text_event(char *target, uint64_t stamp)
{
    char data[EVENT_LIMIT];
    snprintf(data, sizeof data,
             "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"@%019llu of the answer\"}}",
             (unsigned long long)stamp);
    return chunk_event(target, "content_block_delta", data);
}

/* The same as a message of a WebSocket. */
static size_t text_message(char *target, uint64_t stamp)
{
    char data[EVENT_LIMIT];
    int size = snprintf(data, sizeof data,
                        "{\"type\":\"response.output_text.delta\",\"delta\":\"@%019llu of the answer\",\"item_id\":\"msg_bench\","
                        "\"output_index\":0,\"content_index\":0,\"sequence_number\":4}",
                        (unsigned long long)stamp);
    return text_frame(target, data, (size_t)size, NULL);
}

/* `text_size`: bytes of text in the answer. */
static void prepare_turns(size_t text_size)
{
    char *text = allocate(text_size + EVENT_LIMIT);
    size_t size = (size_t)sprintf(text, "{\"type\":\"response.output_text.delta\",\"delta\":\"");
    for (size_t i = 0; i < text_size; i++)
        text[size++] = "The answer is as long as was asked for. "[i % 40];
    size += (size_t)sprintf(text + size, "\",\"item_id\":\"msg_bench\",\"output_index\":0,\"content_index\":0,\"sequence_number\":4}");
    const char *end = "{\"type\":\"response.completed\",\"response\":{\"id\":\"resp_bench\",\"object\":\"response\",\"model\":\"gpt-5.1-codex\","
                      "\"status\":\"completed\",\"usage\":{\"input_tokens\":18540,\"input_tokens_details\":{\"cached_tokens\":18200},"
                      "\"output_tokens\":9,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":18549}},\"sequence_number\":5}";
    turn = allocate(size + strlen(end) + 2 * FRAME_HEAD_LIMIT);
    turn_size = text_frame(turn, text, size, NULL);
    turn_size += text_frame(turn + turn_size, end, strlen(end), NULL);
    free(text);
    const char *created = "{\"type\":\"response.created\",\"response\":{\"id\":\"resp_bench\",\"status\":\"in_progress\"},\"sequence_number\":0}";
    turn_begin = allocate(strlen(created) + FRAME_HEAD_LIMIT);
    turn_begin_size = text_frame(turn_begin, created, strlen(created), NULL);
}

static void prepare_answers(void)
{
    long now = (long)time(NULL);
    char *limits = format_text(
        "request-id: req_011CXbenchbenchbenchbenchbe\r\n"
        "anthropic-organization-id: 6f0c1bd8-1c9e-4d1c-9a53-0a2d2f2c7c11\r\n"
        "anthropic-ratelimit-unified-status: allowed\r\n"
        "anthropic-ratelimit-unified-5h-status: allowed\r\n"
        "anthropic-ratelimit-unified-5h-utilization: 0.12\r\n"
        "anthropic-ratelimit-unified-5h-reset: %ld\r\n"
        "anthropic-ratelimit-unified-7d-status: allowed\r\n"
        "anthropic-ratelimit-unified-7d-utilization: 0.05\r\n"
        "anthropic-ratelimit-unified-7d-reset: %ld\r\n"
        "anthropic-ratelimit-unified-representative-claim: five_hour\r\n"
        "anthropic-ratelimit-unified-reset: %ld\r\n",
        now + 10000, now + 500000, now + 10000);
    const char *message =
        "{\"model\":\"claude-opus-4-5-20251101\",\"id\":\"msg_01BenchBenchBenchBenchBen\",\"type\":\"message\",\"role\":\"assistant\","
        "\"content\":[{\"type\":\"text\",\"text\":\"Yes. The answer is short.\"}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,"
        "\"usage\":{\"input_tokens\":12,\"cache_creation_input_tokens\":340,\"cache_read_input_tokens\":18200,"
        "\"cache_creation\":{\"ephemeral_5m_input_tokens\":340,\"ephemeral_1h_input_tokens\":0},\"output_tokens\":9,"
        "\"service_tier\":\"standard\"}}";
    answer_json = format_text("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n%s\r\n%s", strlen(message),
                              limits, message);
    const char *usage = "{\"five_hour\":{\"utilization\":12.0,\"resets_at\":\"2099-01-01T00:00:00+00:00\"},"
                        "\"seven_day\":{\"utilization\":5.0,\"resets_at\":\"2099-01-01T00:00:00+00:00\"}}";
    answer_usage = format_text("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(usage), usage);
    answer_refused = "HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\n\r\n";

    char start[4096], *at = start;
    at += chunk_event(at, "message_start",
                      "{\"type\":\"message_start\",\"message\":{\"model\":\"claude-opus-4-5-20251101\",\"id\":\"msg_01BenchBenchBenchBenchBen\","
                      "\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,"
                      "\"usage\":{\"input_tokens\":12,\"cache_creation_input_tokens\":340,\"cache_read_input_tokens\":18200,"
                      "\"output_tokens\":1,\"service_tier\":\"standard\"}}}");
    at += chunk_event(at, "content_block_start",
                      "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}");
    at += chunk_event(at, "ping", "{\"type\": \"ping\"}");
    *at = 0;
    stream_begin = format_text(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
        "Transfer-Encoding: chunked\r\n%s\r\n%s",
        limits, start);
    at = start;
    at += chunk_event(at, "content_block_stop", "{\"type\":\"content_block_stop\",\"index\":0}");
    at += chunk_event(at, "message_delta",
                      "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},"
                      "\"usage\":{\"input_tokens\":12,\"cache_creation_input_tokens\":340,\"cache_read_input_tokens\":18200,\"output_tokens\":512}}");
    at += chunk_event(at, "message_stop", "{\"type\":\"message_stop\"}");
    strcpy(at, "0\r\n\r\n");
    stream_end = strdup(start);

    block = allocate(BLOCK_EVENTS * EVENT_LIMIT);
    for (int i = 0; i < BLOCK_EVENTS; i++)
        block_size += text_event(block + block_size, 0);
}

static void finish(struct connection *connection)
{
    if (connection->closed)
        return;
    connection->closed = true;
    stream_close(&connection->stream);
    free(connection->backlog);
    connection->backlog = NULL;
    if (!connection->scheduled)
        free(connection);          /* else the queue frees it */
}

/* Put it into the queue, which is ordered by due time. All have one interval, so its place is nearly always the end. */
static void schedule(struct connection *connection, uint64_t due)
{
    struct connection *before = queue_last;
    while (before != NULL && before->due > due)
        before = before->previous;
    connection->due = due;
    connection->scheduled = true;
    connection->previous = before;
    connection->next = before == NULL ? queue_first : before->next;
    *(connection->previous == NULL ? &queue_first : &connection->previous->next) = connection;
    *(connection->next == NULL ? &queue_last : &connection->next->previous) = connection;
}

static struct connection *take_first(void)
{
    struct connection *connection = queue_first;
    queue_first = connection->next;
    *(queue_first == NULL ? &queue_last : &queue_first->previous) = NULL;
    connection->scheduled = false;
    return connection;
}

/* The first event of a new stream is due after one interval and a bit: streams tick evenly spread over the interval, however
 * many are opened at once. (Multiples of the golden ratio, modulo 1, are evenly spread for any count.) */
static uint64_t first_due(void)
{
    uint64_t earliest = now_ns() + interval_ns, phase = (uint64_t)((double)(streams_begun++) * 0.6180339887498949 * (double)interval_ns);
    return earliest + (phase % interval_ns + interval_ns - earliest % interval_ns) % interval_ns;
}

static void begin(struct connection *connection, const char *answer, size_t size)
{
    connection->answering = true;
    connection->out = answer;
    connection->out_left = size;
}

/* From now on the connection is a WebSocket. False where the handshake is none. */
static bool switch_protocols(struct connection *connection)
{
    char accept[ACCEPT_SIZE + 1];
    connection->head[connection->head_size] = 0;
    if (strcasestr(connection->head, "\r\nupgrade: websocket") == NULL || !accept_value(connection->head, accept))
        return false;
    int size = snprintf(connection->head, HEAD_LIMIT,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                        accept);
    connection->websocket = true;
    connection->blocks_left = -1;
    begin(connection, connection->head, (size_t)size);
    return true;
}

/* A request is complete: decide what to write. */
static void answer(struct connection *connection)
{
    if (switch_protocols(connection))
        return;
    if (memcmp(connection->head, "POST", 4) != 0) {
        begin(connection, answer_usage, strlen(answer_usage));
        connection->blocks_left = -1;
        return;
    }
    requests++;
    const char *text = mode == JSON ? answer_json : stream_begin;
    begin(connection, text, strlen(text));
    connection->blocks_left = mode == BURST ? blocks_per_stream : -1;
    connection->events_left = events_per_stream > 0 ? events_per_stream : -1;
    if (mode == PACED)
        schedule(connection, first_due());
}

/* The same for a message of a WebSocket. False where it is not one that begins a turn, or begins one within another. */
static bool answer_message(struct connection *connection)
{
    static const char type[] = "{\"type\":\"response.create\",";
    if (connection->answering || strncmp(connection->frames.start, type, sizeof type - 1) != 0 || connection->frames.last != '}')
        return false;
    requests++;
    connection->events_left = -1;
    if (mode == PACED) {
        begin(connection, turn_begin, turn_begin_size);
        schedule(connection, first_due());
    } else
        begin(connection, turn, turn_size);
    return true;
}

/* What follows when `out` is written. False: nothing, the answer is complete or waits for its time. */
static bool next_part(struct connection *connection)
{
    if (!connection->answering)
        return false;
    if (mode == BURST && connection->blocks_left > 0) {
        connection->blocks_left--;
        connection->out = block;
        connection->out_left = block_size;
        return true;
    }
    if (mode == BURST && connection->blocks_left == 0) {
        connection->blocks_left = -1;
        connection->out = stream_end;
        connection->out_left = strlen(stream_end);
        return true;
    }
    if (connection->scheduled && connection->websocket)
        return false;
    if (memcmp(connection->head, "POST", 4) == 0) {
        if (mode == HOLD || (mode == PACED && connection->events_left != 0))
            return false;
        if (mode == PACED && connection->backlog_size > 0)
            return false;
    }
    connection->answering = false;
    connection->head_size = 0;
    return false;
}

/* False: the connection is gone. */
static bool write_pending(struct connection *connection)
{
    for (;;) {
        while (connection->out_left > 0) {
            ssize_t count = stream_write(&connection->stream, connection->out, connection->out_left);
            if (count == WOULD_BLOCK)
                return true;
            if (count < 0)
                return false;
            connection->out += count;
            connection->out_left -= (size_t)count;
        }
        if (connection->backlog_size > 0) {
            ssize_t count = stream_write(&connection->stream, connection->backlog, connection->backlog_size);
            if (count == WOULD_BLOCK)
                return true;
            if (count < 0)
                return false;
            connection->backlog_size -= (size_t)count;
            memmove(connection->backlog, connection->backlog + count, connection->backlog_size);
            continue;
        }
        if (!next_part(connection))
            return true;
    }
}

/* Head complete: how long is the body? Returns false where it cannot be told. */
static bool take_head(struct connection *connection, size_t head_end, size_t *after)
{
    char saved = connection->head[head_end];
    connection->head[head_end] = 0;
    const char *length = strcasestr(connection->head, "\r\ncontent-length:");
    bool chunked = strcasestr(connection->head, "\r\ntransfer-encoding:") != NULL;
    if (strstr(connection->head, "bench-token") != NULL)
        unreplaced++;
    connection->head[head_end] = saved;
    size_t body = length == NULL ? 0 : strtoul(length + 17, NULL, 10);
    size_t extra = connection->head_size - head_end;
    if (extra > body)
        extra = body;
    connection->body_left = body - extra;
    *after = head_end + extra;
    return !chunked;
}

/* Bytes that the client of a WebSocket has sent; false where it closes, or breaks the rules. */
static bool take_messages(struct connection *connection, char *data, size_t size)
{
    size_t used;
    while (take_frames(&connection->frames, data, size, &used)) {
        if (!answer_message(connection) || !write_pending(connection))
            return false;
        next_message(&connection->frames);
        data += used;
        size -= used;
    }
    return !connection->frames.closed;
}

static bool read_pending(struct connection *connection)
{
    for (;;) {
        if (connection->websocket) {
            ssize_t count = stream_read(&connection->stream, scratch, sizeof scratch);
            if (count == WOULD_BLOCK)
                return true;
            if (count <= 0 || !take_messages(connection, scratch, (size_t)count))
                return false;
            continue;
        }
        if (connection->body_left > 0) {
            ssize_t count = stream_discard(&connection->stream, scratch, sizeof scratch, connection->body_left);
            if (count == WOULD_BLOCK)
                return true;
            if (count <= 0)
                return false;
            connection->body_left -= (size_t)count;
            if (connection->body_left == 0) {
                answer(connection);
                if (!write_pending(connection))
                    return false;
            }
            continue;
        }
        if (connection->answering) {
            /* Nobody sends more before the answer is complete: only the end can come. */
            ssize_t count = stream_read(&connection->stream, scratch, sizeof scratch);
            if (count == WOULD_BLOCK)
                return true;
            return false;
        }
        if (connection->head_size == HEAD_LIMIT - 1)
            return false;
        ssize_t count = stream_read(&connection->stream, connection->head + connection->head_size, HEAD_LIMIT - 1 - connection->head_size);
        if (count == WOULD_BLOCK)
            return true;
        if (count <= 0)
            return false;
        connection->head_size += (size_t)count;
        char *end = memmem(connection->head, connection->head_size, "\r\n\r\n", 4);
        if (end == NULL)
            continue;
        size_t after;
        if (!take_head(connection, (size_t)(end - connection->head) + 4, &after)) {
            stream_write(&connection->stream, answer_refused, strlen(answer_refused));
            return false;
        }
        if (connection->body_left == 0) {
            answer(connection);
            if (!write_pending(connection))
                return false;
        }
    }
}

/* False: the connection is gone. */
static bool write_event(struct connection *connection)
{
    char event[EVENT_LIMIT * 4];
    size_t size = connection->websocket ? text_message(event, now_ns()) : text_event(event, now_ns());
    if (connection->events_left > 0 && --connection->events_left == 0) {
        strcpy(event + size, stream_end);
        size += strlen(stream_end);
    }
    size_t written = 0;
    if (connection->out_left == 0 && connection->backlog_size == 0) {
        ssize_t count = stream_write(&connection->stream, event, size);
        if (count == BROKEN)
            return false;
        written = count > 0 ? (size_t)count : 0;
    }
    if (written < size) {
        if (connection->backlog_size + size > connection->backlog_capacity) {
            connection->backlog_capacity = 2 * (connection->backlog_size + size);
            connection->backlog = realloc(connection->backlog, connection->backlog_capacity);
            if (connection->backlog == NULL)
                die("out of memory");
        }
        memcpy(connection->backlog + connection->backlog_size, event + written, size - written);
        connection->backlog_size += size - written;
    }
    if (connection->events_left == 0 && connection->backlog_size == 0)
        next_part(connection);
    return true;
}

static void write_due_events(void)
{
    while (queue_first != NULL && queue_first->due <= now_ns()) {
        struct connection *connection = take_first();
        uint64_t due = connection->due;
        if (connection->closed) {
            free(connection);
            continue;
        }
        if (!write_event(connection))
            finish(connection);            /* and frees it: it is not in the queue */
        else if (connection->events_left != 0)
            schedule(connection, due + interval_ns);
    }
}

static int listen_on(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0)
        die("cannot listen on port %d: %s", port, strerror(errno));
    return fd;
}

#ifdef BENCH_TLS
static int only_http1(SSL *ssl, const unsigned char **out, unsigned char *size, const unsigned char *offered, unsigned offered_size, void *unused)
{
    (void)ssl;
    (void)unused;
    static const unsigned char ours[] = "\x08http/1.1";
    return SSL_select_next_proto((unsigned char **)out, size, ours, sizeof ours - 1, offered, offered_size) == OPENSSL_NPN_NEGOTIATED
               ? SSL_TLSEXT_ERR_OK
               : SSL_TLSEXT_ERR_NOACK;
}
#endif

int main(int argc, char **argv)
{
    die_with_parent();
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    const char *mode_name = argument(argc, argv, "--mode", "json");
    mode = strcmp(mode_name, "paced") == 0 ? PACED : strcmp(mode_name, "burst") == 0 ? BURST : strcmp(mode_name, "hold") == 0 ? HOLD : JSON;
    interval_ns = (uint64_t)number_argument(argc, argv, "--interval-us", 50000) * 1000u;
    events_per_stream = number_argument(argc, argv, "--events", 0);
    blocks_per_stream = number_argument(argc, argv, "--blocks", 64);
    prepare_answers();
    prepare_turns((size_t)number_argument(argc, argv, "--answer-bytes", 20));
    const char *certificate = argument(argc, argv, "--tls-certificate", NULL);
#ifdef BENCH_TLS
    SSL_CTX *context = NULL;
    if (certificate != NULL) {
        context = tls_context(TLS_server_method());
        SSL_CTX_set_alpn_select_cb(context, only_http1, NULL);
        if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
            SSL_CTX_use_PrivateKey_file(context, argument(argc, argv, "--tls-key", ""), SSL_FILETYPE_PEM) != 1)
            die("cannot load the certificate or its key");
    }
#else
    if (certificate != NULL)
        die("built without TLS");
#endif
    int epoll = epoll_create1(0), listener = listen_on((int)number_argument(argc, argv, "--port", 0));
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &listening);
    puts("listening");
    fflush(stdout);
    while (!stopping) {
        struct timespec wait = {.tv_sec = 1}, *timeout = &wait;
        if (queue_first != NULL) {
            uint64_t now = now_ns(), left = queue_first->due > now ? queue_first->due - now : 0;
            wait.tv_sec = (time_t)(left / 1000000000u);
            wait.tv_nsec = (long)(left % 1000000000u);
        }
        int count = epoll_pwait2(epoll, events, 256, timeout, NULL);
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection != NULL) {
                if (!write_pending(connection) || !read_pending(connection))
                    finish(connection);
                continue;
            }
            int fd;
            while ((fd = accept(listener, NULL, NULL)) >= 0) {
                connection = allocate(sizeof *connection);
                connection->stream.fd = fd;
                stream_prepare(fd);
#ifdef BENCH_TLS
                if (context != NULL) {
                    connection->stream.ssl = SSL_new(context);
                    SSL_set_fd(connection->stream.ssl, fd);
                    SSL_set_accept_state(connection->stream.ssl);
                }
#endif
                watch(epoll, fd, connection);
            }
            if (errno == EMFILE || errno == ENFILE)
                die("out of file descriptors");
        }
        write_due_events();
    }
    printf("{\"requests\": %llu, \"unreplaced\": %llu}\n", (unsigned long long)requests, (unsigned long long)unreplaced);
    return 0;
}
