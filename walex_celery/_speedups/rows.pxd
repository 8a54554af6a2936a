# cython: language_level=3
"""The fields of a row's event, for ``feeding.pyx``, which makes it."""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from walex_celery._speedups.context cimport ContextFields


cdef extern from "tuple.h":
    enum:
        WALEX_NULL
        WALEX_UNCHANGED
    ctypedef struct walex_cell:
        const uint8_t *text
        ptrdiff_t size
    uint32_t walex_be32(const uint8_t *at) nogil
    uint64_t walex_be64(const uint8_t *at) nogil
    ptrdiff_t walex_walk(
        const uint8_t *data, ptrdiff_t size, ptrdiff_t at, ptrdiff_t columns, walex_cell *cells
    ) nogil
    bint walex_same(walex_cell one, walex_cell other) nogil


cdef class RowFields:
    cdef public str type
    cdef public Py_ssize_t index
    cdef public object _row_source
    cdef public ContextFields _context
    cdef public bint _old_is_whole
    cdef bytes payload
    cdef Py_ssize_t new_at, old_at
    cdef list new_cells, old_cells

    cdef int _cut(self) except -1
    cdef bint _find(self, walex_cell *new, walex_cell *old, Py_ssize_t columns) except -1
    cdef tuple _make(self)


cdef class RowForm:
    cdef list keys
    cdef bytes forms
    cdef tuple key_columns
    cdef dict heads
    cdef Py_ssize_t columns

    cdef tuple head(self, source, str type)
