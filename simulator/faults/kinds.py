"""Kinds of faults, and specifications of when, where and how often one happens. Pure data.

A specification says *when* in seconds after the run's start (`from_`, `until`), *where* (`where`), and *how often*, in one of three
ways:

- `chance`: each reading, report or message is hit on its own, with this probability;
- `rate`: so many episodes an hour for each series, device or gateway that is hit (each of `duration`, where the kind has one);
- neither: all of the time from `from_` to `until` is one episode.

What a kind does stands in `simulator.faults.values` (what a sensor shows), `simulator.faults.clocks` (what time a device says), and
`simulator.faults.gateway` (what becomes of messages); docs/faults.md is the table.
"""

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Final

from citybeat.simulator.errors import FaultError
from citybeat.simulator.faults.malformed import Form
from citybeat.simulator.yamltext import Keys


class Fault(enum.StrEnum):
    """Kind of a fault. The first eleven concern a value, the others its delivery."""

    STUCK = "stuck"
    SPIKE = "spike"
    STEP = "step"
    DRIFT = "drift"
    OFFSET = "offset"
    NOISE = "noise"
    RANGE = "range"
    SENTINEL = "sentinel"
    UNIT = "unit"
    RESET = "reset"
    DROPOUT = "dropout"
    CLOCK = "clock"
    NO_TIME = "no_time"
    LATE = "late"
    LOST = "lost"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REORDERED = "reordered"
    MALFORMED = "malformed"
    REBOOT = "reboot"
    FLAP = "flap"


#: Kinds that change what a series shows.
VALUES: Final = frozenset(list(Fault)[:11])
#: Kinds that hit devices: a metric cannot be chosen.
DEVICES: Final = frozenset({Fault.CLOCK, Fault.NO_TIME})
#: Kinds that hit gateways and their messages: only gateways can be chosen.
GATEWAYS: Final = frozenset({Fault.LATE, Fault.LOST, Fault.REORDERED, Fault.MALFORMED, Fault.REBOOT, Fault.FLAP})

