# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Events of rows as JSON text, compiled: fields and methods that go before ``events.row_event.RowEvent``.

Where a value, a name or a row is unusual, the Python method behind is called.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp

from walex_celery._speedups.context cimport ContextFields
from walex_celery._speedups.pgoutput cimport (
    WALEX_NULL, WALEX_TUPLE_CELLS, WALEX_UNCHANGED, walex_cell, walex_columns, walex_next_cell, walex_same,
    walex_walk,
)

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "text.h":
    char *walex_write(char *out, const char *text, size_t size)
    char *walex_write_decimal(char *out, uint64_t value, int least)
    size_t walex_json_size(const uint8_t *text, size_t size, int *is_ascii)
    char *walex_write_json(char *out, const uint8_t *text, size_t size)

cdef enum:
    #: Of a table; Postgres allows 1,600, but their cells would be too large for a thread's stack.
    MAX_COLUMNS = 256
    #: Bytes of an event's repr, and of a value in it (``events.event.short``).
    MAX_REPR = 500
    MAX_SHORT = 40

cdef enum Form:
    TEXT, BOOL, NUMBER, DOCUMENT

_FORMS = {"text": TEXT, "bool": BOOL, "number": NUMBER, "document": DOCUMENT}

cdef object _UNCHANGED
cdef Py_ssize_t _max_nesting


def connect(unchanged, Py_ssize_t max_nesting):
    """Set the stand-in for a value that Postgres did not send, and the depth up to which documents are copied."""
    global _UNCHANGED, _max_nesting
    _UNCHANGED, _max_nesting = unchanged, max_nesting


