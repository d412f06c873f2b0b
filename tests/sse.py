"""A client of server-sent events, as the WHATWG's HTML standard describes it (9.2.6, "Interpreting an event stream")."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson


class Event(NamedTuple):
    name: str
    data: Any
    id: str  # last one that was seen


class Reader:
    """Events of lines; `last_id` moves with blocks that are no events, too."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry: int | None = None
        self.comments: list[str] = []

    def events(self, lines: Iterable[str]) -> Iterator[Event]:
        name, data, pending = "", [], self.last_id
        for line in lines:
            if not line:
                self.last_id = pending
                if data:
                    yield Event(name or "message", orjson.loads("\n".join(data)), self.last_id)
                name, data = "", []
            elif line.startswith(":"):
                self.comments.append(line[1:].strip())
            else:
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if field == "event":
                    name = value
                elif field == "data":
                    data.append(value)
                elif field == "id":
                    pending = value
                elif field == "retry":
                    self.retry = int(value)


def rows(event: Event) -> list[tuple[str, str, int, float]]:
    """Readings of an event of columns."""
    columns = event.data
    return list(zip(columns["device"], columns["metric"], columns["time"], columns["value"], strict=True))
