# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""From an event's JSON text to a message's bytes, compiled: JSON bodies, and the templates of both brokers.

As in ``feeding.pyx``, the unusual is left to the Python half.
"""

import uuid

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_IS_COMPACT_ASCII(object text)

cdef extern from "text.h":
    char *walex_write(char *out, const char *text, size_t size) nogil
    char *walex_write_hex(char *out, uint64_t value, int digits) nogil
    char *walex_write_decimal(char *out, uint64_t value, int least) nogil
    char *walex_write_big(char *out, uint64_t value, int size) nogil
    ptrdiff_t walex_ascii_size(const uint8_t *text, size_t size) nogil
    char *walex_write_ascii(char *out, const uint8_t *text, size_t size) nogil
    void walex_prepare_base64()
    char *walex_write_base64(char *out, const uint8_t *data, size_t size) nogil

walex_prepare_base64()

cdef enum:
    FRAME_END = 0xCE
    #: Bytes of a delivery tag: a UUID in quotes, whose last part is a counter.
    TAG_SIZE = 38


cdef inline char *_write(char *out, bytes text) noexcept:
    return walex_write(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef bytes _ascii(bytes text):
    """Return the inside of the string that json.dumps makes of UTF-8 text."""
    cdef Py_ssize_t size = walex_ascii_size(<const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    if size < 0:
        raise _not_utf8(text)
    written = PyBytes_FromStringAndSize(NULL, size)
    walex_write_ascii(PyBytes_AS_STRING(written), <const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return written


cdef object _not_utf8(bytes text):
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error
    return AssertionError("text that only Python takes for UTF-8")


# --- bodies -----------------------------------------------------------------------------------------

cdef class JsonBody:
    """The body of a JSON message; see ``contract.Speedups.json_body`` for the arguments."""

    cdef bytes _opening, _closing, _rendered, _frame
    cdef object _value
    cdef dict _starts
    cdef Py_ssize_t _kept

    def __init__(self, bytes opening, bytes closing, Py_ssize_t kept, bytes frame=None):
        self._opening = opening
        self._closing = closing
        self._kept = kept
        self._frame = frame
        self._starts = {}
        self._rendered = b""

    def render(self, bytes value not None, bytes head not None=b""):
        """Return the finished body of ``value``, which begins with ``head``; the same object for the same ``value``."""
        return self.rendered(value, head)

    cdef bytes rendered(self, bytes value, bytes head):
        if value is not self._value:
            self._rendered = self._make(value, head)
            self._value = value
        return self._rendered

    cdef tuple _start(self, bytes head):
        """Return the encoded start of a body and, with base64, the zero to two bytes of it that are not encoded yet."""
        cdef PyObject *found = PyDict_GetItemWithError(self._starts, head)
        cdef Py_ssize_t cut
        if found is not NULL:
            return <tuple>found
        start = self._opening + b'"' + _ascii(head)
        left_over = b""
        if self._frame is None:
            # Base64 takes three bytes at a time; the bytes left over are encoded with the rest.
            cut = PyBytes_GET_SIZE(start) // 3 * 3
            left_over = start[cut:]
            encoded = PyBytes_FromStringAndSize(NULL, cut // 3 * 4)
            walex_write_base64(PyBytes_AS_STRING(encoded), <const uint8_t *>PyBytes_AS_STRING(start), cut)
            start = encoded
        if len(self._starts) >= self._kept:
            self._starts.clear()
        kept = self._starts[head] = (start, left_over)
        return kept

    cdef bytes _make(self, bytes value, bytes head):
        cdef bytes start, left_over
        cdef const uint8_t *rest = <const uint8_t *>PyBytes_AS_STRING(value) + PyBytes_GET_SIZE(head)
        cdef Py_ssize_t rest_size = PyBytes_GET_SIZE(value) - PyBytes_GET_SIZE(head), size
        cdef char *out
        cdef char *text
        if rest_size < 0:
            raise ValueError("a value that is shorter than its head")
        start, left_over = self._start(head)
        size = walex_ascii_size(rest, rest_size)
        if size < 0:
            raise _not_utf8(value)
        size += 1 + PyBytes_GET_SIZE(self._closing)
        if self._frame is not None:
            size += PyBytes_GET_SIZE(start)
            body = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(self._frame) + 4 + size + 1)
            out = walex_write_big(_write(PyBytes_AS_STRING(body), self._frame), size, 4)
            out = self._write_rest(_write(out, start), rest, rest_size)
            out[0] = <char>FRAME_END
            return body
        size += PyBytes_GET_SIZE(left_over)
        body = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(start) + (size + 2) // 3 * 4 + 2)
        text = <char *>PyMem_Malloc(size)
        if text is NULL:
            raise MemoryError
        self._write_rest(_write(text, left_over), rest, rest_size)
        out = PyBytes_AS_STRING(body)
        out[0] = c'"'
        out = walex_write_base64(_write(out + 1, start), <const uint8_t *>text, size)
        out[0] = c'"'
        PyMem_Free(text)
        return body

    cdef char *_write_rest(self, char *out, const uint8_t *rest, Py_ssize_t size) noexcept:
        out = walex_write_ascii(out, rest, size)
        out[0] = c'"'
        return _write(out + 1, self._closing)


# --- templates --------------------------------------------------------------------------------------

cdef Py_ssize_t _joined_size(tuple pieces, Py_ssize_t between) except -1:
    """Return the size of *pieces* with *between* bytes between each two."""
    cdef Py_ssize_t size = between * (len(pieces) - 1)
    for piece in pieces:
        size += PyBytes_GET_SIZE(piece)
    return size


cdef char *_write_joined(char *out, tuple pieces, const char *between, Py_ssize_t size, bint quoted) except NULL:
    cdef bint first = True
    for piece in pieces:
        if not first:
            if quoted:
                out[0] = c'"'
                out += 1
            memcpy(out, between, size)
            out += size
            if quoted:
                out[0] = c'"'
                out += 1
        first = False
        out = _write(out, piece)
    return out


cdef class _Template:
    """What both templates share; ``_plain`` is the Python half, for the unusual."""

    cdef object _plain, _address, _body
    cdef tuple _before, _after
    cdef Py_ssize_t _before_size, _after_size  # with task ids between the pieces

    cdef bytes _render(self, bytes value, bytes head):
        if type(self._body) is JsonBody:
            return (<JsonBody>self._body).rendered(value, head)
        return self._body.render(value, head)


cdef class Envelopes(_Template):
    """Fills body, task id, argsrepr and delivery tag into an envelope; see ``contract.Speedups.envelope``."""

    cdef bytes _start, _end
    cdef bytes _tag
    cdef uint64_t _count
    cdef Py_ssize_t _id_size

    def __init__(self, plain, address, body, bytes start, before, after, bytes end, Py_ssize_t id_size):
        self._plain, self._address, self._body = plain, address, body
        self._start, self._end = start, end
        self._before, self._after = tuple(before), tuple(after)
        self._id_size = id_size
        self._before_size = _joined_size(self._before, id_size + 2)
        self._after_size = _joined_size(self._after, id_size + 2)
        self._tag = str(uuid.uuid4())[:24].encode()

    def fill(self, str task_id not None, bytes value not None, str argsrepr not None, bytes head not None=b""):
        """Return the envelope of one task."""
        cdef Py_ssize_t id_size, argsrepr_size, escaped
        cdef const char *identifier
        cdef const char *text
        cdef char *out
        cdef bytes body, envelope
        if not PyUnicode_IS_COMPACT_ASCII(task_id) or not PyUnicode_IS_COMPACT_ASCII(argsrepr):
            return self._plain(task_id, value, argsrepr, head)
        identifier = PyUnicode_AsUTF8AndSize(task_id, &id_size)
        if id_size != self._id_size or walex_ascii_size(<const uint8_t *>identifier, id_size) != id_size:
            return self._plain(task_id, value, argsrepr, head)
        text = PyUnicode_AsUTF8AndSize(argsrepr, &argsrepr_size)
        escaped = walex_ascii_size(<const uint8_t *>text, argsrepr_size)
        body = self._render(value, head)
        envelope = PyBytes_FromStringAndSize(
            NULL,
            PyBytes_GET_SIZE(self._start) + PyBytes_GET_SIZE(body) + self._before_size + escaped + 2
            + self._after_size + TAG_SIZE + PyBytes_GET_SIZE(self._end),
        )
        out = _write(_write(PyBytes_AS_STRING(envelope), self._start), body)
        out = _write_joined(out, self._before, identifier, id_size, True)
        out[0] = c'"'
        out = walex_write_ascii(out + 1, <const uint8_t *>text, argsrepr_size)
        out[0] = c'"'
        out = _write_joined(out + 1, self._after, identifier, id_size, True)
        out[0] = c'"'
        out = _write(out + 1, self._tag)
        out = walex_write_hex(out, self._count, 12)
        self._count += 1
        out[0] = c'"'
        _write(out + 1, self._end)
        return self._address, task_id, envelope, b""


cdef class Frames(_Template):
    """Fills id, argsrepr and body into the frames of a message; see ``contract.Speedups.frames``."""

    cdef bytes _method, _content, _head
    cdef Py_ssize_t _table_size, _size, _id_size

    def __init__(
        self, plain, address, body, bytes method, bytes content, bytes head, before, after,
        Py_ssize_t table_size, Py_ssize_t size, Py_ssize_t id_size,
    ):
        self._plain, self._address, self._body = plain, address, body
        self._method, self._content, self._head = method, content, head
        self._before, self._after = tuple(before), tuple(after)
        self._table_size, self._size, self._id_size = table_size, size, id_size
        self._before_size = _joined_size(self._before, id_size)
        self._after_size = _joined_size(self._after, id_size)

    def fill(self, str task_id not None, bytes value not None, str argsrepr not None, bytes head not None=b""):
        """Return the frames of one task, or None for an id that is not as long as a UUID."""
        cdef Py_ssize_t id_size, argsrepr_size
        cdef const char *identifier
        cdef const char *text
        cdef char *out
        cdef bytes body, frames
        if not PyUnicode_IS_COMPACT_ASCII(task_id) or not PyUnicode_IS_COMPACT_ASCII(argsrepr):
            return self._plain(task_id, value, argsrepr, head)
        identifier = PyUnicode_AsUTF8AndSize(task_id, &id_size)
        if id_size != self._id_size:
            return None
        text = PyUnicode_AsUTF8AndSize(argsrepr, &argsrepr_size)
        body = self._render(value, head)
        frames = PyBytes_FromStringAndSize(
            NULL,
            PyBytes_GET_SIZE(self._method) + 4 + PyBytes_GET_SIZE(self._content) + 8 + PyBytes_GET_SIZE(self._head) + 4
            + self._before_size + 4 + argsrepr_size + self._after_size + 1,
        )
        out = _write(PyBytes_AS_STRING(frames), self._method)
        out = walex_write_big(out, self._size + argsrepr_size, 4)
        out = walex_write_big(_write(out, self._content), PyBytes_GET_SIZE(body) - 8, 8)
        out = walex_write_big(_write(out, self._head), self._table_size + argsrepr_size, 4)
        out = walex_write_big(_write_joined(out, self._before, identifier, id_size, False), argsrepr_size, 4)
        memcpy(out, text, argsrepr_size)
        out = _write_joined(out + argsrepr_size, self._after, identifier, id_size, False)
        out[0] = <char>FRAME_END
        return self._address, task_id, frames, body


def packed(commands):
    """Pack commands for Redis; see ``contract.Packed``."""
    cdef list parts = []
    cdef char text[32]
    cdef char *out
    cdef bytes argument
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for any_argument in command:
            argument = any_argument if isinstance(any_argument, bytes) else str(any_argument).encode()
            text[0] = c"$"
            out = walex_write(walex_write_decimal(text + 1, PyBytes_GET_SIZE(argument), 1), b"\r\n", 2)
            parts.append(PyBytes_FromStringAndSize(text, out - text))
            parts.append(argument)
            parts.append(b"\r\n")
    return b"".join(parts)


# --- tasks ------------------------------------------------------------------------------------------

cdef str _task_id(uint64_t lsn, uint64_t low):
    """Return a task's id as ``events.task_id.task_id`` does; *low* is its second half."""
    cdef char text[36]
    cdef char *out = walex_write_hex(text, lsn >> 28, 8)
    out[0] = c"-"
    out = walex_write_hex(out + 1, lsn >> 12, 4)
    out[0] = c"-"
    out[1] = c"8"
    out = walex_write_hex(out + 2, lsn, 3)
    out[0] = c"-"
    out = walex_write_hex(out + 1, low >> 48, 4)
    out[0] = c"-"
    walex_write_hex(out + 1, low, 12)
    return PyUnicode_DecodeASCII(text, 36, NULL)


