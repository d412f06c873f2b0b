"""A message as the broker delivered it, and the meaning of its topic."""

import re
from dataclasses import dataclass
from typing import Final

from citybeat.devices.device import RESERVED_SOURCES, SOURCE_NAME

#: Subscription: wider than the contract, so that a message outside the contract is quarantined and not overlooked.
SUBSCRIPTION: Final = "city/v1/#"
_TOPIC: Final = re.compile(r"city/v1/([^/]*)/([^/]*)")


@dataclass(slots=True)
class Message:
    """One PUBLISH packet. Only `epoch` changes, the connection over which it may be acknowledged."""

    topic: str
    payload: bytes
    received_at: int  # us since 1970 UTC, by the clock of ingest
    redelivered: bool  # the broker's DUP flag
    qos: int
    mid: int  # packet identifier, for the acknowledgement
    epoch: int  # number of the connection that delivered it last: an acknowledgement is valid for that one only


def address(topic: str) -> tuple[str, str] | None:
    """(source, channel) of a topic of the contract; None outside it."""
    match = _TOPIC.fullmatch(topic)
    if match is None or not SOURCE_NAME.fullmatch(match[1]) or match[1] in RESERVED_SOURCES:
        return None
    return match[1], match[2]
