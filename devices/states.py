"""States of a sensor, the best first. The place of a state is its code in the outbox and its severity on dashboards."""

from typing import Final, Literal, get_args

State = Literal[
    "ok",
    "bad",  # the newest reading has a flag that keeps it out of rollups
    "stuck",
    "overdue",  # three expected intervals have passed since the newest reading
    "silent",  # never reported
]
STATES: Final[tuple[str, ...]] = get_args(State)
