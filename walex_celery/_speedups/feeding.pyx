# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""From the slot to events, compiled: the usual rows of usual transactions.

:class:`Feeding` is the upper half of ``transaction.Assembler``, and stands before it in the order of resolution. It
does what is usual; before anything else, rubbish included, it changes nothing and calls the Python behind it, which
knows all of it, and which alone raises errors.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdint cimport int64_t, uint8_t, uint64_t

from walex_celery._speedups.context cimport ContextFields
from walex_celery._speedups.rows cimport RowFields, walex_be32, walex_be64, walex_walk


cdef extern from *:
    """
    /* A tuple of a subclass, such as a NamedTuple: without its own __new__, which is Python. */
    static PyObject *walex_new_tuple(PyObject *type, Py_ssize_t size) {
        return ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, size);
    }
    """
    object walex_new_tuple(object type, Py_ssize_t size)


cdef object _UNUSUAL = object()
cdef object _row_event, _context, _routed_event, _chunk
cdef int64_t _earliest, _latest


def connect(row_event, context, routed, chunk, int64_t earliest, int64_t latest):
    """Tell the classes and bounds of the Python that this is a part of."""
    global _row_event, _context, _routed_event, _chunk, _earliest, _latest
    _row_event, _context, _routed_event, _chunk = row_event, context, routed, chunk
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
        if type(payload) is not bytes:
            raise TypeError(f"a payload of bytes was expected, not {type(payload).__name__}")
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


# --- the transaction --------------------------------------------------------------------------------

cdef class Feeding:
    """Takes the messages of the stream; the upper half of ``Assembler``."""

    cdef public object _begin, _traceparent
    cdef public dict _plans
    cdef public list _of_transaction, _routed
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
            elif kind == c"I" or kind == c"U" or kind == c"D":
                found = self._change(payload, data, size)
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
        if PyList_GET_SIZE(self._routed):
            begin = <const uint8_t *>PyBytes_AS_STRING(self._begin)
            microseconds = <int64_t>walex_be64(begin + 9)
            if not _earliest <= microseconds <= _latest:
                return _UNUSUAL
            context = self._context
            context.position = walex_be64(begin + 1)
            context.microseconds = microseconds
            context._xid = walex_be32(begin + 17)
            context._chunk = self._chunk
            context.last = True
            chunk = walex_new_tuple(_chunk, 3)
            Py_INCREF(context)
            PyTuple_SET_ITEM(chunk, 0, context)
            Py_INCREF(self._routed)
            PyTuple_SET_ITEM(chunk, 1, self._routed)
            Py_INCREF(self._traceparent)
            PyTuple_SET_ITEM(chunk, 2, self._traceparent)
            self._routed = []
            self._bytes = 0
            self._context = <ContextFields>ContextFields.__new__(_context)
        self._begin = None
        self._chunk = 0
        self._before_lsn = self.end_lsn
        self.end_lsn = walex_be64(data + 10)
        return chunk

    cdef object _change(self, bytes payload, const uint8_t *data, Py_ssize_t size):
        """An Insert, Update or Delete; ``_UNUSUAL`` for one that Python has to look at."""
        cdef PyObject *found
        cdef Py_ssize_t new_at = 6, old_at = 0, end = 6
        cdef uint8_t kind = data[0]
        if size < 6:
            return _UNUSUAL
        found = PyDict_GetItemWithError(self._plans, walex_be32(data + 1))
        if found is NULL:
            return _UNUSUAL
        plan = <object>found
        route = None
        if plan is not None:
            route = plan.insert if kind == c"I" else plan.update if kind == c"U" else plan.delete
        if route is None:
            self._index += 1
            return None
        if kind != c"I" and data[5] == c"O" and plan.whole_kind == c"O":
            old_at = 6
            end = walex_walk(data, size, old_at, plan.width, NULL)
            if end < 0:
                return _UNUSUAL
            new_at = end + 1
        if kind == c"D":
            if not old_at or end != size:
                return _UNUSUAL
            return self._row(plan, "delete", route, payload, 0, old_at)
        if new_at > size or data[new_at - 1] != c"N" or walex_walk(data, size, new_at, plan.width, NULL) != size:
            return _UNUSUAL
        return self._row(plan, "insert" if kind == c"I" else "update", route, payload, new_at, old_at)

    cdef object _row(self, plan, str type, route, bytes payload, Py_ssize_t new_at, Py_ssize_t old_at):
        cdef RowFields event
        cdef Py_ssize_t index = self._index, size = PyBytes_GET_SIZE(payload)
        self._index = index + 1
        event = <RowFields>RowFields.__new__(_row_event)
        event.type = type
        event.index = index
        event._row_source = plan
        event._context = self._context
        event.payload = payload
        event.new_at = new_at
        event.old_at = old_at
        # Of an insert as well, as Python has it: nothing of the old row is unknown.
        event._old_is_whole = old_at != 0 or type == "insert"
        wanting = route
        if not route.takes_all:
            event._cut()
            wanting = route.of(event.old_cells if event.new_cells is None else event.new_cells, event.old_cells)
            if wanting is None:
                route.tally.filtered += 1
                return None
        chunk = None
        if PyList_GET_SIZE(self._routed) and (
            PyList_GET_SIZE(self._routed) >= self._chunk_events or self._bytes + size > self._chunk_bytes
        ):
            chunk = self._complete(last=False)
            event._context = self._context
        self._bytes += size
        routed = walex_new_tuple(_routed_event, 2)
        Py_INCREF(event)
        PyTuple_SET_ITEM(routed, 0, event)
        Py_INCREF(wanting)
        PyTuple_SET_ITEM(routed, 1, wanting)
        self._routed.append(routed)
        return chunk
