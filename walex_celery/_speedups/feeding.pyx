# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""From the slot to events, compiled: the usual rows of usual transactions.

:class:`Feeding` goes before ``pipeline.assembler.Assembler`` in the order of resolution. It handles the usual messages.
For any other message, an invalid one included, it changes nothing and calls the Python method behind it, which handles
every message; only Python raises errors.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdint cimport int64_t, uint8_t, uint64_t

from walex_celery._speedups.context cimport ContextFields, is_datetime
from walex_celery._speedups.pgoutput cimport (
    WALEX_BEGIN, WALEX_BEGIN_FINAL_LSN, WALEX_BEGIN_SIZE, WALEX_BEGIN_TIMESTAMP, WALEX_BEGIN_XID,
    WALEX_CHANGE_OID, WALEX_CHANGE_TUPLE, WALEX_CHANGE_TUPLE_KIND, WALEX_COMMIT, WALEX_COMMIT_END_LSN,
    WALEX_COMMIT_SIZE, WALEX_DELETE, WALEX_INSERT, WALEX_MESSAGE, WALEX_NEW_TUPLE, WALEX_OLD_TUPLE,
    WALEX_UPDATE, walex_be32, walex_be64, walex_walk,
)
from walex_celery._speedups.rows cimport RowFields


cdef extern from *:
    """
    /* A tuple of a subclass, such as a NamedTuple, without calling its own __new__, which is Python. */
    static PyObject *walex_new_tuple(PyObject *type, Py_ssize_t size) {
        return ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, size);
    }
    """
    object walex_new_tuple(object type, Py_ssize_t size)


cdef object _UNUSUAL = object()
cdef object _row_event, _context, _routed_event, _chunk


def connect(row_event, context, routed_event, chunk):
    """Set the classes of what is made here."""
    global _row_event, _context, _routed_event, _chunk
    _row_event, _context, _routed_event, _chunk = row_event, context, routed_event, chunk


# --- reading ----------------------------------------------------------------------------------------

def read_slice(
    read_message, message_type, Py_ssize_t count, Py_ssize_t size_limit,
    bint pending, uint64_t explicit, bint stop_at_boundary,
):
    """Read what is ready; see ``contract.ReadSlice``."""
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
        if kind == WALEX_COMMIT or kind == WALEX_MESSAGE:
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
    """Takes the messages of the stream, before ``Assembler``."""

    cdef public object _begin, _traceparent
    cdef public dict _plans
    cdef public list _of_transaction, _routed
    cdef public ContextFields _context
    cdef public Py_ssize_t _index, _chunk, _bytes, _chunk_events, _chunk_bytes
    cdef public uint64_t end_lsn, _before_lsn

    def feed(self, payload):
        """Take the next message; return the chunk that it completes, or ``None``."""
        cdef const uint8_t *data
        cdef Py_ssize_t size
        cdef uint8_t kind
        if type(payload) is bytes:
            data = <const uint8_t *>PyBytes_AS_STRING(payload)
            size = PyBytes_GET_SIZE(payload)
            kind = data[0]  # of an empty message this is the zero byte that ends every bytes object
            found = _UNUSUAL
            if self._begin is None:
                if kind == WALEX_BEGIN and size == WALEX_BEGIN_SIZE and not self._of_transaction:
                    self._begin = payload
                    self._traceparent = None
                    self._index = 0
                    return None
            elif kind == WALEX_INSERT or kind == WALEX_UPDATE or kind == WALEX_DELETE:
                found = self._change(payload, data, size)
            elif kind == WALEX_COMMIT and size == WALEX_COMMIT_SIZE:
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
            microseconds = <int64_t>walex_be64(begin + WALEX_BEGIN_TIMESTAMP)
            if not is_datetime(microseconds):
                return _UNUSUAL
            context = self._context
            context.position = walex_be64(begin + WALEX_BEGIN_FINAL_LSN)
            context.microseconds = microseconds
            context._xid = walex_be32(begin + WALEX_BEGIN_XID)
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
        self.end_lsn = walex_be64(data + WALEX_COMMIT_END_LSN)
        return chunk

    cdef object _change(self, bytes payload, const uint8_t *data, Py_ssize_t size):
        """Take an Insert, Update or Delete; return ``_UNUSUAL`` if Python must handle it."""
        cdef PyObject *found
        cdef Py_ssize_t new_at = WALEX_CHANGE_TUPLE, old_at = 0, end = WALEX_CHANGE_TUPLE
        cdef uint8_t kind = data[0]
        if size < WALEX_CHANGE_TUPLE:
            return _UNUSUAL
        found = PyDict_GetItemWithError(self._plans, walex_be32(data + WALEX_CHANGE_OID))
        if found is NULL:
            return _UNUSUAL
        plan = <object>found
        route = None
        if plan is not None:
            route = (
                plan.insert if kind == WALEX_INSERT else plan.update if kind == WALEX_UPDATE else plan.delete
            )
        if route is None:
            self._index += 1
            return None
        if (
            kind != WALEX_INSERT
            and data[WALEX_CHANGE_TUPLE_KIND] == WALEX_OLD_TUPLE
            and plan.whole_kind == WALEX_OLD_TUPLE
        ):
            old_at = WALEX_CHANGE_TUPLE
            end = walex_walk(data, size, old_at, plan.width, NULL)
            if end < 0:
                return _UNUSUAL
            new_at = end + 1  # after the kind of the new tuple
        if kind == WALEX_DELETE:
            if not old_at or end != size:
                return _UNUSUAL
            return self._row(plan, "delete", route, payload, 0, old_at)
        if new_at > size or data[new_at - 1] != WALEX_NEW_TUPLE:
            return _UNUSUAL
        if walex_walk(data, size, new_at, plan.width, NULL) != size:
            return _UNUSUAL
        return self._row(plan, "insert" if kind == WALEX_INSERT else "update", route, payload, new_at, old_at)

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
        # Set for an insert too, as Python does: no value of an old row is unknown.
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
