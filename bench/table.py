"""Rows of measurements as people read them: ours beside its limit or peer, and the ratio."""

from collections.abc import Iterable, Mapping
from typing import Any


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows with readings a second, or with milliseconds; the ratio says how near ours is to the limit, or how far past a peer."""
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
    told = [f"{key.replace('_', ' ')} {row[key]:.2f}" for key in ("cost", "store_cost") if key in row]
    told += [f"largest process {row[key] / 1e6:.0f} MB" for key in ("largest_rss", "rss") if key in row][:1]
    return f" ({', '.join(told)})" if told else ""
