# cython: language_level=3
"""The fields of a row's event, for ``feeding.pyx``, which makes it."""

from walex_celery._speedups.context cimport ContextFields
from walex_celery._speedups.pgoutput cimport walex_cell


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
