/* TupleData of pgoutput, walked in place (manual, section 54.9 "Logical Replication Message Formats"). */

#ifndef WALEX_TUPLE_H
#define WALEX_TUPLE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WALEX_NULL (-1)
#define WALEX_UNCHANGED (-2)

/* A column's value as Postgres printed it, or a size that says that there is none. */
typedef struct {
    const uint8_t *text;
    ptrdiff_t size;
} walex_cell;

static inline uint32_t walex_be32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline uint64_t walex_be64(const uint8_t *at) {
    return (uint64_t)walex_be32(at) << 32 | walex_be32(at + 4);
}

/* The offset after the TupleData at `at`, whose cells are put into `cells` unless that is NULL; -1 where it is not
 * whole, not of so many columns, or has one of a kind that is not known. Never reads beyond `size`. */
static inline ptrdiff_t walex_walk(
    const uint8_t *data, ptrdiff_t size, ptrdiff_t at, ptrdiff_t columns, walex_cell *cells
) {
    if (at + 2 > size || ((ptrdiff_t)data[at] << 8 | data[at + 1]) != columns) return -1;
    at += 2;
    for (ptrdiff_t number = 0; number < columns; number++) {
        walex_cell cell = {NULL, WALEX_NULL};
        if (at >= size) return -1;
        switch (data[at++]) {
        case 't':
            if (at + 4 > size) return -1;
            cell.size = (ptrdiff_t)walex_be32(data + at);
            at += 4;
            if (cell.size > size - at) return -1;
            cell.text = data + at;
            at += cell.size;
            break;
        case 'n':
            break;
        case 'u':
            cell.size = WALEX_UNCHANGED;
            break;
        default:
            return -1;
        }
        if (cells) cells[number] = cell;
    }
    return at;
}

static inline int walex_same(walex_cell one, walex_cell other) {
    return one.size == other.size && (one.size <= 0 || !memcmp(one.text, other.text, (size_t)one.size));
}

#endif
