"""One ingest process: the network thread fills the inbox, this thread empties it, batch by batch, until told to stop."""

import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from ingest.counters import Counters
from ingest.gateway import Gateway, Session
from ingest.housekeeping import Housekeeper
from ingest.inbox import BatchSize, Inbox
from ingest.pipeline import Pipeline

_LOG: Final = logging.getLogger(__name__)
#: s. How soon an idle worker looks at the registry's notifications, its threads and the stop signal.
_IDLE: Final = 0.2
#: s that a stopping worker takes for the messages it already has; whatever remains is delivered again.
_DRAIN: Final = 8.0


#: New containers between two rounds of the cyclic garbage collector (Python's default is 700). Decoding makes and drops a hundred
#: thousand a batch, none of them in a cycle; looking through them all took a third of the hot path.
_COLLECT_EVERY: Final = 1_000_000


def spare_the_collector() -> None:
    """Have the cyclic garbage collector look less often, in this process."""
    gc.set_threshold(_COLLECT_EVERY, 10, 10)


def run(
    pipeline: Pipeline,
    housekeeper: Housekeeper,
    session: Session,
    size: BatchSize,
    stop: threading.Event,
    *,
    report: Callable[[dict[str, Any]], None] | None = None,
    report_every: float = 1.0,
) -> Counters:
    """Take messages, commit, acknowledge; until `stop` is set.

    Parameters
    ----------
    pipeline : Pipeline
        Not open yet.
    housekeeper : Housekeeper
        Not started yet.
    session : Session
    size : BatchSize
    stop : threading.Event
        When set: no batch is begun that has not arrived yet, the rest is acknowledged, and the function returns.
    report : callable, optional
        Gets `Counters.as_dict`, and whether we are subscribed yet (`ready`): as soon as we are, then every `report_every` seconds,
        and at the end.

    Raises
    ------
    GatewayError
        The broker refuses us, or the network thread died.
    HousekeepingError
        The housekeeping thread died.
    StorageError
        The database refuses us, or a batch.
    """
    spare_the_collector()
    counters = Counters()
    inbox = Inbox()
    gateway = Gateway(session, inbox)
    pipeline.open()
    gateway.start()
    housekeeper.start()
    ready = False
    reported = time.monotonic()
    leave_at: float | None = None  # when to stop, once told to
    try:
        while leave_at is None or (len(inbox) and time.monotonic() < leave_at):
            gateway.check()
            housekeeper.check()
            pipeline.poll_registry()
            messages = inbox.take(size, _IDLE)
            if messages:
                began = time.monotonic()
                written = pipeline.process(messages, stop.is_set)
                if written is None:
                    _LOG.warning(
                        "stopped while the database was away; %d messages stay with the broker", len(messages) + len(inbox)
                    )
                    break
                gateway.acknowledge(messages)
                counters.add(written, lag=time.time() - messages[0].received_at / 1e6, commit=time.monotonic() - began)
            now = time.monotonic()
            if report and (now - reported >= report_every or (not ready and gateway.wait_connected(0))):
                ready = ready or gateway.wait_connected(0)
                report({"ready": ready, **counters.as_dict(waiting=len(inbox))})
                reported = now
            if stop.is_set() and leave_at is None:
                leave_at = now + _DRAIN
    finally:
        gateway.stop()
        housekeeper.stop()
        pipeline.close()
        if report:
            report(counters.as_dict(waiting=len(inbox)))
    return counters
