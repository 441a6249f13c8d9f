/* WebSocket for the upstream and the load generator (RFC 6455): the answer to a handshake, frames out, frames in.
 *
 * Without extensions, so nothing is compressed. Control frames are read and left unanswered: connections live for seconds.
 */
#ifndef BENCH_FRAMES_H
#define BENCH_FRAMES_H

#include "wire.h"

#define ACCEPT_SIZE 28
#define FRAME_HEAD_LIMIT 14
#define START_LIMIT 160

static inline uint32_t sha1_rotate(uint32_t value, int bits)
{
    return value << bits | value >> (32 - bits);
}

static inline void sha1_block(uint32_t state[5], const uint8_t *block)
{
    uint32_t words[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++)
        words[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        words[i] = sha1_rotate(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t mixed = i < 20 ? ((b & c) | (~b & d)) + 0x5a827999u
                         : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1u
                         : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdcu
                                  : (b ^ c ^ d) + 0xca62c1d6u;
        uint32_t next = sha1_rotate(a, 5) + mixed + e + words[i];
        e = d;
        d = c;
        c = sha1_rotate(b, 30);
        b = a;
        a = next;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
}

/* Sec-WebSocket-Accept for the key in `head`, as text: SHA-1 of key and GUID, in base64 (section 4.2.2). False: no key. */
static inline bool accept_value(const char *head, char target[ACCEPT_SIZE + 1])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *key = strcasestr(head, "\r\nsec-websocket-key:");
    if (key == NULL)
        return false;
    key += 20;
    key += strspn(key, " ");
    if (strcspn(key, " \r") != 24)
        return false;
    uint8_t text[128] = {0}, digest[21] = {0};     /* 60 bytes and their padding: two blocks */
    memcpy(text, key, 24);
    memcpy(text + 24, guid, 36);
    text[60] = 0x80;
    text[126] = (60 * 8) >> 8;
    text[127] = (60 * 8) & 0xff;
    uint32_t state[5] = {0x67452301u, 0xefcdab89u, 0x98badcfeu, 0x10325476u, 0xc3d2e1f0u};
    sha1_block(state, text);
    sha1_block(state, text + 64);
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
    for (int i = 0; i < 7; i++) {
        uint32_t group = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int j = 0; j < 4; j++)
            target[4 * i + j] = digits[group >> (18 - 6 * j) & 63];
    }
    target[ACCEPT_SIZE - 1] = '=';
    target[ACCEPT_SIZE] = 0;
    return true;
}

/* XOR `size` bytes with the mask, of which `phase` bytes were used before. */
static inline void unmask(char *data, size_t size, const uint8_t mask[4], size_t phase)
{
    uint8_t turned[8];
    uint64_t wide, word;
    for (size_t i = 0; i < 8; i++)
        turned[i] = mask[(phase + i) % 4];
    memcpy(&wide, turned, 8);
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        memcpy(&word, data + at, 8);
        word ^= wide;
        memcpy(data + at, &word, 8);
    }
    for (; at < size; at++)
        data[at] ^= (char)turned[at % 8];
}

/* A whole text message as one frame; returns its size, at most FRAME_HEAD_LIMIT more than the text's. `mask`: NULL for a
 * server's. */
static inline size_t text_frame(char *target, const char *text, size_t size, const uint8_t *mask)
{
    size_t head = 2;
    target[0] = (char)0x81;
    if (size < 126) {
        target[1] = (char)size;
    } else {
        int length = size < 65536 ? 2 : 8;
        target[1] = (char)(length == 2 ? 126 : 127);
        for (int i = length - 1; i >= 0; i--)
            target[head++] = (char)((uint64_t)size >> (8 * i));
    }
    if (mask != NULL) {
        target[1] |= (char)0x80;
        memcpy(target + head, mask, 4);
        head += 4;
    }
    memcpy(target + head, text, size);
    if (mask != NULL)
        unmask(target + head, size, mask, 0);
    return head + size;
}

/* What a connection knows of the frames it reads. A message's first bytes are kept, its size, and its last byte. */
struct frames {
    uint8_t head[FRAME_HEAD_LIMIT], mask[4];
    size_t head_size, frame_size, left;
    bool masked, closed;
    uint64_t message_size;
    size_t start_size;
    char start[START_LIMIT + 1], last;
};

/* Take from `data`, which is unmasked in place, until a message ends; `used`: the bytes taken. True where one has ended. */
static inline bool take_frames(struct frames *frames, char *data, size_t size, size_t *used)
{
    size_t at = 0;
    while (at < size || frames->left == 0) {
        if (frames->frame_size == 0) {                /* in a head, which says itself how long it is */
            int short_length = frames->head_size < 2 ? 0 : frames->head[1] & 0x7f;
            size_t wanted = 2 + (short_length == 126 ? 2 : short_length == 127 ? 8 : 0);
            if (frames->head_size >= 2 && frames->head[1] & 0x80)
                wanted += 4;
            if (frames->head_size < wanted) {
                if (at == size)
                    break;
                frames->head[frames->head_size++] = (uint8_t)data[at++];
                continue;
            }
            size_t from = 2;
            int length = frames->head[1] & 0x7f, wide = length == 126 ? 2 : length == 127 ? 8 : 0;
            frames->left = wide == 0 ? (size_t)length : 0;
            for (int i = 0; i < wide; i++)
                frames->left = frames->left << 8 | frames->head[from++];
            frames->masked = frames->head[1] & 0x80;
            memcpy(frames->mask, frames->head + from, 4);
            frames->frame_size = frames->left + 1;     /* never 0: that means "in a head" */
        }
        size_t step = size - at < frames->left ? size - at : frames->left;
        bool control = frames->head[0] & 0x08;
        if (frames->masked)
            unmask(data + at, step, frames->mask, frames->frame_size - 1 - frames->left);
        if (!control && step > 0) {
            size_t room = START_LIMIT - frames->start_size, kept = step < room ? step : room;
            memcpy(frames->start + frames->start_size, data + at, kept);
            frames->start_size += kept;
            frames->message_size += step;
            frames->last = data[at + step - 1];
        }
        at += step;
        frames->left -= step;
        if (frames->left > 0)
            break;
        frames->frame_size = frames->head_size = 0;
        if (control)
            frames->closed = frames->closed || (frames->head[0] & 0x0f) == 8;
        else if (frames->head[0] & 0x80) {
            frames->start[frames->start_size] = 0;
            *used = at;
            return true;
        }
    }
    *used = at;
    return false;
}

/* The message has been looked at: on to the next. */
static inline void next_message(struct frames *frames)
{
    frames->start_size = 0;
    frames->message_size = 0;
}

#endif
