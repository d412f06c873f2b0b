"""Server-sent events, as the WHATWG's HTML standard defines them. Pure.

Invariant: an event's id says that everything up to it was sent, so of several events of one row only the last has it. A block with
an id and no data is not an event, but moves the position from which a client will resume.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import orjson

from citybeat.api.http.answers import flag_names, milliseconds
from citybeat.devices.states import STATES
from citybeat.storage.batches.outbox import OutboxRows
from citybeat.storage.reads.following import Names

MEDIA_TYPE: Final = "text/event-stream"
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY
_STATES: Final = np.array(STATES, object)


def event(name: str, data: bytes) -> bytes:
    r"""An event without its end, so that an id can be appended.

    Examples
    --------
    >>> ended(event("end", b'{"reason":"slow"}'))
    b'event: end\ndata: {"reason":"slow"}\n\n'
    """
    return b"event: %s\ndata: %s\n" % (name.encode(), data)


def ended(block: bytes, cursor: str | None = None) -> bytes:
    """A block with its end, and with an id if there is one."""
    return block + (b"\n" if cursor is None else b"id: %s\n\n" % cursor.encode())


def reset(reason: str, cursor: str) -> bytes:
    """An event that says that rows are missing, and where the stream resumes."""
    return ended(event("reset", orjson.dumps({"reason": reason, "resume_from": cursor})), cursor)


def end(reason: str) -> bytes:
    """The last event of a stream."""
    return ended(event("end", orjson.dumps({"reason": reason})))


def heartbeat(cursor: str) -> bytes:
    """A comment, for proxies that close silent connections."""
    return ended(b": heartbeat\n", cursor)


def beginning(retry_ms: int, cursor: str) -> bytes:
    """The first block of a stream: the delay before a reconnection, and the cursor."""
    return ended(b"retry: %d\n" % retry_ms, cursor)


def readings(told: OutboxRows, names: Names) -> bytes:
    """Readings as one event of columns, without its end."""
    data = {
        "device": names.device[told.series].tolist(),
        "metric": names.metric[told.series].tolist(),
        "time": milliseconds(told.time),
        "value": told.value,
        "flags": flag_names(told.code),
    }
    return event("readings", orjson.dumps(data, option=_OPTIONS))


def states(told: OutboxRows, names: Names) -> bytes:
    """States of sensors, an event each; the last without its end."""
    return b"\n".join(event("state", orjson.dumps(data, option=_OPTIONS)) for data in _states(told, names))


def _states(told: OutboxRows, names: Names) -> Iterator[dict[str, Any]]:
    columns = (
        names.device[told.series].tolist(),
        names.metric[told.series].tolist(),
        _STATES[told.code].tolist(),
        milliseconds(told.time).tolist(),
        told.value.tolist(),  # NaN becomes null
    )
    for device, metric, state, since, value in zip(*columns, strict=True):
        yield {"device": device, "metric": metric, "state": state, "since": since, "value": value}
