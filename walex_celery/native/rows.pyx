# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Events of rows as JSON text, compiled: the upper halves of ``Context`` and ``RowEvent``.

They do what is usual; where a value, a name or a row is not, the Python behind them does it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "text.h":
    char *walex_write(char *out, const char *text, size_t size)
    char *walex_write_decimal(char *out, uint64_t value, int least)
    char *walex_write_lsn(char *out, uint64_t lsn)
    size_t walex_json_size(const uint8_t *text, size_t size, int *is_ascii)
    char *walex_write_json(char *out, const uint8_t *text, size_t size)

cdef enum:
    #: Postgres allows 1,600 in a table.
    MAX_COLUMNS = 1664
    #: Of an event's repr, and of a value in it (``event.short``).
    MAX_TOLD = 500
    MAX_SHORT = 40

cdef enum Form:
    TEXT, BOOL, NUMBER, DOCUMENT

_FORMS = {"text": TEXT, "bool": BOOL, "number": NUMBER, "document": DOCUMENT}

cdef object _UNCHANGED
cdef Py_ssize_t _max_nesting
cdef int64_t _earliest, _latest


def connect(unchanged, Py_ssize_t max_nesting, int64_t earliest, int64_t latest):
    """Tell what the Python that this is a part of has."""
    global _UNCHANGED, _max_nesting, _earliest, _latest
    _UNCHANGED, _max_nesting, _earliest, _latest = unchanged, max_nesting, earliest, latest


