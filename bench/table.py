"""Rows of measurements: made of pairs of times, ours beside a limit or a peer, and shown as a table.

Both are measured in turn, so that they share the machine's moods; the ratio is the median of the pairs' ratios.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

Pairs = Sequence[tuple[float, float]]  # s: ours, the limit's


def timed(work: Callable[[], object]) -> float:
    """Return s that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def pairs(ours: Callable[[], float], limit: Callable[[], float], rounds: int) -> Pairs:
    """Measure in turn; a first round, which warms up, is not counted."""
    return [(ours(), limit()) for _ in range(rounds + 1)][1:]


def row(name: str, found: Pairs, limit: str, *, count: int | None = None, **more: Any) -> dict[str, Any]:
    """Make a row for the table and JSON: a rate a second if there is a count, else milliseconds."""
    ours, theirs = (median(column) for column in zip(*found, strict=True))
    figures = {"ours_ms": 1000 * ours, "limit_ms": 1000 * theirs}
    if count is not None:
        figures = {"ours_per_s": count / ours, "limit_per_s": count / theirs}
    return {"name": name, **figures, "ratio": median([b / a for a, b in found]), "limit": limit, **more}


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows; the ratio says how near ours is to the limit, or how far past a peer."""
    print(f"{'what':55} {'ours':>12} {'limit':>12}       {'ratio':>6}  limit")
    for row in rows:
        unit = "/s" if "ours_per_s" in row else "ms"
        ours, limit = row.get("ours_per_s", row.get("ours_ms")), row.get("limit_per_s", row.get("limit_ms"))
        figures = f"{ours:12,.0f}" if unit == "/s" else f"{ours:12,.1f}"
        bound = " " * 12 if limit is None else f"{limit:12,.0f}" if unit == "/s" else f"{limit:12,.1f}"
        print(f"{row['name']:55} {figures} {bound}    {unit} {row['ratio']:6.2f}  {row['limit']}{_more(row)}")
        for wrong in row.get("wrong", ()):
            print(f"    WRONG: {wrong}")


def _more(row: Mapping[str, Any]) -> str:
    told = [f"{key.replace('_', ' ')} {row[key]:.2f}" for key in ("cost", "store_cost", "cpu_per_100k") if key in row]
    told += [f"largest process {row[key] / 1e6:.0f} MB" for key in ("largest_rss", "rss") if key in row][:1]
    return f" ({', '.join(told)})" if told else ""