cdef inline char *_write(char *out, bytes text) noexcept:
    return walex_write(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


# --- the event --------------------------------------------------------------------------------------

cdef class RowForm:
    """How rows of a relation are written; made once from its ``RowSource``.

    Attributes:
        keys: of each column, its name as JSON, and a colon.
        forms: of each column, a ``Form``.
        columns: how many there are.
        key_columns: number and ``b" name="`` of the columns that identify a row; ``None`` for a name that is not ASCII.
        heads: by type of event, the start of the JSON, and the start of the repr if that is ASCII.
    """

    def __init__(self, source):
        shape = source.shape
        self.keys = list(shape.json_keys)
        self.forms = bytes([_FORMS[kind] for kind in shape.kinds])
        self.columns = len(self.keys)
        self.key_columns = tuple([
            (number, f" {name}=".encode() if name.isascii() else None) for number, name in source.key_numbers
        ])
        self.heads = {}

    cdef tuple head(self, source, str type):
        cdef PyObject *found = PyDict_GetItemWithError(self.heads, type)
        if found is not NULL:
            return <tuple>found
        json, start = source.head(type)
        head = (json, start.encode() if start.isascii() else None)
        self.heads[type] = head
        return head


cdef class RowFields:
    """An insert, update or delete.

    Its cells stay in the message's ``payload``, at ``new_at`` and ``old_at`` (0: there is no such row), until they are
    read. ``feeding.pyx`` has walked the message: it is whole, and has as many columns as its table.
    """

    def __init__(self, row_source, str type, ContextFields context, Py_ssize_t index, new, old, bint old_is_whole):
        self.type = type
        self.index = index
        self._row_source = row_source
        self._context = context
        self.new_cells = None if new is None else list(new)
        self.old_cells = None if old is None else list(old)
        self._old_is_whole = old_is_whole

    @property
    def _new(self):
        if self.payload is not None:
            self._cut()
        return self.new_cells

    @property
    def _old(self):
        if self.payload is not None:
            self._cut()
        return self.old_cells

    cdef int _cut(self) except -1:
        """Turn the payload into lists of cells."""
        cdef Py_ssize_t number
        cdef bytes payload = self.payload
        self.payload = None
        if self.old_at:
            self.old_cells = _cells(payload, self.old_at)
        if self.new_at:
            self.new_cells = _cells(payload, self.new_at)
            if self.old_at:
                for number in range(PyList_GET_SIZE(self.new_cells)):
                    if self.new_cells[number] is _UNCHANGED:
                        self.new_cells[number] = self.old_cells[number]
        return 0

    cdef bint _find(self, walex_cell *new, walex_cell *old, Py_ssize_t columns) except -1:
        """Find the cells of both rows; return whether each row has this many."""
        cdef const uint8_t *data
        cdef Py_ssize_t size, number
        if self.payload is None:
            return (self.new_cells is None or _find_in(self.new_cells, new, columns)) and (
                self.old_cells is None or _find_in(self.old_cells, old, columns)
            )
        data = <const uint8_t *>PyBytes_AS_STRING(self.payload)
        size = PyBytes_GET_SIZE(self.payload)
        if self.old_at and walex_walk(data, size, self.old_at, columns, old) < 0:
            return False
        if self.new_at and walex_walk(data, size, self.new_at, columns, new) < 0:
            return False
        if self.new_at and self.old_at:
            for number in range(columns):
                if new[number].size == WALEX_UNCHANGED:
                    new[number] = old[number]
        return True

    def to_json(self):
        """Return the event as JSON text."""
        made = self._make()
        return super().to_json() if made is None else made[0]

    def for_task(self):
        """Return the parts of a task's message: the JSON text, the start of it that many events share, and the repr."""
        made = self._make()
        return super().for_task() if made is None else made

    cdef tuple _make(self):
        """Return the result of :meth:`for_task`; ``None`` if this event is unusual."""
        cdef ContextFields context = self._context
        cdef walex_cell new[MAX_COLUMNS]
        cdef walex_cell old[MAX_COLUMNS]
        cdef walex_cell *new_row = NULL
        cdef walex_cell *old_row = NULL
        cdef bint has_new, has_old
        cdef RowForm form
        source = self._row_source
        form = source.form
        if form is None:
            form = source.form = RowForm(source)
        if form.columns > MAX_COLUMNS or not self._find(new, old, form.columns):
            return None
        if not context.tail and not context._render():
            return None
        if self.payload is None:
            has_new, has_old = self.new_cells is not None, self.old_cells is not None
        else:
            has_new, has_old = self.new_at != 0, self.old_at != 0
        if not has_new and not has_old:
            return None
        if has_new and has_old and (not self._old_is_whole or _key_changed(form, new, old)):
            return None
        if has_new:
            new_row = new
        if has_old:
            old_row = old
        head, start = form.head(source, self.type)
        repr_text = _repr(form, start, old_row if new_row is NULL else new_row, context.lsn)
        if repr_text is None:
            return None
        value = _value(form, head, new_row, old_row, self.index, context.tail)
        return None if value is None else (value, head, repr_text)


cdef list _cells(bytes payload, Py_ssize_t at):
    """Return the cells of the TupleData at *at* as Python objects."""
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(payload)
    cdef Py_ssize_t columns = walex_columns(data + at), number
    cdef ptrdiff_t next_at = at + WALEX_TUPLE_CELLS
    cdef walex_cell cell
    cdef list cells = []
    for number in range(columns):
        cell = walex_next_cell(data, &next_at)
        if cell.size >= 0:
            cells.append(PyBytes_FromStringAndSize(<const char *>cell.text, cell.size))
        else:
            cells.append(None if cell.size == WALEX_NULL else _UNCHANGED)
    return cells


cdef bint _find_in(list cells, walex_cell *found, Py_ssize_t columns) except -1:
    cdef Py_ssize_t number
    if PyList_GET_SIZE(cells) != columns:
        return False
    for number in range(columns):
        cell = <object>PyList_GET_ITEM(cells, number)
        if type(cell) is bytes:
            found[number].text = <const uint8_t *>PyBytes_AS_STRING(cell)
            found[number].size = PyBytes_GET_SIZE(cell)
        elif cell is None or cell is _UNCHANGED:
            found[number].size = WALEX_NULL if cell is None else WALEX_UNCHANGED
        else:
            return False
    return True


cdef bint _key_changed(RowForm form, walex_cell *new, walex_cell *old):
    cdef Py_ssize_t number
    for number, _ in form.key_columns:
        if not walex_same(new[number], old[number]):
            return True
    return False


cdef str _repr(RowForm form, bytes start, walex_cell *row, str lsn):
    """Return the repr of an event; ``None`` if a part of it is not plain ASCII."""
    cdef char text[MAX_REPR + 64]
    cdef char *out = text
    cdef Py_ssize_t at, number, lsn_size
    cdef const char *lsn_text
    cdef walex_cell cell
    if start is None or PyBytes_GET_SIZE(start) > MAX_REPR:
        return None
    out = _write(out, start)
    for number, name in form.key_columns:
        cell = row[number]
        if cell.size == WALEX_UNCHANGED:
            continue
        if cell.size < 0 or cell.size > MAX_SHORT or name is None:
            return None
        if out - text + PyBytes_GET_SIZE(name) + cell.size > MAX_REPR:
            return None
        for at in range(cell.size):
            if cell.text[at] < 0x20 or cell.text[at] > 0x7E:
                return None
        out = walex_write(_write(out, name), <const char *>cell.text, cell.size)
    lsn_text = PyUnicode_AsUTF8AndSize(lsn, &lsn_size)
    out = walex_write(walex_write(out, b" lsn=", 5), lsn_text, lsn_size)
    out[0] = c">"
    return PyUnicode_DecodeASCII(text, out + 1 - text, NULL)


cdef bytes _value(RowForm form, bytes head, walex_cell *new, walex_cell *old, Py_ssize_t index, bytes tail):
    """Return the JSON text of an event; ``None`` if a row is unusual. *new* or *old* may be NULL, but not both."""
    cdef Py_ssize_t sizes[MAX_COLUMNS]
    cdef Py_ssize_t old_sizes[MAX_COLUMNS]
    cdef char index_text[32]
    cdef char *out
    cdef Py_ssize_t index_size, row_size, changes_size = 0
    cdef walex_cell *row = old if new is NULL else new
    cdef bint has_changes = new is not NULL and old is not NULL
    if has_changes:
        changes_size = _row_size(form, old, new, old_sizes)
    row_size = _row_size(form, row, NULL, sizes)
    if row_size < 0 or changes_size < 0:
        return None
    out = walex_write_decimal(walex_write(index_text, b',"index":', 9), index, 1)
    index_size = out - index_text
    # 14 bytes for the name of new_record or old_record, 11 for the name of changes.
    value = PyBytes_FromStringAndSize(
        NULL,
        PyBytes_GET_SIZE(head) + 14 + row_size + (11 + changes_size if has_changes else 0)
        + index_size + PyBytes_GET_SIZE(tail),
    )
    out = _write(PyBytes_AS_STRING(value), head)
    out = walex_write(out, b',"old_record":' if new is NULL else b',"new_record":', 14)
    out = _write_row(out, form, row, sizes)
    if has_changes:
        out = _write_row(walex_write(out, b',"changes":', 11), form, old, old_sizes)
    out = walex_write(out, index_text, index_size)
    _write(out, tail)
    return value


# --- rows -------------------------------------------------------------------------------------------

cdef Py_ssize_t _row_size(RowForm form, walex_cell *cells, walex_cell *other, Py_ssize_t *sizes) except -2:
    """Return the size in bytes of a row as a JSON object; -1 if it is unusual.

    *sizes* gets the size of each cell, -1 for the cells left out: values that Postgres did not send and, unless *other*
    is NULL, the columns with the same or an unknown value there.
    """
    cdef Py_ssize_t number, size = 0, written
    cdef const uint8_t *forms = <const uint8_t *>PyBytes_AS_STRING(form.forms)
    for number in range(form.columns):
        sizes[number] = -1
        if cells[number].size == WALEX_UNCHANGED:
            continue
        # Measured even if it is left out: a document that must be written as text makes the event unusual.
        written = 4 if cells[number].size == WALEX_NULL else _cell_size(forms[number], cells[number])
        if written < 0:
            return -1
        if other is not NULL and (
            other[number].size == WALEX_UNCHANGED or walex_same(cells[number], other[number])
        ):
            continue
        sizes[number] = written
        size += 1 + PyBytes_GET_SIZE(<object>PyList_GET_ITEM(form.keys, number)) + written
    return size + 1 if size else 2


cdef Py_ssize_t _cell_size(uint8_t form, walex_cell cell) except -2:
    """Return the size in bytes of a cell in JSON; -1 if it is unusual."""
    cdef Py_ssize_t written, at, brackets = 0
    cdef int is_ascii = True
    if form == TEXT:
        written = walex_json_size(cell.text, cell.size, &is_ascii)
        return written + 2 if is_ascii or _is_utf8(cell) else -1
    if form == BOOL:
        if cell.size != 1 or cell.text[0] not in (c"t", c"f"):
            return -1
        return 4 if cell.text[0] == c"t" else 5
    if cell.size == 0:
        return -1
    if form == NUMBER:
        return cell.size
    # A document, by the rules of events.cells.is_awkward.
    if cell.text[0] <= c" " or cell.text[cell.size - 1] <= c" ":
        return -1
    if cell.size == 4 and memcmp(cell.text, b"null", 4) == 0:
        return -1
    for at in range(cell.size):
        if cell.text[at] >= 0x80:
            is_ascii = False
        elif cell.text[at] == c"[" or cell.text[at] == c"{":
            brackets += 1
    return cell.size if brackets <= _max_nesting and (is_ascii or _is_utf8(cell)) else -1


cdef bint _is_utf8(walex_cell cell) except -1:
    try:
        PyUnicode_DecodeUTF8(<const char *>cell.text, cell.size, NULL)
    except UnicodeDecodeError:
        return False
    return True


cdef char *_write_row(char *out, RowForm form, walex_cell *cells, Py_ssize_t *sizes):
    """Write the columns to which :func:`_row_size` gave a size."""
    cdef Py_ssize_t number
    cdef const uint8_t *forms = <const uint8_t *>PyBytes_AS_STRING(form.forms)
    cdef char separator = c"{"
    for number in range(form.columns):
        if sizes[number] < 0:
            continue
        out[0] = separator
        separator = c","
        out = _write(out + 1, <bytes>PyList_GET_ITEM(form.keys, number))
        if cells[number].size == WALEX_NULL:
            out = walex_write(out, b"null", 4)
        else:
            out = _write_cell(out, forms[number], cells[number], sizes[number])
    if separator == c"{":
        out[0] = separator
        out += 1
    out[0] = c"}"
    return out + 1


cdef char *_write_cell(char *out, uint8_t form, walex_cell cell, Py_ssize_t written):
    if form == BOOL:
        return walex_write(out, b"true" if cell.text[0] == c"t" else b"false", written)
    if form != TEXT:
        return walex_write(out, <const char *>cell.text, cell.size)
    out[0] = c'"'
    if written == cell.size + 2:
        out = walex_write(out + 1, <const char *>cell.text, cell.size)
    else:
        out = walex_write_json(out + 1, cell.text, cell.size)
    out[0] = c'"'
    return out + 1
