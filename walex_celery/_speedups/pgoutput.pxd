# cython: language_level=3
"""The C side of the wire format; see ``pgoutput.h``."""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "pgoutput.h" nogil:
    enum:
        WALEX_BEGIN
        WALEX_COMMIT
        WALEX_INSERT
        WALEX_UPDATE
        WALEX_DELETE
        WALEX_MESSAGE
        WALEX_BEGIN_FINAL_LSN
        WALEX_BEGIN_TIMESTAMP
        WALEX_BEGIN_XID
        WALEX_BEGIN_SIZE
        WALEX_COMMIT_END_LSN
        WALEX_COMMIT_SIZE
        WALEX_CHANGE_OID
        WALEX_CHANGE_TUPLE_KIND
        WALEX_CHANGE_TUPLE
        WALEX_OLD_TUPLE
        WALEX_NEW_TUPLE
        WALEX_TUPLE_CELLS
        WALEX_NULL
        WALEX_UNCHANGED
    ctypedef struct walex_cell:
        const uint8_t *text
        ptrdiff_t size
    uint32_t walex_be32(const uint8_t *at)
    uint64_t walex_be64(const uint8_t *at)
    ptrdiff_t walex_columns(const uint8_t *tuple)
    ptrdiff_t walex_walk(
        const uint8_t *data, ptrdiff_t size, ptrdiff_t at, ptrdiff_t columns, walex_cell *cells
    )
    walex_cell walex_next_cell(const uint8_t *data, ptrdiff_t *at)
    bint walex_same(walex_cell one, walex_cell other)
