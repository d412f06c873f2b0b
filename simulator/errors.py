"""What can go wrong on the sending side: an operator's mistake or a broker's answer. One line each, naming what and where.

What is wrong with a *row* of a recording is no exception: it is counted and named in the replay's report
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
    """Simulated time cannot run as it is asked to."""


class RecordingError(SimulatorError, ValueError):
    """A recorded file does not fit its map: a column that the map names is not there."""


class TruthError(SimulatorError, ValueError):
    """A truth file cannot be used; the message names the file and what is wrong with it."""


class PublishError(SimulatorError):
    """The broker cannot be reached, refuses the source, or the connection's thread ended."""


class PublishStoppedError(PublishError):
    """The caller asked to stop while a message was waiting for room; the message was not sent."""


class RefusedError(PublishError):
    """The broker will have none of us: to connect again is no use."""


class AddressError(PublishError, ValueError):
    """The URL of a broker is none."""
