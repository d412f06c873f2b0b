"""The books of a case: what was sent against what is there, message by message and reading by reading.

`compare` is pure, and knows neither faults nor databases: it is told which messages may be lost, and says what is wrong otherwise.

A message is *certain* when the broker acknowledged it and it may not be lost: all of it must be there. Any other one may be there,
then all of it. Of several values that were sent for one series and time, the first that arrives stays, or the last, by the
source's policy; each later one that differs is in quarantine.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from citybeat.storage.db.connection import Connection
from tests.acceptance.faults.poison import Reading
from tests.acceptance.faults.traffic import Sent

_STORED = """
SELECT s.device_id, s.metric, (extract(epoch FROM r.time) * 1000000)::int8, r.value
FROM readings r JOIN series s ON s.id = r.series_id WHERE s.device_id = ANY(%s)"""
_QUARANTINED = "SELECT topic, payload, reasons FROM quarantine ORDER BY id"
_SEEN = """
SELECT s.name, q.boot, lower(r), upper(r) FROM seqs q JOIN sources s ON s.id = q.source_id CROSS JOIN unnest(q.seen) AS r
WHERE q.boot = %s"""

Key = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Contents of the database."""

    stored: Sequence[Reading]
    quarantined: Sequence[tuple[str, bytes, frozenset[str]]]  # topic, payload, reasons: rows
    seen: frozenset[tuple[str, int]]  # (source, seq) of this boot


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Mistakes that were found, and messages whose loss is permitted."""

    differences: list[str]
    lost: list[Sent]  # acknowledged, allowed to be lost, and lost


def read(connection: Connection, devices: Sequence[str], boot: str) -> Found:
    """Reads the rows of these devices and this boot, in one snapshot."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        stored = connection.execute(_STORED, [list(devices)]).fetchall()
        quarantined = connection.execute(_QUARANTINED).fetchall()
        ranges = connection.execute(_SEEN, [boot]).fetchall()
    return Found(
        stored=[(device, metric, at, value) for device, metric, at, value in stored],
        quarantined=[(topic, bytes(payload), frozenset(reasons)) for topic, payload, reasons in quarantined],
        seen=frozenset((source, seq) for source, _, lower, upper in ranges for seq in range(lower, upper)),
    )


def compare(
    sent: Sequence[Sent],
    found: Found,
    *,
    replacing: bool = False,
    may_be_lost: Callable[[Sent], bool] = lambda _: False,
    may_be_refused: frozenset[str] = frozenset(),
    once: bool = False,
    known: frozenset[tuple[str, bytes]] = frozenset(),
) -> Finding:
    """Compare what was sent with what is there.

    Parameters
    ----------
    sent : sequence of Sent
        In order of each source.
    found : Found
    replacing : bool
        The sources' conflict policy: the last value stays.
    may_be_lost : callable
        Whether a message may be lost although the broker acknowledged it.
    may_be_refused : frozenset of str
        Reasons for which a reading may be in quarantine instead of being stored: a clock that was wrong.
    once : bool
        The broker had no reason to deliver anything again: then messages without a number are in quarantine once, too.
    known : frozenset of (topic, payload)
        Earlier messages that may be in quarantine too.
    """
    certain = [one.acknowledged is not None and not may_be_lost(one) for one in sent]
    stored: dict[Key, float] = {reading[:3]: reading[3] for reading in found.stored}
    kept: dict[tuple[str, bytes], list[frozenset[str]]] = defaultdict(list)
    for topic, payload, reasons in found.quarantined:
        kept[topic, payload].append(reasons)
    wrong: list[str] = []
    if len(stored) != len(found.stored):
        wrong.append(f"{len(found.stored) - len(stored)} readings are stored twice")

    refused = {i for i, one in enumerate(sent) if any(may_be_refused & reasons for reasons in kept[one.topic, one.payload])}
    rivals: dict[Key, list[tuple[int, float]]] = defaultdict(list)
    for i, one in enumerate(sent):
        if one.refused is not None and one.acknowledged is None:
            continue  # the broker said no: it may not be there
        for device, metric, at, value in one.readings:
            if i not in refused:
                rivals[device, metric, at].append((i, value))
    required: list[set[str]] = [set(one.reasons) for one in sent]
    permitted: list[set[str]] = [set(one.reasons | may_be_refused) for one in sent]
    for key, all_of_them in rivals.items():
        _judge_key(key, all_of_them, stored, sent, certain, wrong, replacing=replacing)
        _expect_conflicts(all_of_them, certain, required, permitted)
    _judge_timeless(sent, found, certain, refused, stored, rivals, wrong)
    for i, one in enumerate(sent):
        rows = kept[one.topic, one.payload]
        _judge_quarantine(one, rows, required[i], permitted[i], wrong, certain=certain[i])
        # Without a number, a message that is delivered again cannot be told from another one (docs/mqtt.md).
        if len(rows) > 1 and (once or one.seq is not None):
            wrong.append(f"{len(rows)} times in quarantine: {_name(one)}")
    mine = {(one.topic, one.payload) for one in sent}
    wrong += [
        f"in quarantine, but never sent: {payload[:80]!r} on {topic}"
        for topic, payload in kept
        if (topic, payload) not in mine | known and kept[topic, payload]
    ]
    there = [_there(i, one, rivals, stored) for i, one in enumerate(sent)]
    wrong += _judge_numbers(sent, found, certain, there)
    lost = [
        one for i, one in enumerate(sent) if one.acknowledged is not None and not certain[i] and _absent(one, found, there[i], kept)
    ]
    return Finding(differences=wrong, lost=lost)


