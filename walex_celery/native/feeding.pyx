# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""From the slot to events, compiled: the usual rows of usual transactions.

:class:`Feeding` is the upper half of ``transaction.Assembler``, and stands before it in the order of resolution. It
does what is usual; before anything else, rubbish included, it changes nothing and calls the Python behind it, which
knows all of it, and which alone raises errors.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from walex_celery.native.rows cimport ContextFields, RowFields


cdef extern from *:
    """
    /* A tuple of a subclass, such as a NamedTuple: without its own __new__, which is Python. */
    static PyObject *walex_new_tuple(PyObject *type, Py_ssize_t size) {
        return ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, size);
    }
    """
    object walex_new_tuple(object type, Py_ssize_t size)


cdef object _UNUSUAL = object()
cdef object _UNCHANGED, _row_event, _context, _accepted, _chunk
cdef int64_t _earliest, _latest


def connect(unchanged, row_event, context, accepted, chunk, int64_t earliest, int64_t latest):
    """Tell the classes and bounds of the Python that this is a part of."""
    global _UNCHANGED, _row_event, _context, _accepted, _chunk, _earliest, _latest
    _UNCHANGED, _row_event, _context, _accepted, _chunk = unchanged, row_event, context, accepted, chunk
    _earliest, _latest = earliest, latest


# --- reading ----------------------------------------------------------------------------------------

def read_slice(
    read_message, message_type, Py_ssize_t count, Py_ssize_t size_limit,
    bint pending, uint64_t explicit, bint stop_at_boundary,
):
    """As ``stream.read_slice_plainly``."""
    cdef list messages = []
    cdef uint64_t start = 0
    cdef Py_ssize_t size = 0, read
    cdef uint8_t kind
    cdef bint needs_confirmation = False
    for read in range(count):
        message = read_message()
        if message is None:
            break
        payload = message.payload
        lsn = message.data_start
        start = lsn
        if message_type is None:
            messages.append(payload)
        else:
            found = walex_new_tuple(message_type, 2)
            Py_INCREF(payload)
            PyTuple_SET_ITEM(found, 0, payload)
            Py_INCREF(lsn)
            PyTuple_SET_ITEM(found, 1, lsn)
            messages.append(found)
        size += PyBytes_GET_SIZE(payload)
        kind = (<const uint8_t *>PyBytes_AS_STRING(payload))[0]
        if kind == c"C" or kind == c"M":
            pending = True
            if stop_at_boundary:
                break
        if pending and start <= explicit:
            needs_confirmation = True
            break
        if size > size_limit:
            break
    return messages, start, size, needs_confirmation


cdef inline uint32_t _be32(const uint8_t *at) noexcept nogil:
    return (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3]


cdef inline uint64_t _be64(const uint8_t *at) noexcept nogil:
    return (<uint64_t>_be32(at) << 32) | _be32(at + 4)


cdef list _read_tuple(const uint8_t *data, Py_ssize_t size, Py_ssize_t *offset):
    """The cells of the TupleData at *offset*, which moves behind it; None for one that is not whole or not usual."""
    cdef Py_ssize_t at = offset[0], count, number, length
    cdef uint8_t kind
    if at + 2 > size:
        return None
    count = (<Py_ssize_t>data[at] << 8) | data[at + 1]
    at += 2
    if count > size - at:  # each column takes a byte at least
        return None
    cells = []
    for number in range(count):
        if at >= size:
            return None
        kind = data[at]
        if kind == c"t":
            if at + 5 > size:
                return None
            length = _be32(data + at + 1)
            at += 5
            if length > size - at:
                return None
            cells.append(PyBytes_FromStringAndSize(<const char *>data + at, length))
            at += length
        elif kind == c"n":
            cells.append(None)
            at += 1
        elif kind == c"u":
            cells.append(_UNCHANGED)
            at += 1
        else:
            return None
    offset[0] = at
    return cells


