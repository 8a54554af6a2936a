# cython: language_level=3
"""The fields of events and their contexts, for ``feeding.pyx``, which makes them."""

from libc.stdint cimport int64_t


cdef class ContextFields:
    cdef public object position, _info, _xid
    cdef public int64_t microseconds
    cdef public Py_ssize_t _chunk
    cdef public bint last
    cdef public str lsn
    cdef public bytes tail

    cdef bint _render(self) except -1


cdef class RowFields:
    cdef public str type
    cdef public Py_ssize_t index
    cdef public object _row_source
    cdef public ContextFields _context
    cdef public list _new, _old
    cdef public bint _old_is_whole

    cdef tuple _make(self)
    cdef str _told(self, RowForm form, bytes start)
    cdef bytes _value(self, RowForm form, bytes head)


cdef class RowForm:
    cdef list keys
    cdef bytes forms
    cdef tuple key_columns
    cdef dict heads

    cdef tuple head(self, source, str type)