def _name(one: Sent) -> str:
    seq = "" if one.seq is None else f", seq {one.seq}"
    return f"message {one.number} of {one.source} ({one.what}{seq})"


def _judge_key(
    key: Key,
    rivals: list[tuple[int, float]],
    stored: dict[Key, float],
    sent: Sequence[Sent],
    certain: Sequence[bool],
    wrong: list[str],
    *,
    replacing: bool,
) -> None:
    """One series and time: the value that must be there, or those that may."""
    possible, sure = [], None
    for i, value in reversed(rivals) if replacing else rivals:
        possible.append(value)
        if certain[i]:
            sure = i
            break
    if key not in stored:
        if sure is not None:
            wrong.append(f"lost: {key} of {_name(sent[sure])}")
    elif stored[key] not in possible:
        wrong.append(f"{key} is {stored[key]}, not {possible}, of {_name(sent[rivals[0][0]])}")


def _expect_conflicts(
    rivals: list[tuple[int, float]], certain: Sequence[bool], required: list[set[str]], permitted: list[set[str]]
) -> None:
    values = {value for _, value in rivals}
    if len(values) == 1:
        return
    for place, (i, value) in enumerate(rivals):
        permitted[i].add("conflict")
        if any(certain[j] and other != value for j, other in rivals[:place]) and certain[i]:
            required[i].add("conflict")


def _judge_timeless(
    sent: Sequence[Sent],
    found: Found,
    certain: Sequence[bool],
    refused: set[int],
    stored: dict[Key, float],
    rivals: dict[Key, list[tuple[int, float]]],
    wrong: list[str],
) -> None:
    """Readings without a time are known by their value; and whatever else is stored was never sent."""
    count = Counter((device, metric, value) for device, metric, at, value in found.stored if (device, metric, at) not in rivals)
    for i, one in enumerate(sent):
        for reading in one.timeless:
            times = count.pop(reading, 0)
            if times > 1:
                wrong.append(f"stored {times} times: {reading} of {_name(one)}")
            elif times == 0 and certain[i] and i not in refused:
                wrong.append(f"lost: {reading} of {_name(one)}")
    wrong += [f"stored, but never sent: {reading}" for reading in count]


def _judge_quarantine(
    one: Sent, rows: list[frozenset[str]], required: set[str], permitted: set[str], wrong: list[str], *, certain: bool
) -> None:
    if certain and required and not any(required <= reasons for reasons in rows):
        wrong.append(f"not in quarantine for {sorted(required)}: {_name(one)}, but {[sorted(reasons) for reasons in rows]}")
    if any(not reasons <= permitted for reasons in rows):
        wrong.append(f"in quarantine for {[sorted(reasons) for reasons in rows]}, not {sorted(permitted)}: {_name(one)}")


def _there(i: int, one: Sent, rivals: dict[Key, list[tuple[int, float]]], stored: dict[Key, float]) -> tuple[int, int]:
    """Numbers of stored readings that this message alone has sent, and of readings that it alone has sent."""
    own = [reading[:3] for reading in one.readings if [j for j, _ in rivals.get(reading[:3], [])] == [i]]
    return sum(key in stored for key in own), len(own)


def _judge_numbers(sent: Sequence[Sent], found: Found, certain: Sequence[bool], there: Sequence[tuple[int, int]]) -> list[str]:
    wrong = []
    numbered = {(one.source, one.seq): i for i, one in enumerate(sent) if one.seq is not None}
    for key, i in numbered.items():
        if certain[i] and key not in found.seen:
            wrong.append(f"a hole in seqs: {_name(sent[i])}")
    wrong += [f"number {seq} of {source} was seen, but never sent" for source, seq in found.seen - numbered.keys()]
    # What is lost has to show as a hole, and a message that is there is there as a whole.
    for i, one in enumerate(sent):
        some, all_of_them = there[i]
        if certain[i] or one.reasons or not all_of_them:
            continue
        if some not in {0, all_of_them}:
            wrong.append(f"half of it is there, {some} of {all_of_them} readings: {_name(one)}")
        elif one.seq is not None and (some > 0) != ((one.source, one.seq) in found.seen):
            seen, stand = ("", "not ") if some == 0 else ("not ", "")
            wrong.append(f"its number was {seen}seen, its readings are {stand}there: {_name(one)}")
    return wrong


def _absent(one: Sent, found: Found, there: tuple[int, int], kept: dict[tuple[str, bytes], list[frozenset[str]]]) -> bool:
    """True if a message left no trace of its own."""
    if one.seq is not None:
        return (one.source, one.seq) not in found.seen
    if one.reasons:
        return not kept[one.topic, one.payload]
    return there[0] == 0 and there[1] > 0