def make_tasks(list routed not None, Py_ssize_t first, uint64_t lsn, uint32_t salt):
    """Make the messages of events whose tasks all have a template; see ``contract.MakeTasks``."""
    cdef list items = []
    cdef Py_ssize_t at, size = 0
    cdef uint64_t variant = <uint64_t>0b10 << 62, index
    cdef uint32_t digest
    cdef tuple item
    for at in range(first, len(routed)):
        event, route = routed[at]
        targets = route.targets
        if targets is None:
            return at, items, size
        if targets:
            templates = []
            for function, _, _ in targets:
                template = function.template
                if template is None or function.sent_event is not None:
                    return at, items, size
                templates.append(template)
            value, head, argsrepr = event.for_task()
            index = event.index
            made = []
            for (_, digest, _), template in zip(targets, templates):
                id = _task_id(lsn, variant | (index & 0xFFFFFFFF) << 30 | (digest ^ salt))
                try:
                    item = template(id, value, argsrepr, head)
                except Exception:  # the dispatcher tries again, and applies on_error
                    return at, items, size
                if item is None:
                    return at, items, size
                made.append(item)
            for (_, _, tally), item in zip(targets, made):
                items.append(item)
                tally.count += 1
                size += PyBytes_GET_SIZE(item[2]) + PyBytes_GET_SIZE(item[3])
        route.tally.accepted += 1
    return len(routed), items, size
