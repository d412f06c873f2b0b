"""`make bench-quick`: the most important ratios, in a minute and a half; exit status 1 if one is below its bar.

A bar is a ratio to a limit or a peer of the same run, never a time, and far enough below what is measured to hold on a machine
where others work as well: each was chosen from runs on a busy machine. So it reports
something that became much slower, or a ledger that does not balance, and nothing else.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench import end_to_end, hotpath, peers, scene, startup, store, table
from bench.sender import prepare
from bench.workload import CATCH_UP, LIVE, SINGLES, City, Traffic

OUT: Final = Path(".citybeat") / "bench-quick.json"
_MERGED: Final = "a bare COPY of the same rows, and their minutes merged"
#: Least ratio by name of its row and its limit; "": any limit. About 0.6 of the lowest of eleven runs on two cores with a load of
#: 5 to 9, with other work on both of them; the results of these runs stand beside each.
BARS: Final = {
    ("hot path, messages of 100 reports of one value", ""): 0.28,  # 0.47 to 0.66
    ("hot path, messages of 10 reports of one value", ""): 0.22,  # 0.36 to 0.49
    ("hot path, messages of 1 reports of one value", ""): 0.18,  # 0.30 to 0.46
    ("hot path, SenML packs of 100, base fields", ""): 0.19,  # 0.32 to 0.59
    ("hot path, SenML packs of 100, resolved records", ""): 0.22,  # 0.37 to 0.49
    ("hot path, SenML packs of 100 in CBOR, base fields", ""): 0.28,  # 0.47 to 0.57
    ("store, live", _MERGED): 0.47,  # 0.78 to 1.00
    ("store, catchup", _MERGED): 0.37,  # 0.62 to 0.90
    # The whole way needs both cores, the store alone one: other work counts twice.
    ("end to end, live, 1 worker(s)", ""): 0.30,  # 0.53 to 0.88
    ("end to end, catchup, 1 worker(s)", ""): 0.20,  # 0.34 to 0.84
    ("end to end, singles, 1 worker(s)", ""): 0.22,  # 0.38 to 0.84
    ("live, against paho and one INSERT a message", ""): 2.4,  # 4.0 to 11.2
    ("start-up, citybeat ingest", ""): 0.12,  # 0.21 to 0.38
}
#: Bytes: limit of the highest resident memory of a process of ingest.
MEMORY: Final = 300_000_000


def measure() -> list[dict[str, Any]]:
    """Run the measurements of `make bench` for a short time, all with one registered city, one after the other in event time."""
    rows = hotpath.measure(rounds=5)
    with scene.servers() as running, scene.opened(running, City().registrations()) as opened:
        alone, whole = {}, {}
        for shape in (LIVE, CATCH_UP):
            times = store.compare(opened, shape, rounds=6)
            rows += store.rows_of(shape, times)
            alone[shape.name] = times.per_s
        for shape in (LIVE, CATCH_UP):
            whole[shape.name] = end_to_end.against_limit(opened, shape, seconds=3.0, ramp=1.5, alone=alone[shape.name])
            rows.append(whole[shape.name])
        rows.append(end_to_end.against_limit(opened, SINGLES, seconds=3.0, ramp=1.5, alone=None))
        traffic = Traffic(city=City(), shape=LIVE, start=scene.next_start(opened))
        payloads = prepare(opened.place / "peer", traffic, traffic.city.sources, readings=60_000)
        ours = whole[LIVE.name]["ours_per_s"]
        rows.append(peers.against(opened, traffic, payloads, peers.PEERS[0], seconds=2.0, ours=ours))
        rows += startup.measure_in(opened, rounds=3, only=("ingest",))
    return rows


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Return each ratio below its bar, and each ledger that does not balance, as a sentence."""
    found = []
    for (name, limit), bar in BARS.items():
        (row,) = [row for row in rows if row["name"] == name and limit in {"", row["limit"]}]
        if row["ratio"] < bar:
            found.append(f"{name}: {row['ratio']:.2f} of {row['limit']}, and should be {bar:.2f} at least")
    for row in rows:
        found += [f"{row['name']}: {wrong}" for wrong in row.get("wrong", ())]
        if row.get("rss", 0) > MEMORY:
            found.append(f"{row['name']}: a process of ingest had {row['rss'] / 1e6:.0f} MB, the most is {MEMORY / 1e6:.0f}")
    return found


def main() -> int:
    """Measure, and compare with the bars."""
    began = time.monotonic()
    rows = measure()
    table.show(rows)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", "utf-8")
    wrong = missed(rows)
    print("\n".join(wrong) or f"every ratio is above its bar; {time.monotonic() - began:.0f} s")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
