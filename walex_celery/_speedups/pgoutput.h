/* Where the fields of pgoutput messages are, and TupleData walked in place.
 *
 * Manual, section 54.9 "Logical Replication Message Formats"
 * (https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html), protocol version 1.
 *
 * postgres/pgoutput.py is the module of the wire format. This header is the one other place that knows it, because C
 * reads each message of the usual kinds in place, and a call of Python for a field would cost more than all the rest.
 * tests/_speedups/test_feeding.py holds both to the same events and errors for any stream. */

#ifndef WALEX_PGOUTPUT_H
#define WALEX_PGOUTPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    /* The first byte of a message. */
    WALEX_BEGIN = 'B',
    WALEX_COMMIT = 'C',
    WALEX_INSERT = 'I',
    WALEX_UPDATE = 'U',
    WALEX_DELETE = 'D',
    WALEX_MESSAGE = 'M',
    /* Begin: Int64 final LSN, Int64 commit timestamp, Int32 xid. */
    WALEX_BEGIN_FINAL_LSN = 1,
    WALEX_BEGIN_TIMESTAMP = 9,
    WALEX_BEGIN_XID = 17,
    WALEX_BEGIN_SIZE = 21,
    /* Commit: Int8 flags, Int64 commit LSN, Int64 end LSN, Int64 commit timestamp. */
    WALEX_COMMIT_END_LSN = 10,
    WALEX_COMMIT_SIZE = 26,
    /* Insert, Update and Delete: Int32 oid, Byte1 kind of tuple, TupleData. An Update with an old tuple has the new
     * one's kind and TupleData after it. */
    WALEX_CHANGE_OID = 1,
    WALEX_CHANGE_TUPLE_KIND = 5,
    WALEX_CHANGE_TUPLE = 6,
    /* Kinds of tuples: of a whole old row, and of a new one. */
    WALEX_OLD_TUPLE = 'O',
    WALEX_NEW_TUPLE = 'N',
    /* TupleData: Int16 number of columns; for each Byte1 kind and, of a text, Int32 size and the bytes. */
    WALEX_TUPLE_CELLS = 2,
    WALEX_CELL_NULL = 'n',
    WALEX_CELL_UNCHANGED = 'u',
    WALEX_CELL_TEXT = 't'
};

/* A column's value as Postgres printed it, or a size that says that there is none. */
typedef struct {
    const uint8_t *text;
    ptrdiff_t size;
} walex_cell;

#define WALEX_NULL (-1)
#define WALEX_UNCHANGED (-2)

static inline uint32_t walex_be32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline uint64_t walex_be64(const uint8_t *at) {
    return (uint64_t)walex_be32(at) << 32 | walex_be32(at + 4);
}

/* The number of columns of the TupleData at `tuple`. */
static inline ptrdiff_t walex_columns(const uint8_t *tuple) {
    return (ptrdiff_t)tuple[0] << 8 | tuple[1];
}

/* The offset after the TupleData at `at`, whose cells are put into `cells` unless that is NULL; -1 if it is cut short,
 * has another number of columns, or a cell of an unknown kind. Never reads beyond `size`. */
static inline ptrdiff_t walex_walk(
    const uint8_t *data, ptrdiff_t size, ptrdiff_t at, ptrdiff_t columns, walex_cell *cells
) {
    if (at + WALEX_TUPLE_CELLS > size || walex_columns(data + at) != columns) return -1;
    at += WALEX_TUPLE_CELLS;
    for (ptrdiff_t number = 0; number < columns; number++) {
        walex_cell cell = {NULL, WALEX_NULL};
        if (at >= size) return -1;
        switch (data[at++]) {
        case WALEX_CELL_TEXT:
            if (at + 4 > size) return -1;
            cell.size = (ptrdiff_t)walex_be32(data + at);
            at += 4;
            if (cell.size > size - at) return -1;
            cell.text = data + at;
            at += cell.size;
            break;
        case WALEX_CELL_NULL:
            break;
        case WALEX_CELL_UNCHANGED:
            cell.size = WALEX_UNCHANGED;
            break;
        default:
            return -1;
        }
        if (cells) cells[number] = cell;
    }
    return at;
}

/* The cell at `*at` of a TupleData that walex_walk has found whole; moves `*at` to the next one. */
static inline walex_cell walex_next_cell(const uint8_t *data, ptrdiff_t *at) {
    walex_cell cell = {NULL, WALEX_NULL};
    uint8_t kind = data[(*at)++];
    if (kind == WALEX_CELL_TEXT) {
        cell.size = (ptrdiff_t)walex_be32(data + *at);
        cell.text = data + *at + 4;
        *at += 4 + cell.size;
    } else if (kind == WALEX_CELL_UNCHANGED) {
        cell.size = WALEX_UNCHANGED;
    }
    return cell;
}

static inline int walex_same(walex_cell one, walex_cell other) {
    return one.size == other.size && (one.size <= 0 || !memcmp(one.text, other.text, (size_t)one.size));
}

#endif
