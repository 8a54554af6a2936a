# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""What the events of a chunk share, compiled: fields and methods that go before ``events.row_event.Context``."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint64_t

cdef extern from "text.h":
    char *walex_write(char *out, const char *text, size_t size)
    char *walex_write_decimal(char *out, uint64_t value, int least)
    char *walex_write_lsn(char *out, uint64_t lsn)

cdef int64_t _earliest, _latest


def connect(int64_t earliest, int64_t latest):
    """Set the range of a datetime, in microseconds since 2000-01-01 UTC."""
    global _earliest, _latest
    _earliest, _latest = earliest, latest


cdef bint is_datetime(int64_t microseconds):
    return _earliest <= microseconds <= _latest


cdef class ContextFields:
    """What the events of a chunk share."""

    def __cinit__(self):
        self._chunk = -1
        self.lsn = ""
        self.tail = b""

    def complete(self, position, int64_t microseconds, xid, Py_ssize_t chunk=0, bint last=True):
        """Set the transaction and the part of it that the chunk is."""
        self.position = position
        self.microseconds = microseconds
        self._xid = xid
        self._chunk = chunk
        self.last = last

    def render(self):
        """Make ``lsn`` and ``tail``."""
        if not self._render():
            super().render()

    cdef bint _render(self) except -1:
        cdef char text[256]
        cdef char *out = text
        cdef char *lsn
        cdef char *lsn_end
        if self._chunk < 0 or self._xid is None or not is_datetime(self.microseconds):
            return False
        out = walex_write(out, b',"timestamp":"', 14)
        out = _write_timestamp(out, self.microseconds)
        lsn = walex_write(out, b'","lsn":"', 9)
        lsn_end = walex_write_lsn(lsn, self.position)
        out = walex_write(lsn_end, b'","xid":', 8)
        out = walex_write_decimal(out, self._xid, 1)
        out = walex_write(out, b',"transaction":{"chunk":', 24)
        out = walex_write_decimal(out, self._chunk, 1)
        out = walex_write(out, b',"last":', 8)
        out = walex_write(out, b"true}}" if self.last else b"false}}", 6 if self.last else 7)
        self.lsn = PyUnicode_DecodeASCII(lsn, lsn_end - lsn, NULL)
        self.tail = PyBytes_FromStringAndSize(text, out - text)
        return True


cdef char *_write_timestamp(char *out, int64_t microseconds):
    """Write a moment, counted since 2000-01-01 UTC, as msgspec prints it in JSON."""
    cdef int64_t seconds = microseconds // 1_000_000, days, day_of_era, year, day, month
    microseconds %= 1_000_000
    # Days since 0000-03-01, so that a leap day is the last of its year; 2000-01-01 is day 730,425. An era is 400 years.
    days = seconds // 86_400 + 730_425
    seconds %= 86_400
    day_of_era = days % 146_097
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day + 2) // 153  # from March
    day += 1 - (153 * month + 2) // 5
    year += days // 146_097 * 400 + (1 if month >= 10 else 0)
    out = walex_write_decimal(out, year, 4)
    out[0] = c"-"
    out = walex_write_decimal(out + 1, month - 9 if month >= 10 else month + 3, 2)
    out[0] = c"-"
    out = walex_write_decimal(out + 1, day, 2)
    out[0] = c"T"
    out = walex_write_decimal(out + 1, seconds // 3600, 2)
    out[0] = c":"
    out = walex_write_decimal(out + 1, seconds // 60 % 60, 2)
    out[0] = c":"
    out = walex_write_decimal(out + 1, seconds % 60, 2)
    if microseconds:
        out[0] = c"."
        out = walex_write_decimal(out + 1, microseconds, 6)
    out[0] = c"Z"
    return out + 1