_CHANCE: Final = frozenset(
    {Fault.SPIKE, Fault.RANGE, Fault.SENTINEL, Fault.DROPOUT, Fault.NO_TIME}
    | {Fault.LOST, Fault.DUPLICATE, Fault.CONFLICT, Fault.REORDERED, Fault.MALFORMED}
)
#: Momentary kinds: `rate` means moments, not episodes, and such a fault cannot last for the whole run.
_MOMENTS: Final = frozenset({Fault.SPIKE, Fault.FLAP})
_MAGNITUDE: Final = frozenset({Fault.SPIKE, Fault.STEP, Fault.DRIFT, Fault.OFFSET, Fault.NOISE})
_DURATION: Final = frozenset(Fault) - {Fault.RESET, Fault.FLAP}
_MODES: Final[Mapping[Fault, tuple[str, ...]]] = {
    Fault.CLOCK: ("fixed", "drift", "jump", "restart"),
    Fault.DROPOUT: ("null", "silent"),
    Fault.DUPLICATE: ("message", "reading"),
}
#: s, ten years.
_LONGEST: Final = 315_576_000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """Filter of the devices that are hit. An empty field chooses all; of the others each must match."""

    types: tuple[str, ...] = ()  # the devices' tag `type`
    districts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()  # with * and ?
    metrics: tuple[str, ...] = ()
    share: float = 1.0  # portion of the chosen series, devices or gateways that is hit, drawn by the seed


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultSpec:
    """Specification of a fault: one entry of a scenario's `faults`.

    Raises
    ------
    FaultError
        The parameters do not fit the kind, or each other.
    """

    kind: Fault
    from_: float = 0.0  # s after the start
    until: float | None = None  # s after the start; None: the end of the run
    where: Where = field(default_factory=Where)
    chance: float | None = None  # of a reading, report or message, to be hit
    rate: float | None = None  # episodes an hour, of each series, device or gateway
    duration: float | None = None  # s that an episode takes; None: the kind's own
    magnitude: float | None = None  # in the metric's scale (simulator.faults.sensors); None: the kind's own
    mode: str = ""  # of clock, dropout, duplicate; empty: the first of its modes
    offset: float | None = None  # s, of clock
    every: float | None = None  # s between a clock's jumps
    code: float | None = None  # the sentinel that is sent; None: one of those that are good for the metric
    depth: int | None = None  # messages that overtake a reordered one
    forms: tuple[Form, ...] = ()  # of malformed; empty: all

    def __post_init__(self) -> None:
        if not self.mode and self.kind in _MODES:
            object.__setattr__(self, "mode", _MODES[self.kind][0])
        for check in (_check_times, _check_place, _check_parameters):
            check(self)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; fields that are not given are left out."""
        where = {key: value for key, value in asdict(self.where).items() if value not in ((), 1.0)}
        own = {key: value for key, value in asdict(self).items() if key != "where" and value not in (None, "", ())}
        return {**own, **({"where": where} if where else {})}


def _check_times(spec: FaultSpec) -> None:
    kind = spec.kind
    if not 0 <= spec.from_ <= _LONGEST:
        raise FaultError("from", "0 or more seconds after the start are expected")
    if spec.until is not None and not spec.from_ < spec.until <= _LONGEST:
        raise FaultError("until", "it must be later than 'from'")
    if spec.chance is not None:
        if kind not in _CHANCE:
            raise FaultError("chance", f"{kind} happens in episodes: give 'rate', or 'from' and 'until'")
        if not 0 < spec.chance <= 1:
            raise FaultError("chance", "a probability above 0, at most 1 is expected")
        if spec.rate is not None or spec.duration is not None:
            raise FaultError("chance", "either 'chance', or 'rate' and 'duration'")
    if spec.rate is not None and not 0 < spec.rate <= 3600:
        raise FaultError("rate", "episodes an hour, above 0 and at most 3600, are expected")
    if spec.duration is not None:
        if kind not in _DURATION:
            raise FaultError("duration", f"{kind} has none")
        if spec.rate is None:
            raise FaultError("duration", "it is of the episodes that 'rate' makes; else 'from' and 'until' say how long it takes")
        if not 0 < spec.duration <= 3600 / spec.rate:
            raise FaultError("duration", f"above 0 seconds, and at most {3600 / spec.rate:g}: episodes may not overlap")
    if kind in _MOMENTS and spec.chance is None and spec.rate is None:
        raise FaultError("kind", f"{kind} needs 'rate'" + (" or 'chance'" if kind in _CHANCE else ""))
    message = kind in GATEWAYS - {Fault.LATE, Fault.REBOOT, Fault.FLAP} or kind in {Fault.DUPLICATE, Fault.CONFLICT, Fault.NO_TIME}
    if spec.rate is not None and spec.duration is None and (message or kind in {Fault.LATE, Fault.CLOCK}):
        raise FaultError("rate", f"{kind} needs the episodes' 'duration' beside it" + (", or 'chance'" if message else ""))


def _check_place(spec: FaultSpec) -> None:
    where = spec.where
    if not 0 < where.share <= 1:
        raise FaultError("where", "'share' must be above 0, at most 1")
    if spec.kind in GATEWAYS or (spec.kind is Fault.DUPLICATE and spec.mode != "reading"):
        wrong = [name for name in ("types", "districts", "ids", "metrics") if getattr(where, name)]
        if wrong:
            raise FaultError("where", f"{spec.kind} hits messages of gateways: {wrong[0]!r} cannot be chosen")
    if spec.kind in DEVICES and where.metrics:
        raise FaultError("where", f"{spec.kind} hits whole devices: 'metrics' cannot be chosen")


def _check_parameters(spec: FaultSpec) -> None:
    kind = spec.kind
    modes = _MODES.get(kind, ())
    if spec.mode and spec.mode not in modes:
        raise FaultError("mode", f"one of {', '.join(modes)} is expected" if modes else f"{kind} has none")
    if spec.magnitude is not None:
        if kind not in _MAGNITUDE:
            raise FaultError("magnitude", f"{kind} has none")
        least = 1.8 if kind in {Fault.SPIKE, Fault.STEP} else 0.0
        if not max(least, 1e-6) <= spec.magnitude <= 1e6:
            raise FaultError("magnitude", f"a number of at least {least:g} is expected")
    if (spec.offset is not None) != (kind is Fault.CLOCK and spec.mode != "restart"):
        raise FaultError("offset", "seconds that the clock is off are expected" if kind is Fault.CLOCK else f"{kind} has none")
    if spec.offset is not None and (spec.offset == 0 or not abs(spec.offset) <= _LONGEST):
        raise FaultError("offset", "at most ten years, and not 0, are expected")
    if kind is Fault.CLOCK and spec.mode == "drift" and spec.offset is not None:
        length = spec.duration if spec.duration is not None else (spec.until or 0.0) - spec.from_
        if length <= 0:
            raise FaultError("mode", "a drifting clock needs an end: 'until', or 'rate' and 'duration'")
        if abs(spec.offset) > length / 2:
            raise FaultError("offset", "a clock may drift by half of the time that it takes, at most: else its times would meet")
    if (spec.every is not None) and (kind is not Fault.CLOCK or spec.mode != "jump" or not spec.every > 0):
        raise FaultError("every", "seconds between a jumping clock's jumps, above 0; other faults have none")
    if spec.code is not None and kind is not Fault.SENTINEL:
        raise FaultError("code", f"{kind} has none")
    if spec.depth is not None and (kind is not Fault.REORDERED or not 1 <= spec.depth <= 1000):
        raise FaultError("depth", "1 to 1000 messages that overtake a reordered one; other faults have none")
    if spec.forms and kind is not Fault.MALFORMED:
        raise FaultError("forms", f"{kind} has none")


def read(keys: Keys) -> FaultSpec:
    """Specification of a fault: one entry of a scenario's `faults`.

    Raises
    ------
    ScenarioError
        A key is missing, unknown, or of another type; or the parameters do not fit the kind. It names the line and the key.
    """
    words = tuple(kind.value for kind in Fault)
    kind = Fault(keys.choice("kind", words, ""))
    place = keys.keys("where", None)
    forms = keys.texts("forms", ())
    for form in forms:
        if form not in set(Form):
            raise keys.fail("forms", f"no form {form!r}; there are {', '.join(sorted(Form))}")
    depth = keys.number("depth", None)
    if depth is not None and depth != int(depth):
        raise keys.fail("depth", "a whole number is expected")
    given: dict[str, Any] = {
        "from_": _float(keys.seconds("from", Decimal(0))),
        **{name: _float(keys.seconds(name, None)) for name in ("until", "duration", "every")},
        **{name: _float(keys.number(name, None)) for name in ("chance", "rate", "magnitude", "offset", "code")},
        "depth": None if depth is None else int(depth),
        "mode": keys.text("mode", ""),
        "forms": tuple(Form(form) for form in forms),
        "where": Where() if place is None else _where(place),
    }
    keys.finish()
    try:
        return FaultSpec(kind=kind, **given)
    except FaultError as exc:
        raise keys.fail(exc.key, exc.problem) from None


def _where(keys: Keys) -> Where:
    names = ("types", "districts", "gateways", "ids", "metrics")
    chosen = {name: keys.texts(name, ()) for name in names}
    share = _float(keys.number("share", Decimal(1)))
    keys.finish()
    return Where(**chosen, share=1.0 if share is None else share)


def _float(number: Decimal | None) -> float | None:
    return None if number is None else float(number)