cdef inline char *_write(char *out, bytes text) noexcept:
    return walex_write(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


# --- the transaction --------------------------------------------------------------------------------

cdef class ContextFields:
    """What the events of a chunk share."""

    def __cinit__(self):
        self._chunk = -1
        self.lsn = ""
        self.tail = b""

    def complete(self, position, int64_t microseconds, xid, Py_ssize_t chunk=0, bint last=True):
        """Set what the chunk's transaction is."""
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
        if self._chunk < 0 or self._xid is None or not _earliest <= self.microseconds <= _latest:
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
    """A moment, counted since 2000-01-01 UTC, as msgspec prints it in JSON."""
    cdef int64_t seconds = microseconds // 1_000_000, days, day_of_era, year, day, month
    microseconds %= 1_000_000
    # Days since 0000-03-01, so that a leap day is a year's last; 2000-01-01 is the 730,425th. An era is 400 years.
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


# --- the event --------------------------------------------------------------------------------------

cdef class RowForm:
    """How rows of a relation are written: made once a relation, of its ``RowSource``.

    ``keys``: of each column, its name as JSON, and a colon. ``key_columns``: number and ``b" name="`` of those that
    identify a row. ``heads``: by type, the start of the JSON, and of the repr where that is ASCII.
    """

    def __init__(self, source):
        shape = source.shape
        self.keys = list(shape.json_keys)
        self.forms = bytes([_FORMS[kind] for kind in shape.kinds])
        self.key_columns = tuple([
            (number, f" {name}=".encode() if name.isascii() else None) for number, name in source.key_numbers
        ])
        self.heads = {}

    cdef tuple head(self, source, str type):
        cdef PyObject *found = PyDict_GetItemWithError(self.heads, type)
        if found is not NULL:
            return <tuple>found
        json, told = source.head(type)
        head = (json, told.encode() if told.isascii() else None)
        self.heads[type] = head
        return head


cdef class RowFields:
    """An insert, update or delete."""

    def __init__(self, row_source, str type, ContextFields context, Py_ssize_t index, new, old, bint old_is_whole):
        self.type = type
        self.index = index
        self._row_source = row_source
        self._context = context
        self._new = None if new is None else list(new)
        self._old = None if old is None else list(old)
        self._old_is_whole = old_is_whole

    def to_json(self):
        """The event as JSON text."""
        made = self._make()
        return super().to_json() if made is None else made[0]

    def for_task(self):
        """What a task's message is made of: the JSON text, the start of it that many events share, and the repr."""
        made = self._make()
        return super().for_task() if made is None else made

    cdef tuple _make(self):
        """What :meth:`for_task` gives; None where this event is not usual."""
        cdef ContextFields context = self._context
        cdef RowForm form
        source = self._row_source
        form = source.form
        if form is None:
            form = source.form = RowForm(source)
        if not context.tail and not context._render():
            return None
        for row in (self._new, self._old):
            if row is not None and len(row) != PyBytes_GET_SIZE(form.forms):
                return None
        head = form.head(source, self.type)
        told = self._told(form, head[1])
        if told is None:
            return None
        value = self._value(form, head[0])
        return None if value is None else (value, head[0], told)

    cdef str _told(self, RowForm form, bytes start):
        """The repr; None where a part of it is not plain ASCII."""
        cdef char text[MAX_TOLD + 64]
        cdef char *out = text
        cdef const uint8_t *cell_text
        cdef Py_ssize_t size, at
        cdef const char *lsn
        cdef list cells = self._old if self._new is None else self._new
        if cells is None or start is None or PyBytes_GET_SIZE(start) > MAX_TOLD:
            return None
        out = _write(out, start)
        for number, name in form.key_columns:
            cell = <object>PyList_GET_ITEM(cells, <Py_ssize_t>number)
            if cell is _UNCHANGED:
                continue
            if type(cell) is not bytes or name is None:
                return None
            size = PyBytes_GET_SIZE(cell)
            if size > MAX_SHORT or out - text + PyBytes_GET_SIZE(name) + size > MAX_TOLD:
                return None
            cell_text = <const uint8_t *>PyBytes_AS_STRING(cell)
            for at in range(size):
                if cell_text[at] < 0x20 or cell_text[at] > 0x7E:
                    return None
            out = walex_write(_write(out, name), <const char *>cell_text, size)
        lsn = PyUnicode_AsUTF8AndSize(self._context.lsn, &size)
        out = walex_write(walex_write(out, b" lsn=", 5), lsn, size)
        out[0] = c">"
        return PyUnicode_DecodeASCII(text, out + 1 - text, NULL)

    cdef bytes _value(self, RowForm form, bytes head):
        """The JSON text; None where a row is not usual."""
        cdef list new = self._new, old = self._old, row = old if new is None else new
        cdef Py_ssize_t row_size, changes_size = 0
        cdef Py_ssize_t sizes[MAX_COLUMNS]
        cdef Py_ssize_t old_sizes[MAX_COLUMNS]
        cdef char index[32]
        cdef char *out
        cdef Py_ssize_t index_size
        cdef bint has_changes = new is not None and old is not None
        if row is None or PyList_GET_SIZE(row) > MAX_COLUMNS:
            return None
        if has_changes:
            if not self._old_is_whole or _key_changed(form, new, old):
                return None
            changes_size = _row_size(form, old, new, old_sizes)
        row_size = _row_size(form, row, None, sizes)
        if row_size < 0 or changes_size < 0:
            return None
        out = walex_write_decimal(walex_write(index, b',"index":', 9), self.index, 1)
        index_size = out - index
        # 14: the name of either member, new_record or old_record; 11: that of the changes.
        value = PyBytes_FromStringAndSize(
            NULL,
            PyBytes_GET_SIZE(head) + 14 + row_size + (11 + changes_size if has_changes else 0)
            + index_size + PyBytes_GET_SIZE(self._context.tail),
        )
        out = _write(PyBytes_AS_STRING(value), head)
        out = walex_write(out, b',"old_record":' if new is None else b',"new_record":', 14)
        out = _write_row(out, form, row, sizes)
        if has_changes:
            out = _write_row(walex_write(out, b',"changes":', 11), form, old, old_sizes)
        out = walex_write(out, index, index_size)
        _write(out, self._context.tail)
        return value


cdef bint _key_changed(RowForm form, list new, list old):
    for number, _ in form.key_columns:
        if not _same(<object>PyList_GET_ITEM(new, number), <object>PyList_GET_ITEM(old, number)):
            return True
    return False


cdef inline bint _same(one, other):
    """Whether two cells are the same."""
    if one is other:
        return True
    if type(one) is not bytes or type(other) is not bytes:
        return False
    return PyBytes_GET_SIZE(one) == PyBytes_GET_SIZE(other) and (
        memcmp(PyBytes_AS_STRING(one), PyBytes_AS_STRING(other), PyBytes_GET_SIZE(one)) == 0
    )


# --- rows -------------------------------------------------------------------------------------------

cdef Py_ssize_t _row_size(RowForm form, list cells, list but, Py_ssize_t *sizes) except -2:
    """How many bytes a row takes as a JSON object; -1 where it is not usual.

    *sizes* gets what each cell takes, -1 for those that are left out: what Postgres did not send, and, with *but*, the
    columns that are the same there, or not known.
    """
    cdef Py_ssize_t number, size = 0, written
    cdef const uint8_t *forms = <const uint8_t *>PyBytes_AS_STRING(form.forms)
    for number in range(PyList_GET_SIZE(cells)):
        sizes[number] = -1
        cell = <object>PyList_GET_ITEM(cells, number)
        if cell is _UNCHANGED:
            continue
        # Looked at even if it is left out: a document that has to stand as text makes the event an unusual one.
        written = 4 if cell is None else _cell_size(forms[number], cell)
        if written < 0:
            return -1
        if but is not None:
            other = <object>PyList_GET_ITEM(but, number)
            if other is _UNCHANGED or _same(cell, other):
                continue
        sizes[number] = written
        size += 1 + PyBytes_GET_SIZE(<object>PyList_GET_ITEM(form.keys, number)) + written
    return size + 1 if size else 2


cdef Py_ssize_t _cell_size(uint8_t form, bytes cell) except -2:
    """How many bytes a cell takes in JSON; -1 where it is not usual."""
    cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(cell)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(cell), written, at, brackets = 0
    cdef int is_ascii = True
    if form == TEXT:
        written = walex_json_size(text, size, &is_ascii)
        return written + 2 if is_ascii or _is_utf8(cell) else -1
    if form == BOOL:
        if size != 1 or text[0] not in (c"t", c"f"):
            return -1
        return 4 if text[0] == c"t" else 5
    if size == 0:
        return -1
    if form == NUMBER:
        return size
    # A document: as record.is_awkward has it.
    if text[0] <= c" " or text[size - 1] <= c" " or (size == 4 and memcmp(text, b"null", 4) == 0):
        return -1
    for at in range(size):
        if text[at] >= 0x80:
            is_ascii = False
        elif text[at] == c"[" or text[at] == c"{":
            brackets += 1
    return size if brackets <= _max_nesting and (is_ascii or _is_utf8(cell)) else -1


cdef bint _is_utf8(bytes cell) except -1:
    try:
        PyUnicode_DecodeUTF8(PyBytes_AS_STRING(cell), PyBytes_GET_SIZE(cell), NULL)
    except UnicodeDecodeError:
        return False
    return True


cdef char *_write_row(char *out, RowForm form, list cells, Py_ssize_t *sizes):
    cdef Py_ssize_t number
    cdef const uint8_t *forms = <const uint8_t *>PyBytes_AS_STRING(form.forms)
    cdef char separator = c"{"
    for number in range(PyList_GET_SIZE(cells)):
        if sizes[number] < 0:
            continue
        out[0] = separator
        separator = c","
        out = _write(out + 1, <bytes>PyList_GET_ITEM(form.keys, number))
        cell = <object>PyList_GET_ITEM(cells, number)
        if cell is None:
            out = walex_write(out, b"null", 4)
        else:
            out = _write_cell(out, forms[number], cell, sizes[number])
    if separator == c"{":
        out[0] = separator
        out += 1
    out[0] = c"}"
    return out + 1


cdef char *_write_cell(char *out, uint8_t form, bytes cell, Py_ssize_t written):
    cdef const char *text = PyBytes_AS_STRING(cell)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(cell)
    if form == TEXT:
        out[0] = c'"'
        if written == size + 2:
            out = walex_write(out + 1, text, size)
        else:
            out = walex_write_json(out + 1, <const uint8_t *>text, size)
        out[0] = c'"'
        return out + 1
    if form == BOOL:
        return walex_write(out, b"true" if text[0] == c"t" else b"false", written)
    return walex_write(out, text, size)
