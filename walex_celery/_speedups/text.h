/* Text in the form that messages have it: JSON strings, base64, numbers. Every writer returns the place after what it
 * wrote. The caller has measured the text and made room for it. */

#ifndef WALEX_TEXT_H
#define WALEX_TEXT_H

#include <stdint.h>
#include <string.h>

static const char walex_digits[] = "0123456789abcdef";

static inline char *walex_write(char *out, const char *text, size_t size) {
    memcpy(out, text, size);
    return out + size;
}

static inline char *walex_write_hex(char *out, uint64_t value, int digits) {
    for (int at = digits; at--; value >>= 4) out[at] = walex_digits[value & 15];
    return out + digits;
}

static inline char *walex_write_decimal(char *out, uint64_t value, int least) {
    char text[20];
    int at = 20;
    while (value || 20 - at < least) {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    }
    return walex_write(out, text + at, (size_t)(20 - at));
}

/* An integer of `size` bytes, big-endian. */
static inline char *walex_write_big(char *out, uint64_t value, int size) {
    for (int at = size; at--; value >>= 8) out[at] = (char)(value & 0xFF);
    return out + size;
}

/* An LSN as Postgres prints it: two halves in upper case, without leading zeros. */
static inline char *walex_write_lsn(char *out, uint64_t lsn) {
    for (int half = 0; half < 2; half++) {
        uint32_t value = (uint32_t)(half ? lsn : lsn >> 32);
        int digits = 1;
        while (digits < 8 && value >> 4 * digits) digits++;
        for (int at = digits; at--; value >>= 4) out[at] = "0123456789ABCDEF"[value & 15];
        out += digits;
        if (!half) *out++ = '/';
    }
    return out;
}

/* Whether eight bytes are all ASCII, without control character, quote or backslash ("haszero" of Bit Twiddling Hacks). */
static inline int walex_eight_are_plain(const uint8_t *text) {
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    uint64_t word, quote, slash;
    memcpy(&word, text, 8);
    quote = word ^ ones * '"';
    slash = word ^ ones * '\\';
    return !((word | ((word - ones * 0x20) & ~word) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash)) & highs);
}

/* The letter of a two-character escape; 0 for none. */
static inline char walex_short_escape(uint8_t byte) {
    switch (byte) {
    case '"': case '\\': return (char)byte;
    case 8: return 'b';
    case 9: return 't';
    case 10: return 'n';
    case 12: return 'f';
    case 13: return 'r';
    }
    return 0;
}

static inline char *walex_write_code(char *out, uint32_t code) {
    *out++ = '\\';
    *out++ = 'u';
    return walex_write_hex(out, code, 4);
}

static inline char *walex_write_escape(char *out, uint8_t byte) {
    char letter = walex_short_escape(byte);
    if (!letter) return walex_write_code(out, byte);
    *out++ = '\\';
    *out++ = letter;
    return out;
}

/* The inside of a JSON string as msgspec writes it: non-ASCII characters are not escaped. */

static inline size_t walex_json_size(const uint8_t *text, size_t size, int *is_ascii) {
    size_t at = 0, written = size;
    while (at < size) {
        if (at + 8 <= size && walex_eight_are_plain(text + at)) {
            at += 8;
            continue;
        }
        uint8_t byte = text[at++];
        if (byte >= 0x80) *is_ascii = 0;
        else if (byte < 0x20 || byte == '"' || byte == '\\') written += walex_short_escape(byte) ? 1 : 5;
    }
    return written;
}

static inline char *walex_write_json(char *out, const uint8_t *text, size_t size) {
    for (size_t at = 0; at < size; at++) {
        uint8_t byte = text[at];
        if (byte >= 0x20 && byte != '"' && byte != '\\') *out++ = (char)byte;
        else out = walex_write_escape(out, byte);
    }
    return out;
}

/* Decodes the character that begins here; returns its length in bytes, 0 if it is not UTF-8 (RFC 3629, section 4). */
static inline int walex_decode(const uint8_t *text, size_t size, uint32_t *code) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t byte = text[0];
    int length = byte >= 0xC2 && byte <= 0xDF ? 2 : (byte & 0xF0) == 0xE0 ? 3 : byte >= 0xF0 && byte <= 0xF4 ? 4 : 0;
    if (!length || (size_t)length > size) return 0;
    *code = byte & (0xFF >> (length + 1));
    for (int at = 1; at < length; at++) {
        if ((text[at] & 0xC0) != 0x80) return 0;
        *code = *code << 6 | (text[at] & 0x3F);
    }
    if (*code < least[length] || *code > 0x10FFFF || (*code >= 0xD800 && *code <= 0xDFFF)) return 0;
    return length;
}

/* The inside of a JSON string as json.dumps writes it: ASCII only. */

/* Its size; -1 if the text is not UTF-8. */
static inline ptrdiff_t walex_ascii_size(const uint8_t *text, size_t size) {
    size_t written = 0;
    for (size_t at = 0; at < size; at++) {
        uint8_t byte = text[at];
        if (byte >= 0x20 && byte < 0x7F) {
            written += 1 + (byte == '"' || byte == '\\');
        } else if (byte < 0x80) {
            written += walex_short_escape(byte) ? 2 : 6;
        } else {
            uint32_t code;
            int length = walex_decode(text + at, size - at, &code);
            if (!length) return -1;
            written += code > 0xFFFF ? 12 : 6;
            at += (size_t)length - 1;
        }
    }
    return (ptrdiff_t)written;
}

static inline char *walex_write_ascii(char *out, const uint8_t *text, size_t size) {
    for (size_t at = 0; at < size; at++) {
        uint8_t byte = text[at];
        if (byte >= 0x20 && byte < 0x7F) {
            /* Without a branch: an event's text is full of quotes, at places that the processor can't predict. */
            int escaped = byte == '"' || byte == '\\';
            *out = '\\';
            out += escaped;
            *out++ = (char)byte;
        } else if (byte < 0x80) {
            out = walex_write_escape(out, byte);
        } else {
            uint32_t code = 0;
            at += (size_t)walex_decode(text + at, size - at, &code) - 1;
            if (code > 0xFFFF) {
                code -= 0x10000;
                out = walex_write_code(out, 0xD800 | code >> 10);
                code = 0xDC00 | (code & 0x3FF);
            }
            out = walex_write_code(out, code);
        }
    }
    return out;
}

/* Base64 (RFC 4648, section 4), twelve bits at a time. */

static char walex_base64_pairs[4096][2];

static inline void walex_prepare_base64(void) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int pair = 0; pair < 4096; pair++) {
        walex_base64_pairs[pair][0] = letters[pair >> 6];
        walex_base64_pairs[pair][1] = letters[pair & 63];
    }
}

static inline char *walex_write_base64(char *out, const uint8_t *data, size_t size) {
    size_t at = 0;
    for (; at + 3 <= size; at += 3, out += 4) {
        uint32_t three = (uint32_t)data[at] << 16 | (uint32_t)data[at + 1] << 8 | data[at + 2];
        memcpy(out, walex_base64_pairs[three >> 12], 2);
        memcpy(out + 2, walex_base64_pairs[three & 4095], 2);
    }
    if (at < size) {
        uint32_t rest = (uint32_t)data[at] << 16 | (at + 1 < size ? (uint32_t)data[at + 1] << 8 : 0);
        memcpy(out, walex_base64_pairs[rest >> 12], 2);
        out[2] = at + 1 < size ? walex_base64_pairs[rest & 4095][0] : '=';
        out[3] = '=';
        out += 4;
    }
    return out;
}

#endif
