"""Errors of the simulator: mistakes of an operator and refusals of a broker. Each is one line that names the problem and its place.

A problem of a *row* of a recording is no exception: it is counted and named in the replay's report
(`simulator.replay.recording`).
"""

from citybeat.devices.errors import CitybeatError


class SimulatorError(CitybeatError):
    """Base of the simulator's errors."""


class MapError(SimulatorError, ValueError):
    """A replay map cannot be used; the message names the origin, the line and the key."""


class FaultError(SimulatorError, ValueError):
    """A fault's parameters do not fit its kind, or each other."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key  # of the scenario's entry
        self.problem = problem


class ScenarioError(SimulatorError, ValueError):
    """A scenario cannot be used; the message names the origin, the line and the key."""


class TimelineError(SimulatorError, ValueError):
    """Simulated time cannot run with these arguments."""


class RecordingError(SimulatorError, ValueError):
    """A recorded file does not fit its map: a column that the map names is not there."""


class TruthError(SimulatorError, ValueError):
    """A truth file cannot be used; the message names the file and what is wrong with it."""


class PublishError(SimulatorError):
    """The broker cannot be reached or refuses the source, or the connection's thread failed."""


class PublishStoppedError(PublishError):
    """The caller asked to stop while a message was waiting for room; the message was not sent."""


class RefusedError(PublishError):
    """The broker refuses the client for good: it is no use to connect again."""


class AddressError(PublishError, ValueError):
    """The URL of a broker is malformed."""
