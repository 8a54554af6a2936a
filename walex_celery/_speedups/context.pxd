# cython: language_level=3
"""The fields of a context, for ``feeding.pyx``, which makes it, and ``rows.pyx``, which reads it."""

from libc.stdint cimport int64_t


cdef bint is_datetime(int64_t microseconds)


cdef class ContextFields:
    cdef public object position, _info, _xid
    cdef public int64_t microseconds
    cdef public Py_ssize_t _chunk
    cdef public bint last
    cdef public str lsn
    cdef public bytes tail

    cdef bint _render(self) except -1
