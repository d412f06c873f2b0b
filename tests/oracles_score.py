"""The slow and obvious twin of `simulator/score/scorer.py`: one reading after the other, in dictionaries."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from citybeat.devices.batch import FOREVER, NEVER
from citybeat.simulator.faults.rows import FAULTS, OUTCOMES, REASONS

RANGE, STEP, STUCK, SUSPECT, LATE, FUTURE, CLOCK = 1, 2, 4, 8, 16, 32, 64
BAD = 1 | 2 | 4 | 128


@dataclass
class Tally:
    of: int = 0
    found: int = 0
    left_out: int = 0
    claims: int = 0
    right: int = 0
    delays: list[tuple[float, int]] = field(default_factory=list)


@dataclass
class Result:
    kinds: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    flags: dict[str, list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0, 0, 0])
    )  # flagged, right, aftermath, wrong
    clean: int = 0
    alarms: int = 0
    aftermath: int = 0
    findings: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    notes: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def score(
    truth: Any,
    stored: Any,
    *,
    memory: int,
    interval: int,
    stuck_after: int,
    may_repeat: list[float],
    late: int,
    future: int,
    refused: dict[tuple[int, int, int], int],
) -> Result:
    """As `Scorer`, of sensors that are all alike; `refused` has reasons by (boot, seq, index)."""
    out = Result()
    rows = [_row(row) for row in truth]
    there = {(int(row["series"]), int(row["time"])): row for row in stored}
    uses: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    clocked = defaultdict(list)
    for row in sorted(stored, key=lambda row: int(row["received_at"])):
        if int(row["flags"]) & CLOCK:
            clocked[int(row["series"]), float(row["value"])].append((int(row["series"]), int(row["time"])))
    for row in rows:
        row["key"] = None
        if row["outcome"] == "stored" and row["claimed"] != NEVER and (row["series"], row["claimed"]) in there:
            row["key"] = row["series"], row["claimed"]
    for row in sorted(rows, key=lambda row: row["sent_at"]):
        if row["outcome"] == "stored" and row["claimed"] == NEVER and clocked[row["series"], row["value"]]:
            row["key"] = clocked[row["series"], row["value"]].pop(0)
    for row in rows:
        if row["key"]:
            uses[row["key"]].append(row)
    _books(out, rows, there, uses, refused)
    first = [users[0] for _, users in sorted(uses.items()) if users]
    for row in first:
        mine = there[row["key"]]
        row["at"], row["received"], row["flags"] = int(mine["time"]), int(mine["received_at"]), int(mine["flags"])
        row["shown"] = float(mine["value"])
        row["faulty"] = row["fault"] not in {"", "sentinel", "dropout"} or row["delivery"] in {"clock", "no_time"}
        same = [other for other in stored if other["series"] == row["series"]]
        overtaken = any(o["time"] > row["at"] and o["received_at"] < row["received"] for o in same)
        row["in order"] = not overtaken
        row["judged"] = not overtaken and row["delivery"] not in {"clock", "no_time"}
    for i, row in enumerate(first):
        taken = [o for o in first[:i] if o["series"] == row["series"] and o["faulty"] and not o["flags"] & BAD]
        taken = [o for o in taken if row["at"] - o["at"] <= memory]
        row["aftermath"] = not row["faulty"] and bool(taken)
        before = [o for o in first[:i] if o["series"] == row["series"] and row["at"] - o["at"] <= memory]
        past = any(o["in order"] and not o["faulty"] for o in before)
        row["alone"] = row["judged"] and past and not [o for o in taken if o["fault"] != row["fault"]]
        _flags(out, row, late, future)
    for kind in ("range", "spike"):
        for row in first:
            if row["fault"] == kind:
                hit = bool(row["flags"] & (RANGE if kind == "range" else RANGE | STEP))
                if kind == "spike" and not row["alone"]:
                    out.kinds[kind].left_out += 1
                else:
                    _count(out, kind, hit)
    _episodes(out, first, memory, interval, stuck_after, may_repeat)
    return out


def _row(row: Any) -> dict[str, Any]:
    plain = {name: row[name].item() for name in row.dtype.names}
    return plain | {
        "fault": FAULTS[plain["fault"]],
        "delivery": FAULTS[plain["delivery"]],
        "outcome": OUTCOMES[plain["outcome"]].value,
    }


def _count(out: Result, kind: str, hit: bool) -> None:
    out.kinds[kind].of += 1
    out.kinds[kind].found += hit


def _books(out: Result, rows: Any, there: Any, uses: Any, refused: dict[tuple[int, int, int], int]) -> None:
    said = set()
    asked = set()
    for row in rows:
        place = row["series"], row["claimed"]
        if row["outcome"] == "stored":
            if row["key"] is None:
                words = "should be stored, and is not"
                out.findings[words if row["acknowledged"] else "should be stored, was not acknowledged, and is not there"] += 1
            else:
                out.findings["stored with another value"] += there[row["key"]]["value"] != row["value"]
                out.findings["the truth has two that should be stored at one time"] += len(uses[row["key"]]) > 1
                out.findings["received before it was sent"] += there[row["key"]]["received_at"] < row["sent_at"] - 1_000_000
        elif place in there and not uses.get(place):
            out.findings["stored all the same"] += 1
            said.add(place)
        if row["outcome"] in {"quarantined", "conflict"} and row["seq"] >= 0:
            number = row["boot"], row["seq"], row["index"]
            want = REASONS[row["reason"]] if row["outcome"] == "quarantined" else "conflict"
            have = REASONS[refused[number]] if number in refused else None
            asked.add(number)
            out.findings["should be in quarantine, and is not"] += have is None
            out.findings["in quarantine for another reason"] += have is not None and have != want
            kind = "conflict" if row["outcome"] == "conflict" else row["delivery"]
            if kind in {"conflict", "clock", "no_time", "malformed"} and (kind != "conflict" or row["outcome"] == "conflict"):
                _count(out, kind, have == want)
                out.kinds[kind].claims += have is not None
                out.kinds[kind].right += have == want
        if row["outcome"] == "missing" and row["fault"] in {"sentinel", "dropout"}:
            _count(out, row["fault"], place not in there or bool(uses.get(place)))
    out.findings["in the database, and not in the truth"] += sum(not uses.get(place) and place not in said for place in there)
    out.findings["in quarantine, and should not be"] += len(set(refused) - asked)


def _flags(out: Result, row: dict[str, Any], late: int, future: int) -> None:
    due = {
        "LATE": row["received"] - row["at"] > late,
        "FUTURE": row["at"] - row["received"] > future,
        "CLOCK": row["claimed"] == NEVER,
    }
    raised = {"LATE": bool(row["flags"] & LATE), "FUTURE": bool(row["flags"] & FUTURE), "CLOCK": bool(row["flags"] & CLOCK)}
    for flag, is_raised in raised.items():
        if is_raised:
            out.flags[flag][0] += 1
            out.flags[flag][1 if due[flag] else 3] += 1
        out.notes[f"{flag} and should not be"] += is_raised and not due[flag]
        out.notes[f"should be {flag}, and is not"] += due[flag] and not is_raised
    if due["LATE"]:
        _count(out, "late", raised["LATE"])
    for kind, flag in (("late", "LATE"), ("clock", "FUTURE"), ("no_time", "CLOCK")):
        out.kinds[kind].claims += raised[flag]
        out.kinds[kind].right += raised[flag] and (due["LATE"] if kind == "late" else row["delivery"] in {"clock", "no_time"})
    if row["delivery"] in {"clock", "no_time"}:
        _count(out, row["delivery"], raised == due)
    for flag, bit in (("RANGE", RANGE), ("SUSPECT", SUSPECT), ("STEP", STEP), ("STUCK", STUCK)):
        if row["flags"] & bit:
            excused = flag in {"STEP", "STUCK"} and row["aftermath"]
            out.flags[flag][0] += 1
            out.flags[flag][1 if row["faulty"] else 2 if excused else 3] += 1
    if row["fault"] == "" and row["delivery"] == "":
        if row["aftermath"]:
            out.aftermath += 1
        else:
            out.clean += 1
            wrong = row["flags"] & (RANGE | SUSPECT | STEP | STUCK | FUTURE | CLOCK) or (raised["LATE"] and not due["LATE"])
            out.alarms += bool(wrong)


def _episodes(out: Result, first: Any, memory: int, interval: int, stuck_after: int, may_repeat: list[float]) -> None:
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in first:
        groups[row["fault"], row["series"], row["event"]].append(row)
    for (kind, _, _), rows in groups.items():
        rows.sort(key=lambda row: row["at"])
        wanted = {"step": STEP | RANGE, "stuck": STUCK}.get(kind, BAD)
        hits = [i for i, row in enumerate(rows) if row["flags"] & wanted]
        if kind == "stuck":
            ordered = [row for row in rows if row["in order"]]
            hits = [i for i, row in enumerate(ordered) if row["flags"] & wanted]
            if hits:
                out.kinds[kind].delays.append(((ordered[hits[0]]["at"] - ordered[0]["at"]) / 1e6, hits[0]))
        elif kind in {"step", "drift", "offset", "noise", "unit", "reset"} and hits:
            out.kinds[kind].delays.append(((rows[hits[0]]["at"] - rows[0]["at"]) / 1e6, hits[0]))
        if kind == "step":
            head = rows[0]
            if not head["alone"]:
                out.kinds[kind].left_out += 1
            else:
                _count(out, kind, bool(head["flags"] & wanted))
        elif kind == "stuck":
            due = []
            rows = [row for row in rows if row["in order"]]  # noqa: PLW2901 - what came too late is looked at by nobody
            since = rows[0]["at"] if rows else 0
            for i, row in enumerate(rows):
                interrupted = any(
                    o["series"] == row["series"] and rows[i - 1]["at"] < o["at"] < row["at"] for o in first if o["in order"]
                )
                if i and (row["at"] - rows[i - 1]["at"] > memory or interrupted):
                    since = row["at"]
                never = stuck_after == FOREVER or row["shown"] in may_repeat
                if not never and row["judged"] and row["at"] - since > stuck_after:
                    due.append(row)
                    _count(out, "stuck readings", bool(row["flags"] & STUCK))
            if not due:
                out.kinds[kind].left_out += 1
                continue
            limit = max(rows[0]["at"] + stuck_after + interval, due[0]["at"])
            _count(out, kind, any(row["flags"] & STUCK and row["at"] <= limit for row in rows))
        elif kind in {"drift", "offset", "noise", "unit", "reset"}:
            _count(out, kind, bool(hits))