cdef class Feeding:
    """Takes the messages of the stream; the upper half of ``Assembler``."""

    cdef public object _begin, _traceparent
    cdef public dict _plans
    cdef public list _of_transaction, _accepted
    cdef public ContextFields _context
    cdef public Py_ssize_t _index, _chunk, _bytes, _chunk_events, _chunk_bytes
    cdef public uint64_t end_lsn, _before_lsn

    def feed(self, payload):
        """Take the next message; returns the chunk that it completes, if it does."""
        cdef const uint8_t *data
        cdef Py_ssize_t size
        cdef uint8_t kind
        if type(payload) is bytes:
            data = <const uint8_t *>PyBytes_AS_STRING(payload)
            size = PyBytes_GET_SIZE(payload)
            kind = data[0]  # of an empty message: the zero that ends all bytes objects
            found = _UNUSUAL
            if self._begin is None:
                if kind == c"B" and size == 21 and not self._of_transaction:
                    self._begin = payload
                    self._traceparent = None
                    self._index = 0
                    return None
            elif kind == c"I":
                found = self._insert(data, size)
            elif kind == c"U":
                found = self._update(data, size)
            elif kind == c"D":
                found = self._delete(data, size)
            elif kind == c"C" and size == 26:
                found = self._commit(data)
            if found is not _UNUSUAL:
                return found
        return super().feed(payload)

    cdef object _commit(self, const uint8_t *data):
        cdef ContextFields context
        cdef const uint8_t *begin
        cdef int64_t microseconds
        chunk = None
        if PyList_GET_SIZE(self._accepted):
            begin = <const uint8_t *>PyBytes_AS_STRING(self._begin)
            microseconds = <int64_t>_be64(begin + 9)
            if not _earliest <= microseconds <= _latest:
                return _UNUSUAL
            context = self._context
            context.position = _be64(begin + 1)
            context.microseconds = microseconds
            context._xid = _be32(begin + 17)
            context._chunk = self._chunk
            context.last = True
            chunk = walex_new_tuple(_chunk, 3)
            Py_INCREF(context)
            PyTuple_SET_ITEM(chunk, 0, context)
            Py_INCREF(self._accepted)
            PyTuple_SET_ITEM(chunk, 1, self._accepted)
            Py_INCREF(self._traceparent)
            PyTuple_SET_ITEM(chunk, 2, self._traceparent)
            self._accepted = []
            self._bytes = 0
            self._context = <ContextFields>ContextFields.__new__(_context)
        self._begin = None
        self._chunk = 0
        self._before_lsn = self.end_lsn
        self.end_lsn = _be64(data + 10)
        return chunk

    cdef object _plan(self, const uint8_t *data, Py_ssize_t size):
        """The plan of the table that a change is of; ``_UNUSUAL`` where it has to be made."""
        cdef PyObject *found
        if size < 6:
            return _UNUSUAL
        found = PyDict_GetItemWithError(self._plans, _be32(data + 1))
        if found is NULL:
            return _UNUSUAL
        return <object>found

    cdef object _insert(self, const uint8_t *data, Py_ssize_t size):
        cdef Py_ssize_t offset = 6
        plan = self._plan(data, size)
        if plan is _UNUSUAL:
            return plan
        audience = None if plan is None else plan.insert
        if audience is None:
            self._index += 1
            return None
        if data[5] != c"N":
            return _UNUSUAL
        new = _read_tuple(data, size, &offset)
        if new is None or offset != size or PyList_GET_SIZE(new) != plan.width:
            return _UNUSUAL
        return self._row(plan, "insert", audience, new, None, True, size)

    cdef object _update(self, const uint8_t *data, Py_ssize_t size):
        cdef Py_ssize_t offset = 6, width, number
        cdef list old = None, new
        cdef uint8_t kind
        plan = self._plan(data, size)
        if plan is _UNUSUAL:
            return plan
        audience = None if plan is None else plan.update
        if audience is None:
            self._index += 1
            return None
        kind = data[5]
        width = plan.width
        if kind == c"O" and plan.whole_kind == kind:
            old = _read_tuple(data, size, &offset)
            if old is None or PyList_GET_SIZE(old) != width or offset >= size or data[offset] != c"N":
                return _UNUSUAL
            offset += 1
        elif kind != c"N":
            return _UNUSUAL
        new = _read_tuple(data, size, &offset)
        if new is None or offset != size or PyList_GET_SIZE(new) != width:
            return _UNUSUAL
        if old is not None:
            for number in range(width):
                if <object>PyList_GET_ITEM(new, number) is _UNCHANGED:
                    new[number] = <object>PyList_GET_ITEM(old, number)
        return self._row(plan, "update", audience, new, old, old is not None, size)

    cdef object _delete(self, const uint8_t *data, Py_ssize_t size):
        cdef Py_ssize_t offset = 6
        plan = self._plan(data, size)
        if plan is _UNUSUAL:
            return plan
        audience = None if plan is None else plan.delete
        if audience is None:
            self._index += 1
            return None
        if data[5] != c"O" or plan.whole_kind != data[5]:
            return _UNUSUAL
        old = _read_tuple(data, size, &offset)
        if old is None or offset != size or PyList_GET_SIZE(old) != plan.width:
            return _UNUSUAL
        return self._row(plan, "delete", audience, None, old, True, size)

    cdef object _row(self, plan, str type, audience, list new, list old, bint old_is_whole, Py_ssize_t size):
        cdef RowFields event
        cdef Py_ssize_t index = self._index
        self._index = index + 1
        wanting = audience
        if not audience.takes_all:
            wanting = audience.of(old if new is None else new, old if old_is_whole else None)
            if wanting is None:
                audience.tally.filtered += 1
                return None
        chunk = None
        if PyList_GET_SIZE(self._accepted) and (
            PyList_GET_SIZE(self._accepted) >= self._chunk_events or self._bytes + size > self._chunk_bytes
        ):
            chunk = self._complete(last=False)
        self._bytes += size
        event = <RowFields>RowFields.__new__(_row_event)
        event.type = type
        event.index = index
        event._row_source = plan
        event._context = self._context
        event._new = new
        event._old = old
        event._old_is_whole = old_is_whole
        accepted = walex_new_tuple(_accepted, 2)
        Py_INCREF(event)
        PyTuple_SET_ITEM(accepted, 0, event)
        Py_INCREF(wanting)
        PyTuple_SET_ITEM(accepted, 1, wanting)
        self._accepted.append(accepted)
        return chunk
